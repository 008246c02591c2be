"""Cutting many answers into parts that fit a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def pack(
    groups: Iterable[Sequence[int]],
    sizes: Sequence[int],
    budget: int,
    *,
    shared: Sequence[int] | None = None,
    keep_groups: bool = False,
) -> list[list[int]]:
    """Indices of items in parts of at most `budget` tokens, or of one item, filled one after the other.

    groups: the indices in the order in which they are taken; sizes: tokens of each item; shared: of these, how many an
    item need not bring where the item before it is in the same part and of the same group (their prompt).
    keep_groups: a group begins a new part where it would not fit into the rest of this one but fits into a whole one.
    """
    parts: list[list[int]] = []
    room = 0
    for group in groups:
        whole = sum(sizes[i] for i in group)
        for position, i in enumerate(group):
            tokens = sizes[i] - (shared[i] if shared is not None and position else 0)
            needed = whole if keep_groups and not position and whole <= budget else tokens
            if not parts or needed > room:
                parts.append([])
                room, tokens = budget, sizes[i]
            parts[-1].append(i)
            room -= tokens
    return parts
