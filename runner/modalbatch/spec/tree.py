"""YAML text as plain data with the place of every node. Runs on: laptop.

Owns YAML 1.2 scalars, aliases and their limits, duplicate keys. Refuses tags, merge keys, several documents and
anything that expands: 20,000 values, 40 levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from modalbatch.errors import SpecError, SpecErrors
from modalbatch.spec import secrecy
from modalbatch.spec.mark import Mark, Trail, place
from modalbatch.spec.scalar import read_plain
from modalbatch.spec.syntax import explain_syntax

MAX_NODES = 20_000
MAX_DEPTH = 40
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Node:
    """A parsed node before aliases are expanded."""

    kind: str
    mark: Mark
    value: Any = None
    items: list[Node] = field(default_factory=list)
    is_open: bool = True


class TreeBuilder:
    """YAML events to nodes to plain data; one a document. Iterative: libyaml's own composer overflows its stack."""

    def __init__(self, path: str, lines: tuple[str, ...]) -> None:
        self.path = path
        self.lines = lines
        self.keys: dict[Trail, Mark] = {}
        self.values: dict[Trail, Mark] = {}
        self.problems: list[SpecError] = []
        self.n_nodes = 0

    def problem(self, mark: Mark, message: str, hint: str | None = None) -> None:
        """Note a mistake and go on."""
        self.problems.append(SpecError(message, where=place(self.path, mark, self.lines), hint=hint))

    def stop(self, mark: Mark, message: str, hint: str | None = None) -> SpecErrors:
        """A mistake after which nothing can be read."""
        error = SpecError(message, where=place(self.path, mark, self.lines), hint=hint)
        return SpecErrors([*self.problems, error])

    def parse(self, text: str) -> Node | None:
        """The document's root node, aliases as shared nodes."""
        root: Node | None = None
        stack: list[Node] = []
        anchors: dict[str, Node] = {}
        n_documents = 0
        for event in self._events(text):
            if isinstance(event, yaml.DocumentStartEvent):
                n_documents += 1
                if n_documents > 1:
                    mark = replace(_mark(event), width=3)
                    raise self.stop(mark, "a spec is one document", hint="write the second document to its own file")
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                stack.pop().is_open = False
            elif isinstance(event, yaml.NodeEvent):
                node = self._node(event, anchors)
                self.n_nodes += 1
                if self.n_nodes > MAX_NODES:
                    raise self.stop(node.mark, f"a spec has at most {MAX_NODES:,} values")
                if stack:
                    stack[-1].items.append(node)
                else:
                    root = node
                if isinstance(event, yaml.CollectionStartEvent):
                    stack.append(node)
                    if len(stack) > MAX_DEPTH:
                        raise self.stop(node.mark, f"nested deeper than {MAX_DEPTH} levels")
        return root

    def _events(self, text: str) -> Iterator[Any]:
        try:
            yield from yaml.parse(text, _LOADER)
        except yaml.MarkedYAMLError as error:
            raise self.stop(*explain_syntax(error, text)) from None
        except yaml.YAMLError as error:
            # The reader, before any mark: a character that YAML does not allow.
            position = getattr(error, "position", 0)
            position = position if isinstance(position, int) and position <= len(text) else 0
            bad = next((i for i, c in enumerate(text) if secrecy.unsafe_character(c)), position)
            line = text.count("\n", 0, bad) + 1
            column = bad - text.rfind("\n", 0, bad)
            code = f"U+{ord(text[bad]):04X}" if bad < len(text) else "a control character"
            raise self.stop(Mark(line, column), f"the character {code} is not allowed", hint="delete it") from None

    def _node(self, event: Any, anchors: dict[str, Node]) -> Node:
        mark = _mark(event)
        if isinstance(event, yaml.AliasEvent):
            node = anchors.get(str(event.anchor))
            if node is None:
                raise self.stop(mark, f"there is no anchor {secrecy.shown(f'&{event.anchor}')} above")
            if node.is_open:
                raise self.stop(mark, f"the alias {secrecy.shown(f'*{event.anchor}')} contains itself")
            return Node("alias", mark, value=node, is_open=False)
        if event.tag is not None:
            tag = secrecy.shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.problem(mark, f"the tag {tag} is not supported", hint="write the value without a tag")
        if isinstance(event, yaml.ScalarEvent):
            node = Node("scalar", mark, value=self._scalar(event, mark), is_open=False)
        else:
            node = Node("map" if isinstance(event, yaml.MappingStartEvent) else "list", mark)
        if event.anchor is not None:
            anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, mark: Mark) -> Any:
        code = secrecy.unsafe_character(event.value)
        if code:
            self.problem(mark, f"the character {code} is not allowed", hint="delete it")
        if event.style or event.tag is not None:
            return event.value
        try:
            return read_plain(event.value)
        except ValueError as error:
            self.problem(mark, str(error), hint="quote it if text is meant")
            return 0

    def expand(self, root: Node) -> dict[str, Any]:
        """Plain data of the root map; fills `keys` and `values`."""
        self.n_nodes = 0
        tree = self._expand(root, (), None)
        assert isinstance(tree, dict)
        return tree

    def _expand(self, node: Node, trail: Trail, at: Mark | None) -> Any:
        # The alias itself stands where it is used; what is inside it, where it was defined.
        while node.kind == "alias":
            at, node = at or node.mark, node.value
        self.values[trail] = at or node.mark
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES:
            raise self.stop(at or node.mark, f"aliases expand to more than {MAX_NODES:,} values")
        if len(trail) > MAX_DEPTH:
            raise self.stop(at or node.mark, f"nested deeper than {MAX_DEPTH} levels")
        if node.kind == "scalar":
            return node.value
        if node.kind == "list":
            return [self._expand(item, (*trail, i), None) for i, item in enumerate(node.items)]
        return self._expand_map(node, trail)

    def _expand_map(self, node: Node, trail: Trail) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            while key.kind == "alias":
                key = key.value  # noqa: PLW2901
            name = self._key(key)
            if name is None:
                continue
            at = (*trail, name)
            if name in out:
                first = self.keys[at].line
                self.problem(
                    key.mark, f"duplicate key {secrecy.shown(name)}, first on line {first}", "keep one of them"
                )
                continue
            self.keys[at] = key.mark
            out[name] = self._expand(value, at, None)
        return out

    def _key(self, key: Node) -> str | None:
        if key.kind != "scalar":
            self.problem(key.mark, "a key is text, not a list or map", hint="remove `?` or the brackets")
            return None
        if not isinstance(key.value, str):
            raw = secrecy.printable(key.mark.raw or "null")[:40]
            self.problem(key.mark, f"the key {secrecy.shown(raw)} is not text", hint=f'quote it: `"{raw}"`')
            return None
        if key.value == "<<":
            self.problem(key.mark, "merge keys (`<<`) are not supported", hint="write the keys out")
            return None
        return str(key.value)


def _mark(event: Any) -> Mark:
    start, end = event.start_mark, event.end_mark
    if isinstance(event, yaml.ScalarEvent):
        width = end.column - start.column if start.line == end.line else 1
        return Mark(start.line + 1, start.column + 1, max(1, width), event.value)
    return Mark(start.line + 1, start.column + 1)
