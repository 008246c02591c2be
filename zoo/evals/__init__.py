"""Evaluations: named functions that give one number for a model, with its uncertainty and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.numbers import around, decimal
from zoo.statistics import student

if TYPE_CHECKING:
    import torch

    from zoo.data.encoding.template import ChatTemplate

Z = 1.959964
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class Subject:
    """The model to evaluate, and what its evaluation needs.

    model: a causal language model; precision: Lightning's name of the arithmetic; limit: most rows, or None;
    progress: called with (done, total); answered: the answers so far, so that several evaluations on the same prompts
    generate once; start: the model to compare with (it has the same tokenizer), a function that loads it when it is
    needed, or None; out: the folder of the runs, for rewards and judges that name a run; scores: what its run was
    scored by, if it said so;
    say: called with messages for the user.
    """

    model: Any
    tokenizer: Any
    template: ChatTemplate
    precision: str = "32-true"
    limit: int | None = None
    progress: Callable[[int, int], None] | None = None
    answered: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    start: Any = None
    out: str = "runs"
    scores: Sequence[str] = ()
    say: Callable[[str], None] = print

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def compared(self) -> Subject:
        """The model to compare with, as a subject. Raises ZooError if there is none."""
        if self.start is None:
            raise ZooError(
                "This evaluation compares with another model, but none was named.",
                "Name it: zoo eval last --against smollm2-135m --eval …",
            )
        if "start" not in self.answered:
            import torch

            model = self.start if isinstance(self.start, torch.nn.Module) else self.start()
            self.answered["start"] = replace(self, model=model.to(self.device).eval(), start=None, answered={})
        return self.answered["start"]


@dataclass
class Score:
    """One number: its mean over n cases, a 95 % interval, details, and samples to read.

    cases: one number per case, in order, with the value as their mean; changes are computed from them. For a ratio, or
    if cases are missing, the number is what the case contributes. Empty if the cases are not known one by one.
    about: a fingerprint of the cases' data; empty until the score is stored in a run.
    """

    name: str
    value: float
    n: int
    low: float
    high: float
    higher_is_better: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    cases: list[float] = field(default_factory=list, repr=False)
    about: str = ""

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("samples", "cases", "about")}

    def text(self) -> str:
        """`0.412 ± 0.071 (n 120)`, with the longer side of the interval, or `1.000 [0.439, 1.000] (n 3)`, where that
        side is longer than what is left of a share; without either if there is no interval."""
        if self.n and self.low == self.high:
            return f"{decimal(self.value)} (n {self.n}, {'all equal' if self.n > 1 else 'too few to tell more'})"
        return f"{decimal(self.value)} {around(self.value, self.low, self.high, (0.0, 1.0))} (n {self.n})"

    @property
    def noise(self) -> float:
        """The longer of the interval's two sides."""
        return max(self.high - self.value, self.value - self.low)


@dataclass(frozen=True)
class Eval:
    """A named evaluation. Its function gets a `Subject` and returns a `Score`.

    Further parameters of the function are its options: `--eval "name(option=value)"`, in the types that they declare.
    head: the kind of model that it evaluates: "lm" for language models, "scalar" for reward models, "none" for no
    model (the subject is None). details: names in `Score.details` that always hold numbers; a name may end in *.
    by_default: whether `zoo eval` runs it if no evaluation is named.
    """

    help: str
    run: Callable[..., Score]
    head: str = "lm"
    details: tuple[str, ...] = ()
    by_default: bool = True

    def has_detail(self, name: str) -> bool:
        """Whether it declares this detail."""
        return any(fnmatchcase(name, pattern) for pattern in self.details)


def mean_score(
    name: str, values: Sequence[float | None], bounds: tuple[float, float] | None = None, **rest: Any
) -> Score:  # fmt: skip
    """The mean with a 95 % interval; a value of None is a missing case, which keeps its place.

    bounds: the least and the greatest possible value. With bounds, the interval is that of Agresti and Coull for
    shares, extended to means: it adds four cases (1.96² to be exact), half of them at each bound. So it has a width
    even if all values are equal, which may be chance, and it stays within the bounds. Without bounds, the interval is
    Student's t.
    """
    present = [float(value) for value in values if value is not None]
    n = len(present)
    mean = sum(present) / max(1, n)
    rest.setdefault("cases", _cases(values, mean))
    if bounds is None:
        squares = sum((value - mean) ** 2 for value in present)
        half = student(n - 1) * math.sqrt(squares / (n - 1) / n) if n > 1 else 0.0
        return Score(name, mean, n, mean - half, mean + half, **rest)
    least, greatest = bounds
    count = n + Z * Z
    centre = (sum(present) + Z * Z * (least + greatest) / 2) / count
    squares = sum((value - centre) ** 2 for value in present)
    squares += Z * Z / 2 * ((least - centre) ** 2 + (greatest - centre) ** 2)
    half = Z * math.sqrt(squares) / count
    return Score(name, mean, n, max(least, centre - half), min(greatest, centre + half), **rest)


def ratio_score(name: str, sums: Sequence[float], counts: Sequence[float], **rest: Any) -> Score:
    """Σ sums / Σ counts over cases, such as losses and tokens, with the interval of a ratio estimator."""
    n, total = len(sums), max(1e-9, sum(counts))
    value = sum(sums) / total
    squares = sum((term - value * count) ** 2 for term, count in zip(sums, counts, strict=True))
    half = student(n - 1) * math.sqrt(squares * n / (n - 1)) / total if n > 1 else 0.0
    rest.setdefault("cases", ratio_cases(sums, counts, value))
    return Score(name, value, n, value - half, value + half, **rest)


def ratio_cases(sums: Sequence[float], counts: Sequence[float], value: float) -> list[float]:
    """What each case contributes to Σ sums / Σ counts, the value; the mean of the contributions is the value."""
    share = len(sums) / max(1e-9, sum(counts))
    return [value + (term - value * count) * share for term, count in zip(sums, counts, strict=True)]


def _cases(values: Sequence[float | None], mean: float) -> list[float]:
    """The values; if some are missing, what each case contributes to the mean of the others."""
    if None not in values:
        return [float(value) for value in values if value is not None]
    counts = [float(value is not None) for value in values]
    return ratio_cases([value or 0.0 for value in values], counts, mean)


def within_0_and_1(values: list[float]) -> tuple[float, float] | None:
    """(0, 1) if all values are between 0 and 1, so that they look like shares; else None."""
    return (0.0, 1.0) if all(0 <= value <= 1 for value in values) else None


def share_score(name: str, hits: float | Sequence[bool | float | None], n: int | None = None, **rest: Any) -> Score:
    """A share with its 95 % Wilson interval.

    hits: whether each case is a hit, None if unknown; or the number of hits among n cases, so that changes cannot be
    compared case by case.
    """
    if isinstance(hits, Sequence):
        present = [hit for hit in hits if hit is not None]
        rest.setdefault("cases", _cases(hits, sum(present) / max(1, len(present))))
        hits, n = sum(present), len(present)
    if not n:
        return Score(name, 0.0, 0, 0.0, 1.0, **rest)
    share, z = hits / n, Z
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Score(name, share, n, max(0.0, centre - half), min(1.0, centre + half), **rest)
