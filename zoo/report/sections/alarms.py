"""Warnings about what can go wrong when a policy learns from its own answers, from the metrics by their names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from zoo.guards.bundled import COLLAPSE, ENGINE_GAP, FAR
from zoo.numbers import amount
from zoo.report.plots.axes import Point, number
from zoo.report.plots.series import Series, mean, start_and_end
from zoo.report.sections.overoptimisation import MEASURES, fit, frontier

FALL_OF_GOLD = 0.1
"""Warn if the gold reward ends this far below its best value, as a share of its range."""
SURE = 3.0
"""The fall of the gold reward must be this many times its noise."""
LARGEST_RATIO = 10.0
MISSING = 0.05
HALF = 0.5
LENGTH_RATIO = 1.5
"""Warn if answers become this many times as long, or as short."""


def alarms(run: Series) -> list[str]:
    """The warnings, most important first."""
    return [
        *_overoptimised(run), *_nothing_to_learn(run), *_answers(run), *_policy(run), *_critic(run), *_far(run),
    ]  # fmt: skip


def noise_of(values: Sequence[float]) -> float:
    """The standard deviation of the noise in a curve; a steady rise or fall adds nothing.

    It is estimated from second differences, whose variance is six times that of independent noise; 0 for fewer than
    three values.
    """
    bends = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return math.sqrt(sum(bend**2 for bend in bends) / (6 * len(bends))) if bends else 0.0


def _overoptimised(run: Series) -> Iterator[str]:
    (proxy, rewards), (gold, scores) = (run.first_of(*MEASURES[which]) for which in ("reward", "gold"))
    if len(scores) < 3 or not rewards:
        return
    values = [value for _, value in scores]
    best_at, best = max(scores, key=lambda point: point[1])
    last_at, last = scores[-1]
    rise = _at(rewards, last_at) - _at(rewards, scores[0][0])
    fall = best - last
    if fall <= FALL_OF_GOLD * (max(values) - min(values)) or fall <= SURE * noise_of(values) or rise <= 0:
        return
    text = (
        f"Over-optimised: {proxy} rose by {number(rise)} over the run while {gold} fell by {number(fall)} "
        f"after step {number(best_at)} ({number(best)} → {number(last)})"
    )
    law = fit([(d, value) for d, value, _ in frontier(run, "gold")])
    top = law.peak if law is not None else None
    farthest = max((d for d, *_ in frontier(run, "gold")), default=0.0)
    yield text + (f"; the fitted peak is at KL {number(top)}." if top and top < 4 * farthest**2 else ".")


def _nothing_to_learn(run: Series) -> Iterator[str]:
    if spread := run.of("rollout/reward_std"):
        flat = sum(value < 1e-9 for _, value in spread)
        if flat > HALF * len(spread):
            yield f"The reward was constant in {flat} of {amount(len(spread), 'rollout')}: nothing to learn there."
    if (flat_groups := run.of("rollout/flat_groups")) and mean(flat_groups) > HALF:
        yield (
            f"For {mean(flat_groups):.0%} of the prompts all answers had the same reward (mean over "
            f"{amount(len(flat_groups), 'rollout')}): groups with nothing to learn. "
            "Try harder or easier prompts, more answers, or a finer reward."
        )
    if (missing := run.of("rollout/missing")) and mean(missing) > MISSING:
        yield f"{mean(missing):.0%} of the answers had no reward (mean over {amount(len(missing), 'rollout')})."


def _answers(run: Series) -> Iterator[str]:
    for name in ("val/length", "rollout/length"):
        if len(points := run.of(name)) > 1:
            before, after = start_and_end(points)
            if before > 0 and not 1 / LENGTH_RATIO < after / before < LENGTH_RATIO:
                yield f"Mean length ×{after / before:.1f}: {name} went from {before:.0f} to {after:.0f} tokens."
            break
    if (cut := run.of("rollout/cut")) and mean(cut) > HALF:
        yield (
            f"{mean(cut):.0%} of the answers were cut at the length limit (mean over {amount(len(cut), 'rollout')}), "
            "so unfinished answers are scored. Try a larger --max-new-tokens."
        )


def _policy(run: Series) -> Iterator[str]:
    if len(entropy := run.ending("entropy")) > 1:
        before, after = start_and_end(entropy)
        if before > 0 and after < COLLAPSE * before:
            share = f"{after / before:.0%} of its initial value ({number(before)} → {number(after)})"
            yield f"The entropy collapsed to {share}: the policy hardly explores."
    if ratio := run.ending("ratio_max"):
        at, highest = max(ratio, key=lambda point: point[1])
        if highest > LARGEST_RATIO:
            yield f"The largest ratio of new to old probability was {number(highest)}, at step {number(at)}."
    if (gap := run.of("rollout/engine_gap")) and mean(gap) > ENGINE_GAP:
        yield f"The engine's log-probabilities differ from the trainer's by {mean(gap):.3f} per token."


def _critic(run: Series) -> Iterator[str]:
    if explained := run.ending("explained_variance"):
        _, last = start_and_end(explained)
        if last < 0:
            yield (f"The critic's explained variance ended at {last:.2f}, below 0: a constant predicts returns better.")


def _far(run: Series) -> Iterator[str]:
    name, points = run.kl
    if points and name == "val/kl":
        at, farthest = max(points, key=lambda point: point[1])
        if farthest > FAR:
            yield f"KL from the reference reached {farthest:.0f} nats per answer, at step {number(at)}."


def _at(points: list[Point], step: float) -> float:
    """The value at the last point up to a step, or at the first one."""
    return next((value for at, value in reversed(points) if at <= step), points[0][1])
