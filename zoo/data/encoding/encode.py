"""Encoding: canonical records to token ids, with what each algorithm kind needs, and a second look at the rows.

What was a good row as text may be a bad one as tokens: two answers may be equal after a cut, an answer may have lost
all its content, a row may be too long, the chat template may refuse it. Each such row is dropped or marked, with its
number and a reason. A cut answer never gets an end-of-turn token, or the model would learn to stop in mid-sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.data.encoding.collate import default_collate
from zoo.data.encoding.messages import as_turn
from zoo.data.encoding.rendering import Rendered
from zoo.data.encoding.statistics import main_answers, measure, quantiles, summary
from zoo.data.encoding.template import ChatTemplate
from zoo.data.kinds import KINDS, Record
from zoo.data.report import Report
from zoo.data.row_errors import RowError
from zoo.errors import ZooError, nearest
from zoo.values.answers import answers_in
from zoo.values.types import Answer

__all__ = ["Encoded", "default_collate", "encode", "quantiles"]

ROWS_AT_ONCE = 1000
LONG_ROWS = ("drop", "cut", "split")
FEW_TOKENS = 16
"""Answers of at most so many tokens are looked at for having content at all."""


@dataclass
class Encoded(Sequence[dict[str, Any]]):
    """Encoded records of one kind, and what became of the rows on the way."""

    kind: str
    records: list[dict[str, Any]]
    report: Report
    notes: list[str]
    statistics: dict[str, Any]
    """As `zoo.data.encoding.statistics.measure` gives them."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def answers(self) -> list[Answer]:
        """Every answer once; a conversation counts once, however many of its turns are trained."""
        return [answer for record in self.records for answer in main_answers(record)]

    def lines(self) -> list[str]:
        """What was dropped here, what was decided, and the sizes, as plain lines."""
        lines = self.report.lines() if self.report.problems else []
        return [*lines, *(f"  {line}" for line in [*self.notes, *summary(self.statistics)])]

    def as_json(self) -> dict[str, Any]:
        """The same for data.json."""
        return {**self.report.as_json(), **self.statistics, "notes": list(self.notes)}


