"""Kinds: the seven shapes of training data.

An algorithm asks for one kind. Data of that kind is used as it is; data that holds more than the kind needs
(such as pairs where single answers are enough) is converted, see `zoo.data.convert`.

A record is a plain dict. Besides the fields of its kind it keeps `row` (the 1-based row number in its
source) and every extra column, through all conversions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Message = dict[str, Any]
"""{"role", "content", …}, with a role of system, user, assistant or tool."""


ROW_ARGS = "chat_template_kwargs"
"""The field with the variables of the chat template for one row, as other trainers call it."""
RESERVED_ARGS = (
    "messages", "conversation", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)  # fmt: skip
"""Names that none of them may have, because zoo or transformers gives them a value."""
EXTRAS = ("tools", ROW_ARGS)
"""What rows of every kind with a prompt may have for the chat template."""


@dataclass(frozen=True)
class Kind:
    """A shape of training data: its name, what it holds, and the fields of its records."""

    name: str
    description: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Required and optional fields, in reading order."""
        return self.required + self.optional


_ALL_KINDS = (
    Kind("demonstration", "a prompt and a good answer to it", ("prompt", "completion"), EXTRAS),
    Kind(
        "preference",
        "a prompt and two answers, one preferred to the other",
        ("prompt", "chosen", "rejected"),
        ("margin", "p_chosen", *EXTRAS),
    ),
    Kind(
        "feedback",
        "a prompt, one answer, and whether that answer is good",
        ("prompt", "completion", "label"),
        EXTRAS,
    ),
    Kind("prompt", "a prompt, and the columns that a reward reads", ("prompt",), EXTRAS),
    Kind(
        "ranking",
        "a prompt and several answers with their ranks, the smallest rank being the best",
        ("prompt", "completions", "ranks"),
        EXTRAS,
    ),
    Kind("stepwise", "a prompt and the steps of a solution, each with a label", ("prompt", "steps", "labels"), EXTRAS),
    Kind("text", "plain text", ("text",)),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL_KINDS}


def prompt_key(record: Record) -> str:
    """A key that is equal for records with the same prompt, whether it is a string or one user turn."""
    prompt = record["prompt"] if "prompt" in record else record.get("text", "")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    elif any("train" in turn for turn in prompt):
        prompt = [{key: value for key, value in turn.items() if key != "train"} for turn in prompt]
    return json.dumps(prompt, sort_keys=True, ensure_ascii=False, default=str)
