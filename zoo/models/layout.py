"""How answers lie in rows: a prompt once with all its answers behind it, several such groups in one row, or padded.

*shared*: position ids restart behind the prompt for each answer, and a mask lets an answer see its prompt and
itself. Exact, and it saves the prompt's compute for pairs and groups; a text without a prompt that begins with
another one's shares it too, so that the prompt's own tokens can count. *packed*: rows hold several isolated answers,
each with its own prompt. *padded*: one answer a row with an ordinary attention mask, for models that fit neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.values.types import Answer, pad

LAYOUTS = ("shared", "packed", "padded")


class Segment(NamedTuple):
    """Columns start … stop of a row: each sees the columns of `prefix` and the earlier ones of its own segment."""

    start: int
    stop: int
    prefix: tuple[int, int]


@dataclass
class Rows:
    """Token rows ready for a model, and where the counted tokens are predicted.

    ids, positions int64 [R, L]; group int64 [R, L], which tokens belong together (-1 is padding); part int64
    [R, L], 0 for a prompt and k for the k-th answer behind it; lengths float32 [R, L], the length of the text a
    token belongs to. For each of N counted tokens: row, column of the position that predicts it, target id,
    answer index, index in the completion. home int64 [B], place int64 [B, P + C]: the row of each answer, and the
    columns of its prompt and completion behind each other.
    segments: what the mask says, in another form; complete where everything lies in one row. answers: what is laid out.
    """

    ids: Tensor
    positions: Tensor
    group: Tensor
    part: Tensor
    lengths: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    answer: Tensor
    index: Tensor
    home: Tensor
    place: Tensor
    padded: bool
    segments: list[Segment]
    answers: list[Answer]

    def mask(self) -> Tensor:
        """bool [R, 1, L, L] for packed and shared rows, int64 [R, L] for padded ones.

        A token sees earlier tokens of its group that are prompt or of its own part; padding sees itself.
        """
        if self.padded:
            return (self.group >= 0).long()
        same = self.group[:, :, None] == self.group[:, None, :]
        visible = (self.part[:, None, :] == 0) | (self.part[:, :, None] == self.part[:, None, :])
        causal = torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device).tril()
        return (same & visible & causal)[:, None]

    @property
    def plain(self) -> bool:
        """Whether every row is one text from its first column, for which the model's own causal mask is right."""
        return bool((self.part <= 1).all()) and bool((self.group <= 0).all())


@dataclass
class _Item:
    """One prompt with the answers that share it: indices into the answers."""

    prompt: Tensor
    members: list[int]
    length: int


def arrange(
    answers: Sequence[Answer], layout: str, balance: float = 1024, pad_id: int = 0, one_row: bool = False
) -> Rows:
    """Lay answers out in rows.

    balance: the row length at which attention costs as much as everything else; prompts are shared only where
    that saves more than the longer row costs. one_row: all in a single row without any padding, for an attention that
    reads `segments` and so pays for none of the pairs of tokens that do not see each other (not if padded).
    """
    one_row = one_row and layout != "padded"
    items = _items(answers, layout == "shared", math.inf if one_row else balance)
    bins = [[item] for item in items] if layout == "padded" else [items] if one_row else _fill(items)
    width = max(1, *(sum(item.length for item in row) for row in bins))
    writer = _Writer(len(bins), width, pad_id, len(answers))
    for row, content in enumerate(bins):
        writer.write_row(row, content, answers)
    return writer.rows(layout == "padded", answers)


def _items(answers: Sequence[Answer], share: bool, balance: float) -> list[_Item]:
    groups = _by_prompt(answers) if share else [[i] for i in range(len(answers))]

    def cost(length: int) -> float:
        return length * (1 + length / balance)

    items = []
    for members in groups:
        prompt = max((answers[i].prompt for i in members), key=len)
        sizes = [len(answers[i]) - len(prompt) for i in members]
        counts = [2**k for k in range(1, len(members).bit_length()) if 2**k < len(members)] + [len(members)]
        ways = [_in_parts(members, sizes, len(prompt), count) for count in reversed(counts)]
        cheapest = min(ways, key=lambda parts: sum(cost(length) for _, length in parts))
        if sum(cost(length) for _, length in cheapest) <= sum(cost(len(answers[i])) for i in members):
            items += [_Item(prompt, part, length) for part, length in cheapest]
        else:
            items += [_Item(answers[i].prompt, [i], len(answers[i])) for i in members]
    return items


