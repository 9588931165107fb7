"""`cat`: the live records of a sink, decompressed. Runs on: laptop. Streams: memory is one block."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from modalbatch.cli.operand import find_target, opened
from modalbatch.errors import NotFoundError, StateError, UsageError

if TYPE_CHECKING:
    from modalbatch.canonical import Json
    from modalbatch.sinks.objects import ObjectSink

_BLOCK_BYTES = 1 << 20


@click.command("cat")
@click.argument("operand", metavar="[OPERAND]", required=False)
@click.option("--dead", is_flag=True, help="Dead letters instead: each record with its error and position.")
@click.option("--error", "signature", metavar="SIG", help="Only dead letters of this kind, as `errors` names it.")
@click.option("-n", "most", type=int, metavar="N", help="Stop after N records.")
def command(operand: str | None, dead: bool, signature: str | None, most: int | None) -> None:
    """Print the live records of OPERAND (a spec, a sink, a job or a run; default: the last run here)."""
    if most is not None and most < 0:
        raise UsageError("`-n` must be at least 0")
    if signature is not None and not dead:
        raise UsageError("`--error` is about dead letters", hint=f"add --dead --error {signature}")
    with opened(find_target(operand)) as sink:
        write = sys.stdout.buffer.write
        left = most
        for block in _of_kind(sink, signature) if signature else _blocks(sink, dead=dead):
            if left is None:
                write(block)
                continue
            n_lines = block.count(b"\n")
            if n_lines >= left:
                write(b"".join(line + b"\n" for line in block.split(b"\n", left)[:left]))
                break
            write(block)
            left -= n_lines
        sys.stdout.buffer.flush()


def dead_letters(sink: ObjectSink) -> Iterator[Json]:
    """The live dead letters of a sink; lazy."""
    return (json.loads(line) for line in _lines(_blocks(sink, dead=True)))


def _of_kind(sink: ObjectSink, signature: str) -> Iterator[bytes]:
    """The lines of dead letters of one kind. Raises: UsageError when there is none."""
    from modalbatch.sinks.letter import failing

    found = False
    for line in _lines(_blocks(sink, dead=True)):
        if failing(json.loads(line)).signature == signature:
            found = True
            yield line + b"\n"
    if not found:
        raise UsageError(f"no dead letter is of kind `{signature}`", hint="`modalbatch errors` lists the kinds")


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def _blocks(sink: ObjectSink, *, dead: bool) -> Iterator[bytes]:
    """The decompressed bytes of all live parts (or objects of dead letters), one after the other."""
    from modalbatch.formats.compression import infer_compression, open_decompressor

    for _, receipt in sink.live(sink.newest()):
        for part in receipt.dead if dead else receipt.parts:
            try:
                raw = sink.store.open(part.name)
            except NotFoundError as error:
                raise StateError(
                    f"`{part.name}` of the manifest is missing", hint="`modalbatch verify` names all that is"
                ) from error
            with open_decompressor(raw, infer_compression(part.name), part.name) as plain:
                while block := plain.read(_BLOCK_BYTES):
                    yield block
