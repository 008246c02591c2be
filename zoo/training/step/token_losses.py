"""Losses of the tokens of a few held-out answers, before training and after it: token-losses.json."""

from __future__ import annotations

from typing import Any

from zoo.data.encoding.template import ChatTemplate
from zoo.runs import Run
from zoo.training.record.report import write_first_and_last
from zoo.values.loss import Loss
from zoo.values.types import Answer, Answers, Batch

SHOWN = 3
"""Answers that are kept."""
LONGEST = 400
"""Tokens of an answer that are kept."""
UNFINISHED = "�"
"""What an incomplete character is decoded to."""
Costs = dict[int, list[float | None]]
"""The losses of an answer's tokens, None where one does not count, by the identity of the answer."""


def answers_of(batch: Batch) -> Answers:
    """The answers of a batch with one field of answers; none for several, where a loss is of no single answer."""
    fields = [field for field in batch.fields.values() if isinstance(field, Answers)]
    return fields[0] if len(fields) == 1 else Answers([])


def costs_of(part: Batch, loss: Loss, wanted: Answers) -> Costs:
    """The token losses of the wanted answers of a micro-batch; empty where the loss is not per token."""
    answers, names = answers_of(part), {id(answer) for answer in wanted}
    rows = [row for row, answer in enumerate(answers) if id(answer) in names]
    if not rows or loss.values.shape != answers.mask.shape or not answers.mask.equal(loss.weights.bool()):
        return {}
    columns = zip(rows, loss.values[rows].tolist(), loss.weights[rows].tolist(), strict=True)
    return {
        id(answers[row]): [value if weight else None for value, weight in zip(values, weights, strict=True)]
        for row, values, weights in columns
    }


def keep(run: Run, template: ChatTemplate, step: int, answers: list[tuple[Answer, list[float | None]]]) -> None:
    """Write token-losses.json: answers of the first and the last validation with the loss of each token.

    It is {"first": {"step": 0, "answers": [{"prompt": text, "tokens": [[text, nats or null]]}]}, "last": …}.
    """
    if not answers:
        return
    decode = template.tokenizer.decode
    shown = [
        {"prompt": decode(answer.prompt.tolist()), "tokens": _texts(decode, answer, losses)}
        for answer, losses in answers
    ]  # fmt: skip
    write_first_and_last(run, "token-losses.json", {"step": step, "answers": shown})


def _texts(decode: Any, answer: Answer, losses: list[float | None]) -> list[tuple[str, float | None]]:
    """Each token as the text that it adds, with its loss; the tokens of one character together, with their sum."""
    ids = answer.completion.tolist()[:LONGEST]
    parts: list[tuple[str, float | None]] = []
    before, waiting = "", []
    for i, loss in enumerate(losses[: len(ids)]):
        text = decode(ids[: i + 1])
        waiting += [] if loss is None else [loss]
        if text.endswith(UNFINISHED) and i + 1 < len(ids):
            continue
        added = text[len(before) :] if text.startswith(before) else decode(ids[i : i + 1])
        parts.append((added, round(sum(waiting), 3) if waiting else None))
        before, waiting = text, []
    return parts
