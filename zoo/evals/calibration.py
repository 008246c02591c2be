"""Calibration on multiple-choice questions: is a model right as often as it claims, and would a temperature help?

A choice's probability is that of its text as an answer to the question, normalised over the choices.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from zoo.errors import ZooError
from zoo.evals import Score, Subject
from zoo.evals.answers import score_all
from zoo.evals.reliability import (
    Choice,
    brier,
    calibration_error,
    error_by_chance,
    error_interval,
    fitted_temperature,
    log_loss,
    reliability,
)
from zoo.evals.rows import raw_rows

QUESTIONS = ("prompt", "question", "ctx", "query")
CHOICES = ("choices", "endings", "options")
RIGHT = ("answer", "answerKey", "label", "target", "correct")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def calibration(
    subject: Subject, data: str, bins: int = 15, split: str = "", limit: int | None = None,
    ask: Literal["text", "letter"] = "text", per: Literal["answer", "token"] = "answer", seed: int = 0,
) -> Score:  # fmt: skip
    """Expected calibration error of the likeliest choice; the details have the diagram and a fitted temperature.

    ask: score the texts of the choices, or list them under the question and score their letters; per: sum the
    log-probabilities of a choice, or average them per token. The temperature is fitted on one half of the questions and
    tested on the other.
    """
    if bins < 1:
        raise ZooError(f"calibration: {bins} bins are not possible.", "Give 1 or more.")
    questions = [question_of(row, data) for row in raw_rows(subject, data, split, limit)]
    choices = _scored(subject, questions, ask, per)
    certain = [choice.certainty() for choice in choices]
    error = calibration_error(certain, bins)
    low, high = error_interval(certain, bins)
    details = {
        "accuracy": sum(right for _, right in certain) / len(certain),
        "confidence": sum(confidence for confidence, _ in certain) / len(certain),
        "error_by_chance": error_by_chance(certain, bins),
        "log_loss": log_loss(choices),
        "brier": brier(choices),
        **scaled(choices, bins, seed),
        "reliability": [[round(c, 4), round(a, 4), n] for c, a, n in reliability(certain, bins)],
    }
    samples = [
        {"prompt": prompt, "answer": f"{options[choice.right]!r} has {choice.probabilities()[choice.right]:.3f}",
         "score": float(right)}
        for (prompt, options, _), choice, (_, right) in zip(questions, choices, certain, strict=True)
    ]  # fmt: skip
    return Score("calibration", error, len(certain), min(low, error), max(high, error), False, details, samples)


def scaled(choices: list[Choice], bins: int, seed: int) -> dict[str, float | None]:
    """The temperature fitted on one half, and the other half's errors without and with it; None for one question."""
    order = random.Random(seed).sample(range(len(choices)), len(choices))
    fit, test = ([choices[i] for i in order[start::2]] for start in (0, 1))
    if not test:
        return {"temperature": None, "error_unscaled": None, "error_scaled": None}
    temperature = fitted_temperature(fit)
    return {
        "temperature": temperature,
        "error_unscaled": calibration_error([choice.certainty() for choice in test], bins),
        "error_scaled": calibration_error([choice.certainty(temperature) for choice in test], bins),
    }


def _scored(
    subject: Subject, questions: list[tuple[str, list[str], int]], ask: str, per: str
) -> list[Choice]:  # fmt: skip
    """The log-probabilities of all choices of all questions."""
    asked, texts_of_choices = [], []
    for prompt, options, _ in questions:
        letters = list(LETTERS[: len(options)])
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip(letters, options, strict=True))
        asked.append(f"{prompt}{listed}\nAnswer:" if ask == "letter" else prompt)
        texts_of_choices.append(letters if ask == "letter" else options)
    answers = [
        subject.template.answer(prompt, text)
        for prompt, texts in zip(asked, texts_of_choices, strict=True)
        for text in texts
    ]
    logps = iter(score_all(subject, answers))
    choices = []
    for (_, options, right), _ in zip(questions, texts_of_choices, strict=True):
        each = [next(logps) for _ in options]
        logits = tuple(
            float((choice_logps.mean() if per == "token" else choice_logps.sum())[0]) for choice_logps in each
        )
        choices.append(Choice(logits, right))
    return choices


def question_of(row: Mapping[str, Any], data: str) -> tuple[str, list[str], int]:
    """Question, choices and the index of the right one, from the usual columns of such data sets. Raises ZooError."""
    where = f"{data}, row {row.get('row', '?')}"
    prompt, choices, right = (_first(row, names) for names in (QUESTIONS, CHOICES, RIGHT))
    if prompt is None or choices is None or right is None:
        columns = ", ".join(name for name in row if name != "row")
        raise ZooError(
            f"{where} is not a multiple-choice question: it has {columns}.",
            "It needs a question (prompt or question), choices, and the answer: an index from 0, a letter or the text.",
        )
    labels = [str(choice) for choice in choices["label"]] if isinstance(choices, Mapping) and "label" in choices else []
    options = [str(choice) for choice in (choices["text"] if isinstance(choices, Mapping) else choices)]
    place = _place(right, options, labels)
    if place is None or len(options) < 2:
        raise ZooError(f"{where}: the answer {right!r} is none of its {len(options)} choices.", "Repair the row.")
    return prompt if isinstance(prompt, str) else prompt[-1]["content"], options, place


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _place(right: Any, options: list[str], labels: list[str]) -> int | None:
    """The index of the right choice. A label or a text has priority over a number, because choices may be numbers."""
    text = str(right).strip()
    for names in (labels, options, list(LETTERS[: len(options)]), [str(i) for i in range(len(options))]):
        if text in names:
            return names.index(text)
    return None
