"""Checks of a canonical record: what an answer, a prompt and a pair must have to be worth training on."""

from __future__ import annotations

import math
from typing import Any

from zoo.data.kinds import Message, Record
from zoo.data.row_errors import RowError


def check(record: Record, kind: str) -> None:
    """Raise RowError when the record cannot be trained on."""
    if kind == "text":
        if not record["text"].strip():
            raise RowError("E_EMPTY_RESPONSE", "text", "is empty")
        return
    _check_prompt(record["prompt"])
    if kind in ("demonstration", "feedback"):
        _check_answer(record["completion"], "completion")
    elif kind == "preference":
        _check_pair(record)
    elif kind == "ranking":
        for index, answer in enumerate(record["completions"]):
            _check_answer(answer, f"completions[{index}]")
        if all(_content(answer) == _content(record["completions"][0]) for answer in record["completions"]):
            raise RowError("E_IDENTICAL_PAIR", "completions", "all answers are the same")
    elif kind == "stepwise":
        if not record["steps"] or not all(step.strip() for step in record["steps"]):
            raise RowError("E_EMPTY_RESPONSE", "steps", "there is no step, or an empty one")


def _check_prompt(prompt: str | list[Message]) -> None:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise RowError("E_MISSING_TURN", "prompt", "is empty")
        return
    roles = [turn["role"] for turn in prompt]
    if "user" not in roles:
        raise RowError("E_MISSING_TURN", "prompt", "there is no user turn")
    if roles[-1] not in ("user", "tool"):
        raise RowError(
            "E_MISSING_TURN",
            "prompt",
            f"ends in {'an' if roles[-1] == 'assistant' else 'a'} "
            f"{roles[-1]} turn; the last turn before an answer must be a user or tool turn",
        )
    if roles[-1] == "user" and not prompt[-1]["content"].strip():
        raise RowError("E_MISSING_TURN", "prompt", "the last user turn is empty")


def _check_answer(answer: str | list[Message], field: str) -> None:
    if isinstance(answer, str):
        if not answer.strip():
            raise RowError("E_EMPTY_RESPONSE", field, "is empty")
        return
    if not answer:
        raise RowError("E_MISSING_TURN", field, "there is no answer after the last user turn")
    if answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
        raise RowError("E_ROLE", field, "an answer must begin and end with an assistant turn")
    for turn in answer:
        if turn["role"] == "assistant" and not turn["content"].strip() and not turn.get("tool_calls"):
            raise RowError("E_EMPTY_RESPONSE", field, "the assistant turn is empty")


def _check_pair(record: Record) -> None:
    _check_answer(record["chosen"], "chosen")
    _check_answer(record["rejected"], "rejected")
    if _content(record["chosen"]) == _content(record["rejected"]):
        raise RowError("E_IDENTICAL_PAIR", "chosen", "is the same as rejected")
    margin, p_chosen = record.get("margin"), record.get("p_chosen")
    if margin is not None and not math.isfinite(margin):
        raise RowError("E_TYPE", "margin", f"{margin} is not a finite number")
    if p_chosen is not None and not 0 <= p_chosen <= 1:
        raise RowError("E_TYPE", "p_chosen", f"{p_chosen} is not a probability between 0 and 1")


def _content(answer: str | list[Message]) -> Any:
    """What is compared between answers: white space at the ends does not make two answers different."""
    if isinstance(answer, str):
        return answer.strip()
    return [{**turn, "content": turn["content"].strip()} for turn in answer]
