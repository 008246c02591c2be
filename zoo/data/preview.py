"""What `zoo data` prints: examples as the model reads them, lengths, and the rows kept and dropped.

The examples are decoded from the ids that training gets, so the coloured tokens are exactly the trained ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.data.display import Histogram, Legend, Line, Piece, TokenText, pieces_of
from zoo.data.encoding.encode import Encoded
from zoo.data.encoding.statistics import nth
from zoo.data.encoding.template import ChatTemplate
from zoo.data.report import Report
from zoo.numbers import amount
from zoo.values.types import Answer

BINS = 8


# -- the whole preview -----------------------------------------------------------------------------------------------


def preview(encoded: Encoded, report: Report, template: ChatTemplate, *, examples: int = 3) -> list[Any]:
    """Rich renderables, in the order to print them; `report` is the report of loading."""
    shown = encoded.records[: max(examples, 0)]
    reading = [*report.lines(), *_first_problems(report, report), *encoded.lines()]
    parts: list[Any] = [Line(line) for line in [*reading, *_first_problems(encoded.report, report)]]
    if shown and encoded.kind != "prompt":
        parts += [Line(""), Legend()]
    for number, record in enumerate(shown, 1):
        parts += [Line(""), Line(f"Example {number} of {len(shown)}: {report.where(record['row'])}", "bold")]
        for title, pieces in _texts(record, template):
            parts += [Line(title, "bold"), TokenText(pieces)]
    if lengths := encoded.statistics.lengths:
        parts += [Line(""), Line("Tokens of prompt and answer" if encoded.kind != "prompt" else "Tokens of the prompt")]
        parts.append(Histogram(histogram(lengths)))
    sentences = [sentence for sentence in _sentences(encoded) if sentence not in report.notes]
    preflight = template.preflight(*encoded.statistics.ends())
    parts += [Line(""), *(Line(sentence) for sentence in sentences)]
    return [*parts, Line(preflight, "yellow" if preflight.startswith("Warning") else "")]


def as_json(encoded: Encoded, report: Report, template: ChatTemplate, *, examples: int = 3) -> dict[str, Any]:
    """The same facts as JSON types; texts are unchanged, including control codes."""
    shown = encoded.records[: max(examples, 0)]
    bins = histogram(encoded.statistics.lengths)
    return {
        "kind": encoded.kind,
        "reading": report.as_json(),
        "encoding": encoded.as_json(),
        "lengths": [{"first": first, "last": last, "count": count} for first, last, count in bins],
        **encoded.statistics.balance(encoded.kind),
        "end_of_turn": template.end_of_turn,
        "preflight": template.preflight(*encoded.statistics.ends()),
        "examples": [
            {
                "row": record["row"],
                "texts": [
                    {"title": title, "pieces": [{"text": piece.text, "trained": piece.trained} for piece in pieces]}
                    for title, pieces in _texts(record, template)
                ],
            }
            for record in shown
        ],
    }


def _first_problems(report: Report, source: Report) -> list[str]:
    """The first row of each reason in full: the reason alone does not give the chat template's message, for example."""
    return [
        f"  {source.where(problem.row)} [{problem.code}] {problem.field}: {problem.message}"
        for problem in report.first_of_each()
    ]


# -- examples --------------------------------------------------------------------------------------------------------


def _texts(record: dict[str, Any], template: ChatTemplate) -> Iterator[tuple[str, list[Piece]]]:
    """The texts of a record, each with a title: each different prompt once, then the answers to it."""
    prompt: list[int] | None = None
    for name, answer in _named_answers(record):
        ids = answer.prompt.tolist()
        if ids != prompt:
            prompt = ids
            if ids:
                yield f"prompt, {amount(len(ids), 'token')}", pieces_of(template, ids)
        if name:
            trained = int(answer.mask.sum())
            title = f"{name}, {amount(len(answer.completion), 'token')}, {trained:,} trained"
            ended = "" if answer.ended else ", cut"
            yield title + ended, pieces_of(template, answer.completion.tolist(), answer.mask.tolist(), before=ids)


def _named_answers(record: dict[str, Any]) -> Iterator[tuple[str, Answer]]:
    """The answers of a record with the names to print; a prompt alone is given as an answer without a name."""
    for name, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], Answer):
            for answer, rank in zip(value, record.get("ranks", [None] * len(value)), strict=True):
                yield name if rank is None else f"answer of rank {rank}", answer
        elif name == "prompt":
            yield "", Answer.of(value, [])
        elif isinstance(value, Answer) and name not in (_same_answer(record), "marked"):
            yield name + _judgement(record), value


def _same_answer(record: dict[str, Any]) -> str:
    """The field with the answer that is printed, but other trained turns."""
    return "completion" if _has_turns(record) else "conversation"


def _has_turns(record: dict[str, Any]) -> bool:
    """Whether more is trained in the record's conversation than in its completion."""
    return record.get("conversation") is not None and record["conversation"] is not record.get("completion")


def _judgement(record: dict[str, Any]) -> str:
    if isinstance(record.get("label"), bool):
        return " (desirable)" if record["label"] else " (undesirable)"
    return f" (labels of its steps: {', '.join(map(str, record['labels']))})" if record.get("labels") else ""


# -- numbers ---------------------------------------------------------------------------------------------------------


def histogram(values: Mapping[int, int], bins: int = BINS) -> list[tuple[int, int | None, int]]:
    """(first, last, count) of bins with round borders, of values with their counts.

    The last bin is open (None) if a few values are far larger.
    """
    if not values:
        return []
    least, most = min(values), nth(values, math.ceil((sum(values.values()) - 1) * 0.99))
    step = next(step for step in _round_numbers() if most // step - least // step < bins)
    first, last = least // step, most // step
    counts = [0] * (last - first + 1)
    for value, count in values.items():
        counts[min(value // step, last) - first] += count
    borders = [(index * step, index * step + step - 1) for index in range(first, last + 1)]
    far = max(values) > borders[-1][1]
    return [
        (low, None if far and (low, high) == borders[-1] else high, count)
        for (low, high), count in zip(borders, counts, strict=True)
    ]


def _round_numbers() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, …"""
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


def _sentences(encoded: Encoded) -> list[str]:
    """Sentences about the kept records as a whole."""
    facts, sentences = encoded.statistics.balance(encoded.kind), []
    if "labels" in facts:
        good, bad = facts["labels"].values()
        sentences.append(f"Labels: {good:,} desirable, {bad:,} undesirable.")
    if "chosen_longer" in facts:
        sentences.append(
            f"In tokens, the chosen answer is longer in {facts['chosen_longer']:.0%} of the pairs and shorter in "
            f"{facts['chosen_shorter']:.0%}; the median difference is {facts['chosen_minus_rejected']['median']:+,}."
        )
    statistics = encoded.statistics
    if count := statistics.several_turns:
        counted = f"{amount(count, 'conversation')} ha{'s' if count == 1 else 've'}"
        sentences.append(
            f"{counted} several assistant turns: {statistics.in_all_turns:,} tokens are trained if every turn is, as "
            f"shown above, and {statistics.in_last_turn:,} if only the last one is."
        )
    return sentences
