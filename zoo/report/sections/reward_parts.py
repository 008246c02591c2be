"""The parts of a reward: the contribution of each, stacked."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.errors import ZooError
from zoo.options.expression import Expression
from zoo.report.plots.axes import Plot
from zoo.report.plots.lines import curves, stacked
from zoo.report.plots.series import Series

PREFIX = "rollout/reward/"
"""Before the name of a part, in metrics; its mean is taken before it is weighted."""
PROBES = ((1.0, 1.0, 1.0), (-1.0, 2.0, 0.5), (3.0, -0.5, 7.0))
"""Values of the parts at which a weighted sum is distinguished from another expression."""
TITLE = "reward parts"


def reward_parts(run: Series, text: str) -> Plot | None:
    """The parts of the reward of rollouts. None if it has only one part. text: the reward's expression.

    The parts of a weighted sum are stacked, times their weights; those of any other combination are drawn as lines.
    """
    parts = {name.removeprefix(PREFIX): run.of(name) for name in run.names if name.startswith(PREFIX)}
    parts = {name: points for name, points in parts.items() if points}
    if len(parts) < 2:
        return None
    weights = weights_of(text)
    if not weights.keys() >= parts.keys():
        return curves(
            TITLE, parts, run.axes(), "Mean of each part over the answers of a rollout, before they are combined."
        )
    added = {name: [(step, weights[name] * value) for step, value in points] for name, points in parts.items()}
    names = {name: f"{weights[name]:g} × {name}" for name in parts}
    note = "Mean of each part over the answers of a rollout, times its weight; the line is the reward."
    return stacked(TITLE, {names[name]: points for name, points in added.items()}, run.of("rollout/reward"), note)


def weights_of(text: str) -> Mapping[str, float]:
    """The weight of each part of a reward by its label, if it is a weighted sum of them; else empty."""
    try:
        expression = Expression(text)
    except ZooError:
        return {}
    mentions = expression.mentions
    nothing = dict.fromkeys(mentions, 0.0)
    if expression.value(nothing) != 0.0:
        return {}
    alone = {mention: expression.value({**nothing, mention: 1.0}) for mention in mentions}
    weights = {mention: value for mention, value in alone.items() if value is not None}
    for probe in PROBES if len(weights) == len(mentions) else ():
        values = {mention: probe[i % 3] * (i + 1) for i, mention in enumerate(mentions)}
        expected, value = sum(weights[mention] * values[mention] for mention in mentions), expression.value(values)
        if value is None or abs(value - expected) > 1e-9 * max(1.0, abs(expected)):
            return {}
    return {mention.label: weight for mention, weight in weights.items()} if len(weights) == len(mentions) else {}