def encode(
    records: Sequence[Record],
    kind: str,
    template: ChatTemplate,
    *,
    max_length: int = 1024,
    long_rows: str = "drop",
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Encode records of one kind. Each result has `row` (its place if it has none), `record`, and by kind:

    demonstration: `completion` and `conversation` (all assistant turns trained; the same object where equal);
    preference: `chosen`, `rejected`, maybe `margin`, `p_chosen`; feedback: `completion`, `label`;
    prompt: `prompt`, int64 ids [P]; ranking: `completions`, `ranks`; text: `completion`;
    stepwise: `completion`, `step_ends` (the last token of each step, as positions in the completion), `labels`.

    max_length: tokens of a prompt and its answer; longer rows are dropped, or with long_rows="cut" the end of the
    answer is. With long_rows="split" a longer text becomes several records, no token of it being lost.
    Raises ZooError for options that cannot be meant.
    """
    _check_options(kind, max_length, long_rows)
    records = _numbered(records)
    report = Report("As tokens", rows=len(records))
    encoded: list[dict[str, Any]] = []
    split: list[int] = []
    for start in range(0, len(records), ROWS_AT_ONCE):
        part = records[start : start + ROWS_AT_ONCE]
        for record, fields, warnings in _tokenized(part, kind, template, report):
            if long_rows == "split" and len(fields["completion"]) > max_length:
                pieces = split_text(fields["completion"], max_length)
                encoded += [{"row": record["row"], "completion": piece, "record": record} for piece in pieces]
                split.append(len(pieces))
                continue
            try:
                kept, was_cut = _fitted(fields, max_length, long_rows == "cut")
                _check(kept, kind, template)
            except RowError as error:
                report.add(record["row"], error)
                continue
            if was_cut:
                warnings = [*warnings, RowError("W_TRUNCATED", "completion", f"cut at {max_length} tokens")]
            for warning in warnings:
                report.add(record["row"], warning)
            encoded.append({"row": record["row"], **kept, "record": record})
        if progress is not None:
            progress(start + len(part), len(records))
    report.records = len(encoded)
    notes = list(template.notes)
    if split:
        notes.append(f"{len(split):,} texts longer than {max_length:,} tokens became {sum(split):,} pieces.")
    return Encoded(kind, encoded, report, notes, measure(encoded, template.eos_ids))


def _check_options(kind: str, max_length: int, long_rows: str) -> None:
    if kind not in KINDS:
        raise ZooError(f"There is no data kind '{kind}'.{nearest(kind, KINDS)}", f"Kinds: {', '.join(KINDS)}.")
    if long_rows not in LONG_ROWS:
        raise ZooError(
            f"long_rows is '{long_rows}'.{nearest(long_rows, LONG_ROWS)}", "Give drop, cut, or for text split."
        )
    if long_rows == "split" and kind != "text":
        raise ZooError(f"Only text can be split, and the data is of kind '{kind}'.", "Give --long-rows drop or cut.")
    if max_length < 2:
        raise ZooError(f"A max_length of {max_length} leaves no room for a prompt and an answer.", "Give 2 or more.")


def _numbered(records: Sequence[Record]) -> list[Record]:
    """The records; those made in code, such as an evaluation's own, get their place from 1 as their row."""
    return [record if "row" in record else {**record, "row": place} for place, record in enumerate(records, 1)]


# -- record → text → tokens --------------------------------------------------------------------------------------


def _tokenized(
    records: Sequence[Record], kind: str, template: ChatTemplate, report: Report
) -> Iterator[tuple[Record, dict[str, Any], list[RowError]]]:
    """Records with their fields tokenised, all texts in one call, and what should be known of each.

    Rows that cannot be rendered are reported.
    """
    plans: list[tuple[Record, dict[str, Any]]] = []
    for record in records:
        try:
            plans.append((record, _rendered(record, kind, template)))
        except RowError as error:
            report.add(record["row"], error)
    rendered = {id(one): one for _, fields in plans for one in _parts(fields, Rendered)}
    tokens = dict(zip(rendered, template.tokenize(list(rendered.values())), strict=True))
    prompts = iter(template.tokens.ids([fields["prompt"] for _, fields in plans if "prompt" in fields]))
    for record, fields in plans:
        warnings = {warning.code: warning for one in _parts(fields, Rendered) for warning in one.warnings}
        if "prompt" in fields:
            warnings = {w.code: w for w in template.prompt_warnings(record["prompt"], record.get("tools"))}
            fields["prompt"] = torch.tensor(next(prompts), dtype=torch.long)
        if kind == "stepwise":
            fields["step_ends"] = tokens[id(fields["completion"])][1]
        yield record, {name: _replaced(value, tokens) for name, value in fields.items()}, list(warnings.values())


def _rendered(record: Record, kind: str, template: ChatTemplate) -> dict[str, Any]:
    """The fields of a record, answers as rendered text."""
    tools, prompt = record.get("tools"), record.get("prompt")
    if kind == "text":
        return {"completion": template.render_text(record["text"])}
    assert prompt is not None
    if kind == "prompt":
        return {"prompt": template.prompt_text(prompt, tools)}
    if kind == "preference":
        sides = {side: template.render(prompt, record[side], tools) for side in ("chosen", "rejected")}
        given = {name: record[name] for name in ("margin", "p_chosen") if record.get(name) is not None}
        return {**sides, **{name: float(value) for name, value in given.items()}}
    if kind == "ranking":
        answers = [template.render(prompt, answer, tools) for answer in record["completions"]]
        return {"completions": answers, "ranks": list(record["ranks"])}
    if kind == "stepwise":
        return {"completion": render_steps(record, template), "labels": list(record["labels"])}
    completion = template.render(prompt, record["completion"], tools)
    if kind == "feedback":
        return {"completion": completion, "label": bool(record["label"])}
    return {"completion": completion, "conversation": _all_turns(record, template, completion)}


def _all_turns(record: Record, template: ChatTemplate, completion: Rendered) -> Rendered:
    """The same conversation with the assistant's turns in the prompt trained too."""
    prompt, answer = record["prompt"], record["completion"]
    if isinstance(prompt, str) or all(turn["role"] != "assistant" for turn in prompt):
        return completion
    if isinstance(answer, str):
        answer = [as_turn(answer, "assistant")]
    return template.render_conversation(prompt + answer, record.get("tools"))


def render_steps(record: Record, template: ChatTemplate) -> Rendered:
    """The steps joined by line breaks, with a mark behind each step and its line break."""
    steps = [step.strip() for step in record["steps"]]
    rendered = template.render(record["prompt"], "\n".join(steps), record.get("tools"))
    marks, place = [], rendered.spans[-1][0]
    for k, step in enumerate(steps):
        found = rendered.text.find(step, place)
        if found < 0:
            raise RowError("E_TEMPLATE", f"steps[{k}]", "the chat template does not write this step as it is")
        place = found + len(step)
        # The line break goes to the step before it, so that no token begins in one step and ends in the next.
        place += k < len(steps) - 1 and rendered.text.startswith("\n", place)
        marks.append(place)
    return replace(rendered, marks=tuple(marks))


def _parts(fields: Mapping[str, Any], wanted: type) -> Iterator[Any]:
    for value in fields.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, wanted):
                yield one


