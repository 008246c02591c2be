"""What the adaptors to other libraries' environments share: options, prompts, and observations as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.environments import Message
from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.options.spelling import parse

ROWS = {"train": 1000, "heldout": 100}
"""The number of episodes in each split."""
INSTRUCTION = "You act in an environment. It tells you what you see. Answer with your next action and nothing else."
DIGITS = 4
"""Of a number in an observation."""


def episodes(split: str, kind: str) -> list[dict[str, Any]]:
    """Prompts for environments that have none. The environment adds what there is to see. Raises ZooError."""
    if split not in ROWS:
        raise NoSuchSplit(f"episodes has no split '{split}'.{nearest(split, ROWS)}", f"It has: {', '.join(ROWS)}.")
    if kind != "prompt":
        raise ZooError(f"episodes has prompts, and no data of kind '{kind}'.")
    prompt = [{"role": "user", "content": INSTRUCTION}]
    return [{"prompt": prompt, "episode": f"{split} {number}"} for number in range(ROWS[split])]


def settings(text: str) -> dict[str, Any]:
    """Options for the library, from `(size=8, slippery=false)`: values as YAML reads them. Raises ZooError."""
    import yaml

    inner = text.strip()
    if not inner:
        return {}
    if not (inner.startswith("(") and inner.endswith(")")):
        raise ZooError(f"The options '{text}' are not in brackets.", "Write options=(name=value, name=value).")
    return {name: yaml.safe_load(value) for name, value in parse(f"options{inner}", "options")[1].items()}


def opening(text: str) -> list[Message]:
    """The first that is seen. Templates want turns of the user and of the assistant in turn."""
    return [{"role": "assistant", "content": "Ready."}, *said(text)]


def said(text: str) -> list[Message]:
    """What an environment says, as messages."""
    return [{"role": "user", "content": text}]


def shown(observation: Any) -> str:
    """An observation as text. Mappings have a line for each entry."""
    if isinstance(observation, str):
        return observation
    if isinstance(observation, Mapping):
        if len(observation) == 1 and isinstance(only := next(iter(observation.values())), str):
            return only
        return "\n".join(f"{name}: {_inline(value)}" for name, value in observation.items())
    return _inline(observation)


def last_json(text: str) -> Any:
    """The last JSON value in a text that is an object or a list; None without any."""
    decoder, found, at = json.JSONDecoder(), None, 0
    for _ in range(100):
        starts = [place for letter in "{[" if (place := text.find(letter, at)) >= 0]
        if not starts:
            break
        try:
            found, at = decoder.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            at = min(starts) + 1
    return found


def _inline(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """Arrays as lists, and numbers with few digits."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, Sequence | set) else str(value)
