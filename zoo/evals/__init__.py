"""Evaluations: named functions from a model to one number with its uncertainty and its samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.data.template import ChatTemplate
from zoo.types import Answer


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and with which means.

    model: a causal language model; precision: Lightning's name of the arithmetic; limit: rows at most, or None;
    progress: called with (done, total); answered: greedy answers given so far, so that several evaluations of the
    same prompts generate once.
    """

    model: Any
    tokenizer: Any
    template: ChatTemplate
    precision: str = "32-true"
    limit: int | None = None
    progress: Callable[[int, int], None] | None = None
    answered: dict[Any, Answer] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class Score:
    """One number: its mean over n cases, a 95 % interval, details, and samples to read."""

    name: str
    value: float
    n: int
    low: float
    high: float
    higher_is_better: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "samples"}

    def text(self) -> str:
        """`0.412 ± 0.071 (n 120)`."""
        return f"{self.value:.3f} ± {(self.high - self.low) / 2:.3f} (n {self.n})"


@dataclass(frozen=True)
class Eval:
    """A named evaluation. Its function gets a `Subject` and returns a `Score`.

    head: the sort of models it is for, "lm" for language models, "scalar" for reward models.
    """

    help: str
    run: Callable[[Subject], Score]
    head: str = "lm"


def mean_score(name: str, values: list[float], **rest: Any) -> Score:
    """The mean with a 95 % interval of ±1.96 standard errors."""
    n = len(values)
    mean = sum(values) / max(1, n)
    variance = sum((value - mean) ** 2 for value in values) / max(1, n - 1)
    half = 1.96 * math.sqrt(variance / max(1, n))
    return Score(name, mean, n, mean - half, mean + half, **rest)


def share_score(name: str, hits: int, n: int, **rest: Any) -> Score:
    """A share with its 95 % Wilson interval."""
    if n == 0:
        return Score(name, 0.0, 0, 0.0, 1.0, **rest)
    share, z = hits / n, 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Score(name, share, n, max(0.0, centre - half), min(1.0, centre + half), **rest)
