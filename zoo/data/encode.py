"""From checked records to token ids: rendering, tokenising, lengths, and the checks that only tokens allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from zoo.data.formats.message import RowError
from zoo.data.report import Report
from zoo.data.template import ChatTemplate, Piece
from zoo.types import Answer, Answers, Batch

Record = dict[str, Any]
BATCH = 1000
"""Rows tokenised in one call."""

ANSWER_FIELDS = {
    "demonstration": ("completion", "conversation"),
    "feedback": ("completion",),
    "preference": ("chosen", "rejected"),
}
CARRIED = ("label", "margin", "p_chosen", "ranks", "labels")
"""Fields that go from the record to the batch as they are."""


@dataclass
class Encoded:
    """Encoded records of one kind; each keeps its source under `record` and its row number under `row`."""

    kind: str
    records: list[Record] = field(default_factory=list)
    report: Report = field(default_factory=lambda: Report("encoding"))
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What was dropped here, and the sizes, as plain lines."""
        facts = self.as_json()
        lines = self.report.lines() if self.report.problems else []
        lines += [f"  {note}" for note in self.notes]
        if self.records and facts["tokens"]:
            lines.append(
                f"  {facts['tokens']:,} tokens, {facts['trained_tokens']:,} of them trained; prompts "
                f"{_range(facts['prompt_lengths'])}, answers {_range(facts['answer_lengths'])} tokens long."
            )
        return lines

    def answers(self) -> list[Answer]:
        """Every answer that is scored, once."""
        return [answer for record in self.records for answer in answers_of(record)]

    def as_json(self) -> dict[str, Any]:
        """The sizes for data.json."""
        answers = self.answers()
        trained = sum(int(answer.mask.sum()) for answer in answers)
        return {
            **self.report.as_json(),
            "tokens": sum(len(answer) for answer in answers),
            "trained_tokens": trained,
            "cut": sum(answer.cut for answer in answers),
            "ended": sum(answer.ended for answer in answers),
            "prompt_lengths": quantiles([len(answer.prompt) for answer in answers]),
            "answer_lengths": quantiles([len(answer.completion) for answer in answers]),
        }


def answers_of(record: Record) -> list[Answer]:
    """The answers of one encoded record; `conversation` counts only where it says more than `completion`."""
    found = [value for name, value in record.items() if isinstance(value, Answer) and name != "conversation"]
    for value in record.values():
        if isinstance(value, list) and value and isinstance(value[0], Answer):
            found += value
    return found


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Minimum, median, 95th percentile and maximum."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {"min": ordered[0], "median": ordered[last // 2], "p95": ordered[int(last * 0.95)], "max": ordered[-1]}


def _range(values: dict[str, int]) -> str:
    return f"{values['min']}–{values['max']} (median {values['median']})"