def _in_parts(members: list[int], sizes: list[int], prompt: int, count: int) -> list[tuple[list[int], int]]:
    """A group of answers in parts of `count`, each behind a prompt of its own, with the length of each part."""
    starts = range(0, len(members), count)
    return [(members[at : at + count], prompt + sum(sizes[at : at + count])) for at in starts]


def _by_prompt(answers: Sequence[Answer]) -> list[list[int]]:
    """Indices of the answers to each prompt, and of the texts without one with the longest that they begin with."""
    groups: dict[bytes, list[int]] = {}
    for i, answer in enumerate(answers):
        groups.setdefault(_bytes(answer.prompt), []).append(i)
    for i in groups.pop(b"", []):
        text = _bytes(answers[i].completion)
        groups.setdefault(max(filter(text.startswith, groups), key=len, default=b""), []).append(i)
    return list(groups.values())


def _bytes(ids: Tensor) -> bytes:
    return ids.numpy(force=True).tobytes()


def _fill(items: list[_Item]) -> list[list[_Item]]:
    """First-fit decreasing into rows as long as the longest item: packing lengthens no row."""
    capacity = max(item.length for item in items)
    bins: list[list[_Item]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda item: -item.length):
        place = next((i for i, free in enumerate(room) if free >= item.length), None)
        if place is None:
            bins.append([item])
            room.append(capacity - item.length)
        else:
            bins[place].append(item)
            room[place] -= item.length
    return bins


class _Writer:
    def __init__(self, rows: int, width: int, pad_id: int, answers: int):
        self.ids = torch.full((rows, width), pad_id)
        self.positions = torch.zeros(rows, width, dtype=torch.long)
        self.group = torch.full((rows, width), -1)
        self.part = torch.zeros(rows, width, dtype=torch.long)
        self.lengths = torch.ones(rows, width)
        self.home = torch.zeros(answers, dtype=torch.long)
        self.place: list[Tensor] = [self.home[:0]] * answers
        self.places: list[tuple[Tensor, ...]] = []
        self.segments: list[Segment] = []

    def write_row(self, row: int, content: list[_Item], answers: Sequence[Answer]) -> None:
        start = 0
        for group, item in enumerate(content):
            prompt_end = start + len(item.prompt)
            longest = max(len(answers[i]) for i in item.members)
            self._put(row, start, item.prompt, 0, group, 0, longest)
            at = prompt_end
            self.segments.append(Segment(start, prompt_end, (start, start)))
            for part, member in enumerate(item.members, start=1):
                answer = answers[member]
                # Tokens of a text that are the prompt of another answer are in the row already.
                rest = answer.completion[len(item.prompt) - len(answer.prompt) :]
                self._put(row, at, rest, len(item.prompt), group, part, len(answer))
                columns = torch.cat([torch.arange(start, prompt_end), torch.arange(at, at + len(rest))])
                self._note(row, columns, member, answer)
                self.segments.append(Segment(at, at + len(rest), (start, prompt_end)))
                at += len(rest)
            start = at

    def _put(self, row: int, at: int, ids: Tensor, position: int, group: int, part: int, length: int) -> None:
        here = slice(at, at + len(ids))
        self.ids[row, here] = ids.cpu()
        self.positions[row, here] = torch.arange(position, position + len(ids))
        self.group[row, here] = group
        self.part[row, here] = part
        self.lengths[row, here] = length

    def _note(self, row: int, columns: Tensor, member: int, answer: Answer) -> None:
        """columns: of prompt and completion. A token is predicted at the one before it, and the very first nowhere."""
        self.home[member], self.place[member] = row, columns
        index = _predicted(answer).cpu().nonzero().squeeze(-1)
        column, target = columns[len(answer.prompt) + index - 1], answer.completion.cpu()[index]
        self.places.append((torch.full_like(index, row), column, target, torch.full_like(index, member), index))

    def rows(self, padded: bool, answers: Sequence[Answer]) -> Rows:
        row, column, target, answer, index = (torch.cat(parts) for parts in zip(*self.places, strict=True))
        fields = (self.ids, self.positions, self.group, self.part, self.lengths)
        place = pad(self.place, 0)
        return Rows(
            *fields, row, column, target, answer, index, self.home, place, padded, self.segments, list(answers)
        )  # fmt: skip


def counted(answers: Sequence[Answer]) -> Tensor:
    """Tokens with a log-probability: under the mask, and predicted by an earlier token. bool [B, T]."""
    return pad([_predicted(answer) for answer in answers], False)


def _predicted(answer: Answer) -> Tensor:
    """The mask, without a first token that nothing predicts; bool [C]."""
    mask = answer.mask.clone()
    if len(answer.prompt) == 0:
        mask[:1] = False
    return mask
