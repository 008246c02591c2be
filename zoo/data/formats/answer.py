"""Formats of a prompt with one answer, several, or none: the fields of the kinds themselves, and rankings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zoo.data.formats.message import arrange
from zoo.data.formats.pair import transcript_prompt
from zoo.data.formats.shape import (
    ANSWERS,
    CHATS,
    ONE_TURN,
    TEXTS,
    Format,
    Row,
    Sample,
    has_label,
    label,
    take,
    take_text,
)
from zoo.data.row_errors import RowError, describe

RANK_COLUMNS = ("ranks", "ranking", "rank")
_STEP_LABELS = {"+": 1, "-": 0, "true": 1, "false": 0, "1": 1, "0": 0, "-1": -1}


def _demonstration(row: Row) -> dict[str, Any]:
    return arrange(row, take(row, "prompt"), {"completion": take(row, "completion")})


def _feedback(row: Row) -> dict[str, Any]:
    return {**_demonstration(row), "label": label(row)}


def _prompt(row: Row) -> dict[str, Any]:
    return arrange(row, take(row, "prompt"), {})


def _text(row: Row) -> dict[str, Any]:
    return {"text": take_text(row, "text")}


def _stepwise(row: Row) -> dict[str, Any]:
    steps, labels = take(row, "steps", "completions"), take(row, "labels")
    if not (isinstance(steps, list) and all(isinstance(step, str) for step in steps)):
        raise RowError("E_TYPE", "steps", f"is {describe(steps)}, not a list of texts")
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise RowError("E_LABEL", "labels", f"there are {len(steps)} steps, but labels is {describe(labels)}")
    wrong = [value for value in labels if str(value).lower().removesuffix(".0") not in _STEP_LABELS]
    if wrong:
        raise RowError("E_LABEL", "labels", f"{wrong[0]!r} is none of true, false, 1, 0, -1, '+', '-'")
    marks = [_STEP_LABELS[str(value).lower().removesuffix(".0")] for value in labels]
    return {**arrange(row, take(row, "prompt"), {}), "steps": list(steps), "labels": marks}


def ranked(row: Row, prompt: Any, answers: list[Any], ranks: list[Any]) -> dict[str, Any]:
    """A ranking record; the smallest rank is the best, ties are allowed. Raises RowError."""
    if len(answers) < 2:
        raise RowError("E_TYPE", "completions", f"a ranking needs two answers or more, but there is {len(answers)}")
    if len(ranks) != len(answers):
        raise RowError("E_LABEL", "ranks", f"{len(answers)} answers, but {len(ranks)} ranks")
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int | float) or not math.isfinite(rank):
            raise RowError("E_LABEL", "ranks", f"{rank!r} is not a number")
    if len(set(ranks)) == 1:
        raise RowError("E_LABEL", "ranks", "all answers have the same rank, so none is better")
    record = arrange(row, prompt, {f"completions[{index}]": answer for index, answer in enumerate(answers)})
    return {"prompt": record.pop("prompt"), "completions": list(record.values()), "ranks": list(ranks)}


def _ranking(row: Row) -> dict[str, Any]:
    answers = take(row, "completions")
    if not isinstance(answers, list):
        raise RowError("E_TYPE", "completions", f"is {describe(answers)}, not a list of answers")
    scores = row.get("scores")
    ranks = take(row, *RANK_COLUMNS) if scores is None else scores
    if not isinstance(ranks, list):
        raise RowError("E_LABEL", "ranks", f"is {describe(ranks)}, not a list of numbers")
    if scores is not None and all(isinstance(score, int | float) and math.isfinite(score) for score in ranks):
        ranks = best_first(ranks)
    return ranked(row, take(row, "prompt"), answers, ranks)


def best_first(scores: list[float]) -> list[int]:
    """Ranks from scores: the highest score has rank 1, equal scores have equal ranks."""
    order = sorted(set(scores), reverse=True)
    return [order.index(score) + 1 for score in scores]


def _nectar(row: Row) -> dict[str, Any]:
    answers = _objects(row, "answers", "{answer, rank}")
    prompt = take(row, "prompt")
    if isinstance(prompt, str) and prompt.lstrip().startswith("Human:"):
        prompt = transcript_prompt(prompt, "prompt")
    return ranked(row, prompt, [answer.get("answer") for answer in answers], [answer.get("rank") for answer in answers])


def _ultrafeedback(row: Row) -> dict[str, Any]:
    answers = _objects(row, "completions", "{response, annotations}")
    scores = [_mean_rating(answer, f"completions[{index}]") for index, answer in enumerate(answers)]
    return ranked(row, take(row, "instruction"), [answer.get("response") for answer in answers], best_first(scores))


def _objects(row: Row, column: str, form: str) -> list[Any]:
    value = take(row, column)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise RowError("E_TYPE", column, f"is {describe(value)}; it must be a list of {form}")
    return value


def _mean_rating(answer: Any, field: str) -> float:
    """Mean of the ratings of one answer. They are strings, and "N/A" if a rater gave none.

    `overall_score` is not used: some of its values are known to be off by a factor of ten.
    """
    annotations = answer.get("annotations")
    parts = annotations.values() if isinstance(annotations, Mapping) else ()
    ratings = [part.get("Rating") for part in parts if isinstance(part, Mapping)]
    numbers = [float(str(rating)) for rating in ratings if str(rating).replace(".", "", 1).isdigit()]
    if not numbers:
        raise RowError("E_LABEL", field, "has no ratings to rank it by")
    return sum(numbers) / len(numbers)


def _has_ranks(sample: Sample) -> bool:
    return any(sample.has(column, "numbers") for column in (*RANK_COLUMNS, "scores"))


def _has_prompt(sample: Sample) -> bool:
    return sample.has("prompt", *ANSWERS)


def _has_one_answer(sample: Sample) -> bool:
    return _has_prompt(sample) and sample.has("completion", *ANSWERS)


ANSWER_FORMATS = (
    Format(
        "prompt-completion",
        "demonstration",
        "prompt, completion: texts or messages",
        ("prompt", "completion"),
        lambda s: _has_one_answer(s) and not has_label(s),
        _demonstration,
    ),
    Format(
        "prompt-completion-label",
        "feedback",
        "prompt, completion: texts or messages; label: true or false",
        ("prompt", "completion", "label", "kto_tag"),
        lambda s: _has_one_answer(s) and has_label(s),
        _feedback,
    ),
    Format(
        "stepwise",
        "stepwise",
        "prompt; steps (or completions): a list of texts; labels: one for each step",
        ("prompt", "steps", "completions", "labels"),
        lambda s: (
            _has_prompt(s)
            and (s.has("steps", "texts") or s.has("completions", "texts"))
            and s.has("labels", "numbers", "texts")
        ),
        _stepwise,
    ),
    Format(
        "ranking",
        "ranking",
        "prompt; completions: a list of answers; ranks (1 is best) or scores (the highest is best)",
        ("prompt", "completions", *RANK_COLUMNS, "scores"),
        lambda s: _has_prompt(s) and _has_ranks(s) and s.has("completions", "texts", "lists", *CHATS),
        _ranking,
    ),
    Format(
        "ranked-answers",
        "ranking",
        "prompt; answers: a list of {answer, rank}",
        ("prompt", "answers"),
        lambda s: (
            _has_prompt(s)
            and s.has("answers", "objects")
            and s.mostly(lambda row: "rank" in _first(row.get("answers")))
        ),
        _nectar,
    ),
    Format(
        "ultrafeedback",
        "ranking",
        "instruction; completions: a list of {response, annotations}",
        ("instruction", "completions"),
        lambda s: s.has("instruction", *TEXTS) and s.has("completions", "objects"),
        _ultrafeedback,
    ),
    Format(
        "prompt-only",
        "prompt",
        "prompt: text or messages, and whatever columns a reward reads",
        ("prompt",),
        lambda s: s.has("prompt", *TEXTS, *CHATS, *ONE_TURN),
        _prompt,
        fallback=True,
    ),
    Format("text", "text", "text: plain text", ("text",), lambda s: s.has("text", *TEXTS), _text, fallback=True),
)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], Mapping) else {}
