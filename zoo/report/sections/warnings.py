"""The warnings at the top of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.data.report import each_part
from zoo.evals.kept_scores import changes_of
from zoo.numbers import amount, decimal
from zoo.report.plots.series import Series
from zoo.report.sections.alarms import LENGTH_RATIO, alarms
from zoo.report.sections.answers import Row, mean_words
from zoo.runs import Run
from zoo.training.outlook import of_few_steps

DROPPED_SHARE = 0.05
FALL = 0.02
"""Warn if the log-probabilities of chosen answers fall by more than this share."""
FEW_HELD_OUT = 10
"""Warn of fewer held-out records, if something was computed on them."""
LOSS_RISE = 0.05
"""Warn if the validation loss ends this far above its lowest value, as a share of it."""


def run_warnings(run: Run, series: Series, samples: Sequence[Row]) -> list[str]:
    """The warnings of one run. series: of its metrics; samples: its own."""
    summary, warnings = run.summary, []
    before, after = summary.get("before", {}), summary.get("after", {})
    warnings += _fallen_scores(run)
    warnings += alarms(series)
    warnings += length_warning("The shown answers", *mean_words(samples), unit="words")
    warnings += _few_held_out(run.part("data.json", "held_out", "encoded").get("records"), after)
    warnings += displacement("The chosen answers", before.get("val/logps/chosen"), after.get("val/logps/chosen"))
    before_and_after = (side.get("val/logps/desirable") for side in (before, after))
    warnings += displacement("The desirable answers", *before_and_after)
    warnings += _loss_rose(series)
    if skipped := summary.get("skipped_steps"):
        why = "a guard objected, or there was nothing to learn from"
        warnings.append(f"{amount(skipped, 'step')} {'was' if skipped == 1 else 'were'} skipped: {why}.")
    warnings += guard_actions(summary.get("guards", {}))
    if summary.get("unrewarded_rollouts"):
        warnings.append(f"In {amount(summary['unrewarded_rollouts'], 'rollout')} no answer got a reward.")
    for change in run.read_json("fingerprints.json").get("changes", []):
        what = change["name"] + ("" if change["part"] == "value" else f" ({change['part']})")
        warnings.append(
            f"Resumed after step {change['step']}: {what} was {change['was']}, and is {change['is']} since."
        )
    warnings += _few_steps(run.config, summary)
    warnings += [
        f"{part}: {_dropped(facts)}" for part, facts in each_part(run.read_json("data.json")).items() if _dropped(facts)
    ]
    return warnings


DONE = {"warn": "objected to", "skip": "skipped", "rollback": "rolled the run back in", "stop": "stopped the run in"}
"""What a guard did, by its action."""


def guard_actions(counts: dict[str, dict[str, int]]) -> list[str]:
    """A sentence for each guard and action. counts: the number of steps by guard and action."""
    return [
        f"The guard {guard} {DONE[action]} {amount(count, 'step')}; offending.jsonl has the rows."
        for guard, actions in counts.items() for action, count in actions.items()
    ]  # fmt: skip


def displacement(what: str, before: float | None, after: float | None) -> list[str]:
    """A sentence if good answers became less likely: preference losses only train a difference."""
    if before is None or after is None or before - after <= FALL * abs(before):
        return []
    return [f"{what} of the held-out data became less likely: log π fell from {before:.1f} to {after:.1f}."]


def length_warning(whose: str, before: float | None, after: float | None, unit: str = "tokens") -> list[str]:
    """A sentence if answers became much longer or much shorter."""
    if not before or not after or 1 / LENGTH_RATIO < after / before < LENGTH_RATIO:
        return []
    return [
        f"{whose} are {after / before:.1f} times as long as the initial model's ({before:.0f} → {after:.0f} {unit})."
    ]


def _fallen_scores(run: Run) -> list[str]:
    """A sentence for each score that fell by more than its noise."""
    scores = run.summary.get("scores", {})
    return [
        f"{name} fell from {decimal(scores['before'][name]['value'])} to {decimal(scores['after'][name]['value'])}."
        for name, change in changes_of(run).items()
        if scores["after"][name].get("higher_is_better", True)
        and change.value < 0
        and (change.high is None or change.high < 0)
    ]


def _loss_rose(series: Series) -> list[str]:
    losses = [(value, step) for step, value in series.of("val/loss")]
    if len(losses) < 3:
        return []
    (lowest, at), (last, _) = min(losses), losses[-1]
    if last - lowest <= LOSS_RISE * abs(lowest):
        return []
    course = f"lowest at step {at} ({decimal(lowest)}) and ended at {decimal(last)}"
    return [f"The held-out loss was {course}: try fewer steps."]


def _few_steps(config: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    told = {"max_steps", "epochs"} <= config.keys() and not config.get("stream")
    note = of_few_steps(config["max_steps"], config["epochs"], summary.get("steps", 0)) if told else ""
    return [note] if note else []


def _few_held_out(count: int | None, after: dict[str, float]) -> list[str]:
    """A sentence if too few records were held out for their metrics to mean anything."""
    if not count or count >= FEW_HELD_OUT or not any(name.startswith("val/") for name in after):
        return []
    few = f"val/… is over {amount(count, 'held-out record')}, too few to tell anything"
    return [f"{few}: --eval-data FILE, or a larger --eval-fraction, gives more."]


def _dropped(facts: dict[str, Any]) -> str:
    dropped, rows = facts.get("dropped", 0) + facts.get("encoded", {}).get("dropped", 0), facts.get("rows", 0)
    return f"{dropped:,} of {amount(rows, 'row')} were dropped." if rows and dropped > DROPPED_SHARE * rows else ""
