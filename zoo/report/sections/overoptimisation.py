"""Reward and gold reward against the distance from the initial policy: what the reward costs, and when it is overpaid.

Gao, Schulman, Hilton, "Scaling Laws for Reward Model Overoptimization" (arXiv:2210.10760): with d = √KL(π ‖ π₀), the
gold reward of a policy trained by reinforcement learning, minus that of the initial policy, follows
R(d) = d (α − β log d). Its peak is at log d = α/β − 1; beyond it the reward still rises and the gold reward falls.
(Their law for best-of-n, d (α − β d), is for chosen answers, not for trained policies.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo.report.plots.axes import Plot, Point, number
from zoo.report.plots.lines import paths
from zoo.report.plots.series import Series
from zoo.statistics import student

FORMULA = "R(d) = R₀ + d (α − β log d), d = √KL"
FEWEST_POINTS = 4
"""Points with d > 0 that a fit needs."""
NEAR = 0.1
"""The first point is the start if its d is at most this share of the largest."""
MEASURES = {"reward": ("val/grade", "val/reward", "rollout/reward"), "gold": ("val/gold",)}
"""What is drawn, and the metrics that measure it, the best first."""


@dataclass(frozen=True)
class Fit:
    """Least squares of R(d) − R₀ over n points; ± is half a 95 % interval by Student's t over n − 2 degrees."""

    start: float
    alpha: float
    beta: float
    alpha_noise: float
    beta_noise: float
    n: int
    best: Point
    """The highest point that was measured."""
    measured: tuple[float, ...]
    """The d of all points."""

    def __call__(self, d: float) -> float:
        return self.start + (d * (self.alpha - self.beta * math.log(d)) if d > 0 else 0.0)

    @property
    def peak(self) -> float | None:
        """KL at the peak of the curve; None if β may be 0, or if the highest measurement is elsewhere."""
        sure = self.beta > max(0.0, self.beta_noise) and self.alpha / self.beta < 300
        top = math.exp(self.alpha / self.beta - 1) if sure else math.inf
        nearest = min(self.measured, key=lambda d: abs(d - top))
        return top**2 if sure and nearest == self.best[0] else None

    def text(self) -> str:
        top = f"; peak at KL {number(self.peak)}" if self.peak is not None else "; no significant peak"
        top += f", highest measured {number(self.best[1])} at KL {number(self.best[0] ** 2)}"
        return (
            f"α {number(self.alpha)} ± {number(self.alpha_noise)}, β {number(self.beta)} ± {number(self.beta_noise)}, "
            f"n {self.n}{top}"
        )


def fit(points: Sequence[Point]) -> Fit | None:
    """R(d) = R₀ + d (α − β log d) through (d, value), in the order of training; the first point gives R₀.

    None with fewer than four points with d > 0, or if the first point is not near d = 0.
    """
    if not points:
        return None
    (first, start), farthest = points[0], max(d for d, _ in points)
    away = [(d, value - start) for d, value in points[1:] if d > 0]
    if first > NEAR * farthest or len(away) < FEWEST_POINTS:
        return None
    columns = [(d, -d * math.log(d)) for d, _ in away]
    aa, ab, bb = (sum(c[i] * c[j] for c in columns) for i, j in ((0, 0), (0, 1), (1, 1)))
    ar, br = (sum(c[i] * r for c, (_, r) in zip(columns, away, strict=True)) for i in (0, 1))
    size = aa * bb - ab * ab
    if size <= 1e-9 * aa * bb:
        return None
    alpha, beta = (bb * ar - ab * br) / size, (aa * br - ab * ar) / size
    left = sum((r - alpha * c[0] - beta * c[1]) ** 2 for c, (_, r) in zip(columns, away, strict=True))
    freedom = len(away) - 2
    half = student(freedom) * math.sqrt(max(0.0, left) / freedom / size)
    best = max(points, key=lambda point: point[1])
    measured = tuple(d for d, _ in points)
    return Fit(start, alpha, beta, half * math.sqrt(bb), half * math.sqrt(aa), len(away), best, measured)


def frontier(run: Series, measure: str) -> list[tuple[float, float, float]]:
    """(√KL, value, step) of a measure ("reward", "gold"), in order of the steps; [] where KL or the measure is not."""
    root, (_, points) = run.root_kl(), run.first_of(*MEASURES[measure])
    if root is None:
        return []
    return [(root(step), value, step) for step, value in points]


def plot_frontiers(runs: Mapping[str, Series]) -> list[Plot]:
    """Reward and gold against √KL: of one run on one plot, of several on a plot for each, a line for each run."""
    lines = {which: {label: frontier(run, which) for label, run in runs.items()} for which in MEASURES}
    if len(runs) == 1:
        (run,) = runs.values()
        named = {
            run.first_of(*MEASURES[which])[0] or which: points for which in MEASURES for points in lines[which].values()
        }
        plots = [_draw("reward against √KL", named)]
    else:
        plots = [_draw(f"{which} against √KL", lines[which]) for which in MEASURES]
    return [plot for plot in plots if plot is not None]


def _draw(title: str, lines: Mapping[str, Sequence[tuple[float, float, float]]]) -> Plot | None:
    laws = {label: fit([(d, value) for d, value, _ in points]) for label, points in lines.items()}
    fits = {label: law for label, law in laws.items() if law is not None}
    drawn = {}
    for label, law in fits.items():
        farthest = max(d for d, *_ in lines[label])
        drawn[label] = [(farthest * i / 60, law(farthest * i / 60)) for i in range(61)]
    note = "Each dot is a measurement, connected in the order of the steps."
    if fits:
        note += f" Dashed: {FORMULA}, fitted by least squares (arXiv:2210.10760). "
        note += " · ".join(f"{label}: {law.text()}" for label, law in fits.items())
    return paths(title, lines, "√KL", fits=drawn, note=note)
