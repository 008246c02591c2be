"""The stages of a record on its way to token ids: text, tokens, length, content.

What was a good row as text may be a bad one as tokens: two answers may be equal after a cut, an answer may have lost
all its content, a row may be too long, the chat template may refuse it. Each such row is dropped or marked, with its
number and a reason. A cut answer never gets an end-of-turn token, or the model would learn to stop in mid-sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.data.encoding.block import PlainAnswer
from zoo.data.encoding.rendering import Rendered
from zoo.data.encoding.template import ChatTemplate, extras_of
from zoo.data.formats.message import as_messages
from zoo.data.kinds import Message, Record
from zoo.data.report import Report
from zoo.data.row_errors import RowError

FEW_TOKENS = 16
"""Answers of at most so many tokens are checked for having content at all."""


@dataclass
class Row:
    """A record on its way: its fields, which become tokens, and what should be known of it. piece: a part of a text."""

    record: Record
    fields: dict[str, Any]
    warnings: list[RowError] = field(default_factory=list)
    piece: bool = False

    @property
    def number(self) -> Any:
        return self.record["row"]


def rendered(records: Iterable[Record], kind: str, template: ChatTemplate, report: Report) -> Iterator[Row]:
    """Records as texts, by the chat template; the report gets those that it refuses."""
    for record in records:
        try:
            with template.memo:
                fields = _fields(record, kind, template)
        except RowError as error:
            report.add(record["row"], error)
            continue
        yield Row(record, fields, [warning for text in _texts(fields) for warning in text.warnings])


def tokenized(rows: Iterable[Row], template: ChatTemplate) -> Iterator[Row]:
    """Rows with token ids in the place of texts; all texts are tokenised in one call."""
    rows = list(rows)
    texts = {id(text): text for row in rows for text in _texts(row.fields)}
    tokens = dict(zip(texts, template.plain(list(texts.values())), strict=True))
    prompts = iter(template.tokens.ids([row.fields["prompt"] for row in rows if "prompt" in row.fields]))
    for row in rows:
        fields, record = row.fields, row.record
        warnings = {warning.code: warning for warning in row.warnings}
        if "prompt" in fields:
            warnings = {w.code: w for w in template.prompt_warnings(record["prompt"], **extras_of(record))}
            fields["prompt"] = next(prompts)
        if "labels" in fields:
            # Of an answer in steps, whose text has a mark behind each.
            fields["step_ends"] = tokens[id(fields["completion"])][1]
        ids = {name: _with_tokens(value, tokens) for name, value in fields.items()}
        yield Row(record, ids, list(warnings.values()))


def fitted(rows: Iterable[Row], max_length: int, long_rows: str, report: Report, split: list[int]) -> Iterator[Row]:
    """Rows of at most max_length tokens: longer ones are dropped, cut, or as texts split.

    split: gets the number of pieces of each text that is split.
    """
    for row in rows:
        if long_rows == "split" and row.fields["completion"].length > max_length:
            pieces = split_text(row.fields["completion"], max_length)
            split.append(len(pieces))
            yield from (Row(row.record, {"completion": piece}, piece=True) for piece in pieces)
            continue
        try:
            fields, was_cut = _cut_to_length(row.fields, max_length, long_rows == "cut")
        except RowError as error:
            report.add(row.number, error)
            continue
        cut = [RowError("W_TRUNCATED", "completion", f"cut at {max_length} tokens")] if was_cut else []
        yield Row(row.record, fields, [*row.warnings, *cut])


def trainable(rows: Iterable[Row], kind: str, template: ChatTemplate, report: Report) -> Iterator[Row]:
    """Rows with something to learn from; the report gets their warnings. Pieces of a text are all kept."""
    for row in rows:
        if not row.piece:
            try:
                _check(row.fields, kind, template)
            except RowError as error:
                report.add(row.number, error)
                continue
        for warning in row.warnings:
            report.add(row.number, warning)
        yield row


# -- to text -----------------------------------------------------------------------------------------------------


def _fields(record: Record, kind: str, template: ChatTemplate) -> dict[str, Any]:
    """The fields of a record, answers as rendered text."""
    extras, prompt = extras_of(record), record.get("prompt")
    if kind == "text":
        return {"completion": template.render_text(record["text"])}
    assert prompt is not None
    if kind == "prompt":
        return {"prompt": template.prompt_text(prompt, **extras)}
    if kind == "preference":
        sides = {side: template.render(prompt, record[side], **extras) for side in ("chosen", "rejected")}
        given = {name: record[name] for name in ("margin", "p_chosen") if record.get(name) is not None}
        return {**sides, **{name: float(value) for name, value in given.items()}}
    if kind == "ranking":
        answers = [template.render(prompt, answer, **extras) for answer in record["completions"]]
        return {"completions": answers, "ranks": list(record["ranks"])}
    if kind == "stepwise":
        return {"completion": render_steps(record, template), "labels": list(record["labels"])}
    completion = template.render(prompt, record["completion"], **extras)
    if kind == "feedback":
        return {"completion": completion, "label": bool(record["label"])}
    conversation = _all_turns(record, template, completion)
    return {"completion": completion, "conversation": conversation, **_marked_turns(record, template, conversation)}


def _all_turns(record: Record, template: ChatTemplate, completion: Rendered) -> Rendered:
    """The same conversation with the assistant's turns in the prompt trained too."""
    prompt = record["prompt"]
    if isinstance(prompt, str) or all(turn["role"] != "assistant" for turn in prompt):
        return completion
    return template.render_conversation(_turns(record, template), **extras_of(record))


