"""A block of encoded records as columns of numbers, and the way back to records.

Columns are numpy arrays: they cross to another process and into a file without a copy per record. Tensors are made when
a record is read.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from zoo.data.kinds import Record
from zoo.data.report import Problem
from zoo.values.types import Answer

VERSION = 2
"""Raised by whoever changes what encoding gives, so that what an older version has stored is not read."""
ANSWER_NAMES = ("completion", "conversation", "chosen", "rejected", "completions", "prompt", "marked")
"""The fields of an encoded record that hold token ids. Stored columns name them by their place: append only."""
ENTRY = 8
"""Numbers of an answer: name, prompt begin and end, completion begin and end, first span and last + 1, flags."""
NAME, PROMPT, COMPLETION, SPANS, FLAGS = 0, 1, 3, 5, 7
"""Places in an entry; of prompt, completion and spans, that of the begin."""
ENDED, CUT = 1, 2
NUMBERS = {"margin": float, "p_chosen": float, "label": bool}
Numbers = numpy.ndarray[Any, numpy.dtype[Any]]


class PlainAnswer(NamedTuple):
    """What an `Answer` holds, in plain Python. spans: the trained tokens (start, end), as positions in completion."""

    prompt: list[int]
    completion: list[int]
    spans: list[tuple[int, int]]
    ended: bool = True
    cut: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt and the completion."""
        return len(self.prompt) + len(self.completion)

    @property
    def trained(self) -> list[int]:
        """The ids of the trained tokens."""
        return [number for start, end in self.spans for number in self.completion[start:end]]

    def tensors(self) -> Answer:
        """The same as tensors."""
        mask = _mask(len(self.completion), self.spans)
        prompt, completion = (torch.tensor(ids, dtype=torch.long) for ids in (self.prompt, self.completion))
        return Answer(prompt, completion, mask, ended=self.ended, cut=self.cut)


def spans_of(spans: Iterable[tuple[int, int]], first: int = 0) -> list[tuple[int, int]]:
    """Spans in ascending order, those that meet joined, without the tokens before `first`."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        start = max(start, first)
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


class Ragged(NamedTuple):
    """Rows of different lengths; row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: Numbers
    """int32 [T]"""
    offsets: Numbers
    """int64 [N + 1]"""

    def row(self, index: int) -> Numbers:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclass
class Block:
    """The kept records of a block of N rows, in order."""

    kind: str
    rows: Numbers
    """Row numbers, int64 [N]; the pieces of a split text repeat theirs."""
    tokens: Ragged
    """Every id of a record; what several answers share stands there once."""
    answers: Ragged
    """ENTRY numbers for each answer. Entries that differ only in the name are the same answer under two names."""
    spans: Ragged
    """Pairs (start, end) of trained tokens, as positions in the completion."""
    step_ends: Ragged
    """The last token of each step of an answer in steps, as positions in the completion."""
    numbers: dict[str, Numbers]
    """Columns [N] of NUMBERS, those that a record has; a margin or p_chosen that a record lacks is NaN."""
    records: Sequence[Record]
    """The canonical records, which are the objects that were encoded."""
    problems: list[Problem]
    count: int
    """Records that were encoded, dropped ones included."""
    pieces: list[int] = field(default_factory=list)
    """The number of pieces of each text that was split."""

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> dict[str, Any]:
        """One encoded record, as `zoo.data.encoding.encode.encode` describes it."""
        numbers = {name: column[index] for name, column in self.numbers.items()}
        return record_of(
            self.kind, int(self.rows[index]), self.tokens.row(index), self.answers.row(index), self.spans.row(index),
            self.step_ends.row(index), numbers, self.records[index],
        )  # fmt: skip

    # -- all answers at once ---------------------------------------------------------------------------------------

    def entries(self) -> Numbers:
        """The entries of all answers, int64 [A, ENTRY]."""
        return self.answers.values.reshape(-1, ENTRY).astype(numpy.int64)

    def owners(self) -> Numbers:
        """The index of the record of each answer, int64 [A]."""
        return numpy.repeat(numpy.arange(len(self)), numpy.diff(self.answers.offsets) // ENTRY)

    def trained(self) -> Numbers:
        """The trained tokens of each answer, int64 [A]."""
        spans = self.spans.values.reshape(-1, 2).astype(numpy.int64)
        before = numpy.concatenate([[0], numpy.cumsum(spans[:, 1] - spans[:, 0])])
        begin = self.spans.offsets[:-1][self.owners()] // 2
        entries = self.entries()
        return before[begin + entries[:, SPANS + 1]] - before[begin + entries[:, SPANS]]

    def end_trained(self, eos_ids: Iterable[int]) -> Numbers:
        """Whether the last token of each answer is one of `eos_ids` and is trained, bool [A]."""
        entries, owners = self.entries(), self.owners()
        last = self.tokens.offsets[:-1][owners] + entries[:, COMPLETION + 1] - 1
        span = self.spans.offsets[:-1][owners] // 2 + entries[:, SPANS + 1] - 1
        some = entries[:, SPANS + 1] > entries[:, SPANS]
        ends = numpy.zeros(len(entries), dtype=bool)
        reached = self.spans.values.reshape(-1, 2)[span[some], 1] == token_lengths(entries[some])
        ends[some] = reached & numpy.isin(self.tokens.values[last[some]], list(eos_ids))
        return ends


def prompt_lengths(entries: Numbers) -> Numbers:
    """Tokens of the prompts of entries."""
    return entries[:, PROMPT + 1] - entries[:, PROMPT]


def token_lengths(entries: Numbers) -> Numbers:
    """Tokens of the completions of entries."""
    return entries[:, COMPLETION + 1] - entries[:, COMPLETION]


def record_of(
    kind: str, row: int, tokens: Numbers, answers: Numbers, spans: Numbers, step_ends: Numbers,
    numbers: Mapping[str, Any], record: Record,
) -> dict[str, Any]:  # fmt: skip
    """An encoded record from its columns. numbers: NaN, or left out, where the record has none."""
    ids = torch.from_numpy(tokens.astype(numpy.int64))
    fields = _answers(ids, answers.reshape(-1, ENTRY).tolist(), spans.reshape(-1, 2).tolist())
    for name, value in numbers.items():
        if value == value:
            fields[name] = NUMBERS[name](value)
    if kind == "ranking":
        fields["ranks"] = list(record["ranks"])
    if kind == "stepwise":
        fields = {**fields, "labels": list(record["labels"])[: len(step_ends)], "step_ends": step_ends.tolist()}
    return {"row": row, **fields, "record": record}


def _answers(ids: Tensor, entries: Sequence[Sequence[int]], spans: Sequence[Sequence[int]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    prompts: dict[tuple[int, int], Tensor] = {}
    made: dict[tuple[int, ...], Answer] = {}
    for number, *entry in entries:
        name, begin, end = ANSWER_NAMES[number], entry[0], entry[1]
        prompt = prompts.setdefault((begin, end), ids[begin:end])
        if name == "prompt":
            fields[name] = prompt
            continue
        answer = made.get(tuple(entry)) or made.setdefault(tuple(entry), _answer(prompt, ids, entry, spans))
        fields[name] = [*fields.get(name, ()), answer] if name == "completions" else answer
    return fields


def _answer(prompt: Tensor, ids: Tensor, entry: Sequence[int], spans: Sequence[Sequence[int]]) -> Answer:
    _, _, begin, end, first, last, flags = entry
    mask = _mask(end - begin, spans[first:last])
    return Answer(prompt, ids[begin:end], mask, ended=bool(flags & ENDED), cut=bool(flags & CUT))


def _mask(length: int, spans: Iterable[Sequence[int]]) -> Tensor:
    mask = torch.zeros(length, dtype=torch.bool)
    for start, end in spans:
        mask[start:end] = True
    return mask


# -- from plain answers to columns -------------------------------------------------------------------------------


class Columns:
    """The columns of a block while it is filled."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.records: list[Record] = []
        self._ragged = {name: (array("i"), array("q", [0])) for name in ("tokens", "answers", "spans", "step_ends")}
        self._numbers: dict[str, list[Any]] = {}

    def add(self, record: Record, fields: Mapping[str, Any]) -> None:
        """Append a record with its fields: plain answers, lists of them, a prompt's ids, numbers, ends of steps."""
        tokens, answers, spans = _layout(fields)
        for name, values in zip(self._ragged, (tokens, answers, spans, fields.get("step_ends", ())), strict=True):
            column, offsets = self._ragged[name]
            column.extend(values)
            offsets.append(len(column))
        for name in filter(fields.__contains__, NUMBERS):
            numbers = self._numbers.setdefault(name, [])
            numbers += [numpy.nan] * (len(self.rows) - len(numbers)) + [fields[name]]
        self.rows.append(record["row"])
        self.records.append(record)

    def block(self, kind: str, problems: list[Problem], count: int, pieces: list[int]) -> Block:
        """The block of what was added."""
        ragged: dict[str, Any] = {
            name: Ragged(numpy.frombuffer(values, numpy.int32), numpy.frombuffer(offsets, numpy.int64))
            for name, (values, offsets) in self._ragged.items()
        }
        rows = numpy.array(self.rows, dtype=numpy.int64)
        return Block(
            kind, rows, **ragged, numbers=self._columns(), records=self.records, problems=problems, count=count,
            pieces=pieces,
        )  # fmt: skip

    def _columns(self) -> dict[str, Numbers]:
        missing = {name: [numpy.nan] * (len(self.rows) - len(column)) for name, column in self._numbers.items()}
        return {name: numpy.array(column + missing[name]) for name, column in self._numbers.items()}


def _layout(fields: Mapping[str, Any]) -> tuple[list[int], list[int], list[int]]:
    """The tokens, the entries of the answers and the spans of a record."""
    tokens: list[int] = []
    entries: list[int] = []
    spans: list[int] = []
    prompts: list[tuple[list[int], int]] = []
    made: dict[int, list[int]] = {}
    for name, answer in _named(fields):
        if id(answer) not in made:
            begin = next((place for ids, place in prompts if ids is answer.prompt or ids == answer.prompt), None)
            if begin is None:
                begin = len(tokens)
                prompts.append((answer.prompt, begin))
                tokens += answer.prompt
            first = len(spans) // 2
            spans += itertools.chain.from_iterable(answer.spans)
            made[id(answer)] = [
                begin, begin + len(answer.prompt), len(tokens), len(tokens) + len(answer.completion), first,
                len(spans) // 2, ENDED * answer.ended | CUT * answer.cut,
            ]  # fmt: skip
            tokens += answer.completion
        entries += [ANSWER_NAMES.index(name), *made[id(answer)]]
    return tokens, entries, spans


def _named(fields: Mapping[str, Any]) -> Iterable[tuple[str, PlainAnswer]]:
    for name, value in fields.items():
        if name == "prompt":
            yield name, PlainAnswer(value, [], [])
        elif name in ANSWER_NAMES:
            yield from ((name, answer) for answer in (value if name == "completions" else [value]))
