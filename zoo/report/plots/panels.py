"""Which metrics stand in one plot, and under which heading: by their names, whatever algorithm logged them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from zoo.report.plots import lines as plots
from zoo.report.plots.axes import Plot
from zoo.report.plots.bars import grouped
from zoo.report.plots.series import Series, start_and_end

NO_CURVE = {"step", "epoch", "num_tokens"}
SIDES = ("chosen", "rejected", "desirable", "undesirable", "accepted")
"""Last parts of names that are sides of one thing, and stand in one plot."""
CORE_METRICS = {
    "loss": "What is minimised, over the whole optimizer step.",
    "grad_norm": "Norm of the gradient before clipping.",
    "lr": "Learning rate.",
    "skipped": "1 where a step was left out for a loss or gradient that is no number.",
    "reward": "Mean reward of the answers of a rollout, and of answers to held-out prompts; gold is a reward that the "
    "policy is not trained on.",
    "reward_std": "Standard deviation of the reward over the answers of a rollout; 0 teaches nothing.",
    "missing": "Share of answers without a reward, which are not trained on.",
    "length": "Mean tokens of an answer.",
    "length_max": "Tokens of the longest answer.",
    "length_ended": "Tokens of the answers that ended by themselves, mean.",
    "cut": "Share of answers that were cut at the longest length.",
    "flat_groups": "Share of prompts whose answers all had one reward: groups with nothing to learn.",
    "engine_gap": "Mean |log π| between the engine that wrote and the model that is trained, a token; rounding only.",
    "kl": "Distance from the reference.",
    "kl, held-out": "KL of policy to reference: mean of the log-ratio over held-out cases.",
    "clip shares": "Share of tokens whose ratio was held by the clip, below and above.",
    "entropy": "Of the policy, a token; near 0 nothing new is tried.",
    "speed": "Tokens a second: written by the engine, and trained on in optimizer steps.",
    "seconds": "Where the time goes: optimizer steps; rollouts, and of these writing answers and scoring them.",
    "memory_gb": "Most memory used so far, in 10⁹ bytes: of the GPU, else by this process.",
    "explained_variance": "1 is a critic that knows the return, 0 one that knows its mean; below 0 it misleads.",
}
SECTIONS = (
    (
        "Reward",
        r"(total_)?reward|reward/.*|reward_std|gold.*|missing|flat_groups|score|scores/.*|overlong|kept|resampled",
    ),
    ("Answers", r"length.*|cut"),
    ("Distance from the start", r"(.*/)?(kl(_.*)?|kl, held-out|entropy)|engine_gap"),
    (
        "Policy and critic",
        r"(.*/)?(ratio|clip|advantage|approx_kl|policy_loss|value|return|explained_variance).*|critic/.*",
    ),
    ("Time", r"speed|seconds|memory_gb"),
    ("Training", r".*"),
)
"""Headings, and the plots under each; the first that matches."""
ORDER = ("Reward", "Training", "Answers", "Distance from the start", "Policy and critic", "Time")
"""Headings as a page has them: what matters first, what it cost last."""
LAST = ("grad_norm", "lr", "skipped")
"""Plots at the end of their heading."""
GROUPS = re.compile(r"rollout/groups/(\d+)")
"""Share of prompts so many of whose answers had the best reward."""


def panel_of(name: str) -> tuple[str, str]:
    """The plot that a metric stands in, and the name of its line there."""
    held_out = name.startswith("val/")
    base = name.removeprefix("val/").removeprefix("rollout/")
    where = "held-out" if held_out else "training"
    stem, _, tail = base.rpartition("/")
    if stem in ("speed", "seconds"):
        return stem, tail
    if base in ("reward", "gold"):
        return "reward", f"{'gold, ' if base == 'gold' else ''}{where}"
    if stem and tail in SIDES:
        return stem, f"{tail}, {where}"
    if name == "val/kl":
        # In nats an answer; what an algorithm logs under the name may be a token's.
        return "kl, held-out", where
    if tail.startswith("approx_kl"):
        return "approx_kl", f"{tail}, {where}"
    if clip := re.fullmatch(r"clip(?:_share)?_?(low|high|)", tail):
        return "clip shares", f"{clip[1] or 'both'}, {where}"
    return base, where


def heading_of(panel: str) -> str:
    """The heading that a plot stands under."""
    return next(heading for heading, pattern in SECTIONS if re.fullmatch(pattern, panel))


def sections(run: Series, meaning: Mapping[str, str]) -> dict[str, list[Plot]]:
    """Plots of all metrics by heading, in the order of `ORDER`. meaning: a sentence for a metric or a plot."""
    panels: dict[str, dict[str, str]] = {}
    for name in run.names:
        if name not in NO_CURVE and not GROUPS.fullmatch(name):
            panel, line = panel_of(name)
            panels.setdefault(panel, {})[line] = name
    axes = run.axes()
    found: dict[str, list[Plot]] = {heading: [] for heading in ORDER}
    for panel, lines in sorted(panels.items(), key=lambda item: _rank(item[0])):
        series = {line: run.of(name) for line, name in lines.items()}
        plot = plots.curves(panel, series, axes, _note(panel, lines, meaning))
        if plot is not None:
            found[heading_of(panel)].append(plot)
    if histogram := group_histogram(run):
        found["Reward"].append(histogram)
    return {heading: drawn for heading, drawn in found.items() if drawn}


def _rank(panel: str) -> int:
    """The loss first, then what an algorithm reports, last what every step has."""
    return -1 if panel == "loss" else LAST.index(panel) + 1 if panel in LAST else 0


def _note(panel: str, lines: Mapping[str, str], meaning: Mapping[str, str]) -> str:
    """What is said of the first of its metrics, else of the plot."""
    names = [name.removeprefix("val/") for name in lines.values()]
    return next((meaning[name] for name in (*names, panel) if name in meaning), CORE_METRICS.get(panel, ""))


def group_histogram(run: Series) -> Plot | None:
    """Shares of the prompts by how many of their answers were right, in the first and last tenth of rollouts."""
    series = {int(found[1]): run.of(found[0]) for name in run.names if (found := GROUPS.fullmatch(name))}
    ends = {right: start_and_end(points) for right, points in sorted(series.items()) if points}
    if not ends:
        return None
    sides = {side: {str(right): pair[i] for right, pair in ends.items()} for i, side in enumerate(("start", "end"))}
    return grouped(
        "prompts by right answers", sides, "answers that are right", "Those of none and of all teach nothing."
    )