def _marked_turns(record: Record, template: ChatTemplate, conversation: Rendered) -> dict[str, Rendered]:
    """The conversation with only those turns trained that say so, if any does and the template does not rewrite it."""
    sides = [value for value in (record["prompt"], record["completion"]) if not isinstance(value, str)]
    if not any(turn["role"] == "assistant" and turn.get("train") for side in sides for turn in side):
        return {}
    try:
        marked = template.render_conversation(_turns(record, template), **extras_of(record), only_marked=True)
    except RowError:
        return {}
    return {"marked": conversation if marked.spans == conversation.spans else marked}


def _turns(record: Record, template: ChatTemplate) -> list[Message]:
    """The turns of a demonstration."""
    return as_messages(record["prompt"], "user") + template.turns(record["completion"], "assistant")


def render_steps(record: Record, template: ChatTemplate) -> Rendered:
    """The steps joined by line breaks, with a mark after each step and its line break."""
    steps = [step.strip() for step in record["steps"]]
    rendered = template.render(record["prompt"], "\n".join(steps), **extras_of(record))
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


def _texts(fields: Mapping[str, Any]) -> Iterator[Rendered]:
    for value in fields.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Rendered):
                yield item


def _with_tokens(value: Any, tokens: Mapping[int, tuple[PlainAnswer, list[int]]]) -> Any:
    if isinstance(value, list):
        return [_with_tokens(item, tokens) for item in value]
    return tokens[id(value)][0] if isinstance(value, Rendered) else value


# -- to a length -------------------------------------------------------------------------------------------------


def _cut_to_length(fields: dict[str, Any], max_length: int, cut: bool) -> tuple[dict[str, Any], bool]:
    """The fields with their answers cut to the length, and whether one was. Raises RowError E_TOO_LONG."""
    if "prompt" in fields and len(fields["prompt"]) >= max_length:
        raise _too_long(len(fields["prompt"]), max_length, "the prompt")
    shorter: dict[int, PlainAnswer] = {}
    for answer in plain_answers(fields):
        if answer.length > max_length:
            if not cut:
                raise _too_long(answer.length, max_length, "prompt and answer")
            shorter[id(answer)] = _cut(answer, max_length)
    if not shorter:
        return fields, False
    kept: dict[str, Any] = {
        name: [shorter.get(id(item), item) for item in value]
        if isinstance(value, list)
        else shorter.get(id(value), value)
        for name, value in fields.items()
    }
    if "step_ends" in kept:
        kept["step_ends"] = [end for end in fields["step_ends"] if end < len(kept["completion"].completion)]
        kept["labels"] = fields["labels"][: len(kept["step_ends"])]
    return kept, True


def plain_answers(fields: Mapping[str, Any]) -> list[PlainAnswer]:
    """The answers among the fields of a record; one that stands under two names comes twice."""
    values = (item for value in fields.values() for item in (value if type(value) is list else (value,)))
    return [value for value in values if isinstance(value, PlainAnswer)]


def _cut(answer: PlainAnswer, max_length: int) -> PlainAnswer:
    room = max_length - len(answer.prompt)
    if room < 1:
        raise _too_long(len(answer.prompt), max_length, "the prompt alone")
    return PlainAnswer(answer.prompt, *_part(answer, 0, room), ended=False, cut=True)


def _part(answer: PlainAnswer, start: int, end: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokens from start to end, and those of them that are trained."""
    spans = [(max(first, start) - start, min(last, end) - start) for first, last in answer.spans]
    return answer.completion[start:end], [(first, last) for first, last in spans if first < last]


def split_text(text: PlainAnswer, max_length: int) -> list[PlainAnswer]:
    """Pieces of at most max_length tokens; each piece but the first begins with the last token of the previous piece.

    That token is the prompt of its piece, so that every token of the text is predicted once.
    """
    count, room = len(text.completion), max_length - 1
    pieces = [PlainAnswer(text.prompt, *_part(text, 0, max_length), ended=False)]
    for start in range(max_length, count, room):
        last = start + room >= count
        before = text.completion[start - 1 : start]
        pieces.append(PlainAnswer(before, *_part(text, start, start + room), ended=text.ended and last))
    return pieces


def _too_long(tokens: int, max_length: int, what: str) -> RowError:
    return RowError("E_TOO_LONG", "prompt", f"{what}: {tokens:,} tokens, more than the {max_length:,} of max_length")


# -- to content --------------------------------------------------------------------------------------------------


def _check(fields: Mapping[str, Any], kind: str, template: ChatTemplate) -> None:
    """Raise RowError if nothing can be learned from the tokens."""
    for answer in plain_answers(fields):
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


def _has_content(answer: PlainAnswer, template: ChatTemplate) -> bool:
    """Whether a trained token is more than white space and special tokens (an end-of-turn token is not content)."""
    trained = answer.trained
    if len(trained) > FEW_TOKENS:
        return True
    content = [number for number in trained if number not in template.tokens.special_ids]
    return bool(content) and bool(template.tokenizer.decode(content).strip())


def _equal(a: PlainAnswer, b: PlainAnswer) -> bool:
    return a.completion == b.completion and a.prompt == b.prompt
