"""Modal's GPUs by name. Runs on: both. Owns the one list that specs and the local engine check requests against."""

from __future__ import annotations

#: GPU → most of them in one container (modal.com/docs/guide/gpu, November 2026).
GPUS: dict[str, int] = {
    "T4": 8,
    "L4": 8,
    "A10": 4,
    "L40S": 8,
    "A100": 8,
    "A100-40GB": 8,
    "A100-80GB": 8,
    "RTX-PRO-6000": 8,
    "H100": 8,
    "H100!": 8,
    "H200": 8,
    "B200": 8,
    "B200+": 8,
    "any": 8,
}
#: Modal's older names.
GPU_ALIASES: dict[str, str] = {"A10G": "A10"}


def canonical_name(text: str) -> str | None:
    """`h100` as `H100`, `a10g` as `A10`; None for what is no GPU of Modal's."""
    folded = {name.lower(): name for name in [*GPUS, *GPU_ALIASES]}
    name = folded.get(text.strip().lower())
    return None if name is None else GPU_ALIASES.get(name, name)


def canonical_request(text: str) -> str:
    """`h100:1` as `H100`, `a10g:2` as `A10:2`; the text must be a valid request."""
    kind, _, count = text.partition(":")
    kind = canonical_name(kind) or kind.strip().upper()
    return kind if count.strip() in ("", "1") else f"{kind}:{int(count)}"