def encode(
    records: Sequence[Record],
    kind: str,
    template: ChatTemplate,
    *,
    max_length: int = 1024,
    long_rows: str = "drop",
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Encode canonical records. Rows that cannot be used are dropped and counted in the report, by reason.

    max_length: longest prompt plus completion, in tokens; longer rows are dropped, or with long_rows="cut" lose the
    end of their completion (they are then never taught an end-of-turn token that was not there).
    """
    out = Encoded(kind)
    out.report.rows = len(records)
    limit = _Limit(max_length, long_rows == "cut")
    for start in range(0, len(records), BATCH):
        part = records[start : start + BATCH]
        rows = [row for row in (_rendered(record, kind, template, out.report) for record in part) if row is not None]
        flat = template.answers_of([pieces for _, named in rows for _, pieces in named])
        found = iter(flat)
        for record, named in rows:
            try:
                _keep(out, record, kind, [(name, next(found)) for name, _ in named], limit)
            except RowError as error:
                out.report.add(record["row"], error)
        if progress is not None:
            progress(min(start + BATCH, len(records)), len(records))
    out.report.records = len(out.records)
    out.notes = sorted(template.notes)
    return out


@dataclass(frozen=True)
class _Limit:
    tokens: int
    cut: bool


def _rendered(record: Record, kind: str, template: ChatTemplate, report: Report) -> Any:
    """The record with the pieces of each of its answers, or None when the template refuses it."""
    try:
        return record, list(_named_pieces(record, kind, template))
    except RowError as error:
        report.add(record["row"], error)
        return None


def _named_pieces(record: Record, kind: str, template: ChatTemplate) -> Iterator[tuple[str, list[Piece]]]:
    tools = record.get("tools")
    prompt = record.get("prompt")
    if kind == "prompt":
        yield "prompt", [Piece(template._prompt_text(prompt, tools), False), Piece("", True)]
    elif kind == "text":
        yield "completion", [Piece(record["text"], True)]
    elif kind == "ranking":
        for answer in record["completions"]:
            yield "completions", template.pieces(prompt, answer, tools)
    elif kind == "stepwise":
        yield "completion", template.pieces(prompt, "\n".join(record["steps"]), tools)
    else:
        for name in ANSWER_FIELDS[kind]:
            source = "completion" if name == "conversation" else name
            yield name, template.pieces(prompt, record[source], tools, all_turns=name == "conversation")


def _keep(out: Encoded, record: Record, kind: str, answers: list[tuple[str, Answer]], limit: _Limit) -> None:
    """Add the encoded record, or raise RowError."""
    row = record["row"]
    encoded: Record = {"row": row}
    for name, answer in answers:
        if kind == "prompt":
            encoded["prompt"] = answer.prompt
            if len(answer.prompt) > limit.tokens:
                raise RowError("E_TOO_LONG", "prompt", f"has {len(answer.prompt)} tokens, allowed are {limit.tokens}")
            continue
        fitted = _fit(answer, name, limit)
        if fitted.cut and name != "conversation":
            out.report.add(row, RowError("W_TRUNCATED", name, f"{len(answer)} tokens were cut to {limit.tokens}"))
        if kind == "ranking":
            encoded.setdefault(name, []).append(fitted)
        else:
            encoded[name] = fitted
    _check_pair(encoded)
    encoded |= {name: record[name] for name in CARRIED if name in record}
    out.records.append({**encoded, "record": record})


def _fit(answer: Answer, name: str, limit: _Limit) -> Answer:
    content = int(answer.mask.sum()) - (1 if answer.ended else 0)
    if content < 1:
        raise RowError("E_NO_SUPERVISED_TOKENS", name, "has no token to train on but the end of the turn")
    if len(answer) <= limit.tokens:
        return answer
    room = limit.tokens - len(answer.prompt)
    if not limit.cut or room < 1 or not answer.mask[:room].any():
        raise RowError("E_TOO_LONG", name, f"prompt and answer have {len(answer)} tokens, allowed are {limit.tokens}")
    return replace(
        answer, completion=answer.completion[:room], mask=answer.mask[:room], ended=False, cut=True
    )


def _check_pair(encoded: Record) -> None:
    if "chosen" in encoded and torch.equal(encoded["chosen"].completion, encoded["rejected"].completion):
        raise RowError("E_IDENTICAL_PAIR", "chosen", "is the same as rejected after tokenising and cutting")


def default_collate(records: Sequence[Record]) -> Batch:
    """A batch with every field of the encoded records.

    Answers become `Answers`; numbers and booleans tensors, [B], NaN where a record has none; the rest lists.
    """
    names = dict.fromkeys(name for record in records for name in record)
    return Batch(**{name: _column([record.get(name) for record in records]) for name in names})


def _column(values: list[Any]) -> Any:
    given = [value for value in values if value is not None]
    if all(isinstance(value, Answer) for value in given):
        return Answers(given)
    if all(isinstance(value, bool) for value in given) and len(given) == len(values):
        return torch.tensor(values, dtype=torch.bool)
    if all(isinstance(value, int) for value in given) and len(given) == len(values):
        return torch.tensor(values, dtype=torch.long)
    if all(isinstance(value, (int, float)) for value in given):
        return torch.tensor([float("nan") if value is None else float(value) for value in values])
    return values
