"""The reward that an environment gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.rewards.functions import in_process
from zoo.rewards.missing import Missing

NONE = Missing("there is no environment (--environment)")


@in_process
def environment(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], earned: Sequence[Any] | None = None
) -> list[Any]:  # fmt: skip
    """The sum of what the environment gave for the turns of an episode; missing where it gave none, or failed."""
    return [NONE] * len(completions) if earned is None else list(earned)