def _replaced(value: Any, tokens: Mapping[int, tuple[Answer, list[int]]]) -> Any:
    if isinstance(value, list):
        return [_replaced(one, tokens) for one in value]
    return tokens[id(value)][0] if isinstance(value, Rendered) else value


# -- tokens that can be trained on -------------------------------------------------------------------------------


def _fitted(fields: dict[str, Any], max_length: int, cut: bool) -> tuple[dict[str, Any], bool]:
    """The fields with their answers cut to the length, and whether one was. Raises RowError E_TOO_LONG."""
    if "prompt" in fields and len(fields["prompt"]) >= max_length:
        raise _too_long(len(fields["prompt"]), max_length, "the prompt")
    fitted: dict[int, Answer] = {}
    for answer in answers_in(fields):
        if len(answer) > max_length:
            if not cut:
                raise _too_long(len(answer), max_length, "prompt and answer")
            fitted[id(answer)] = _cut(answer, max_length)
    if not fitted:
        return fields, False
    kept: dict[str, Any] = {
        name: [fitted.get(id(one), one) for one in value] if isinstance(value, list) else fitted.get(id(value), value)
        for name, value in fields.items()
    }
    if "step_ends" in kept:
        kept["step_ends"] = [end for end in fields["step_ends"] if end < len(kept["completion"].completion)]
        kept["labels"] = fields["labels"][: len(kept["step_ends"])]
    return kept, True


def _cut(answer: Answer, max_length: int) -> Answer:
    room = max_length - len(answer.prompt)
    if room < 1:
        raise _too_long(len(answer.prompt), max_length, "the prompt alone")
    return Answer(answer.prompt, answer.completion[:room], answer.mask[:room], ended=False, cut=True)


def split_text(text: Answer, max_length: int) -> list[Answer]:
    """Pieces of at most max_length tokens; each but the first begins with the last token of the one before it.

    That token stands in the prompt, so that every token of the text is predicted once.
    """
    ids, mask, room = text.completion, text.mask, max_length - 1
    pieces = [Answer(text.prompt, ids[:max_length], mask[:max_length], ended=False, cut=False)]
    for start in range(max_length, len(ids), room):
        here = slice(start, start + room)
        last = start + room >= len(ids)
        pieces.append(Answer(ids[start - 1 : start], ids[here], mask[here], ended=text.ended and last, cut=False))
    return pieces


def _too_long(tokens: int, max_length: int, what: str) -> RowError:
    return RowError("E_TOO_LONG", "prompt", f"{what}: {tokens:,} tokens, more than the {max_length:,} of max_length")


def _check(fields: Mapping[str, Any], kind: str, template: ChatTemplate) -> None:
    """Raise RowError when nothing can be learned from the tokens."""
    for answer in answers_in(fields):
        if not _has_content(answer, template):
            after = " after the cut" if answer.cut else ""
            raise RowError("E_NO_SUPERVISED_TOKENS", "completion", f"no content is left to train on{after}")
    if kind == "stepwise" and not fields["step_ends"]:
        raise RowError("E_NO_SUPERVISED_TOKENS", "steps", "no step is left after the cut")
    if kind == "preference" and _equal(fields["chosen"], fields["rejected"]):
        after = "after the cut " if fields["chosen"].cut else ""
        raise RowError("E_IDENTICAL_PAIR", "chosen", f"{after}has the same tokens as rejected")
    if kind == "ranking" and all(_equal(fields["completions"][0], other) for other in fields["completions"][1:]):
        raise RowError("E_IDENTICAL_PAIR", "completions", "all answers have the same tokens")


def _has_content(answer: Answer, template: ChatTemplate) -> bool:
    """Whether a trained token is more than white space and special tokens (an end of turn alone is no content)."""
    trained = answer.completion[answer.mask]
    if len(trained) > FEW_TOKENS:
        return True
    content = [number for number in trained.tolist() if number not in template.tokens.special_ids]
    return bool(content) and bool(template.tokenizer.decode(content).strip())


def _equal(a: Answer, b: Answer) -> bool:
    return torch.equal(a.completion, b.completion) and torch.equal(a.prompt, b.prompt)
