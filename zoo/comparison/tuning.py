"""Tuning before a comparison: every setting of a sweep is trained, and the best of each entrant is compared.

Settings are chosen by held-out prompts that are cut off the training part, with seeds of their own, so the held-out
rows of the comparison are looked at once. Each entrant should get the same effort; the report says what each got.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.comparison.entrants import TUNING, TUNING_SEEDS, Entrant, Settings, split_option
from zoo.contract.registry import contributions, manager
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.options.config import TrainConfig
from zoo.options.spelling import seeds as seeds_in
from zoo.options.spelling import split
from zoo.paths import write_text
from zoo.training.datasets import brings_held_out
from zoo.workers.tasks import Workers

FILE = "tuning.json"
"""What a tuning found, in its folder."""
MEASURES = ("preference_accuracy", "plain_accuracy")
"""Measures of the table that settings may be chosen by, beside rewards; of all, more is better."""
SHARE = 0.1
"""Of the training prompts, what settings are chosen by."""


@dataclass(frozen=True)
class Setting:
    """One entrant with values of its swept options. options: as text, empty for an entrant without a sweep."""

    entrant: Entrant
    options: Mapping[str, str]

    @property
    def label(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.entrant.label}@{values}" if values else self.entrant.label


def read_sweeps(texts: Sequence[str], settings: Settings) -> list[Setting]:
    """The settings of all entrants, from `label.option=value,value`; several sweeps of an entrant are combined.

    Raises ZooError for other texts, and options that are set twice.
    """
    sweeps: dict[str, dict[str, list[str]]] = {entrant.label: {} for entrant in settings.entrants}
    for text in texts:
        label, option, values = split_option(text, "--sweep", settings)
        listed = split(values) or []
        if len(set(listed)) < 2:
            raise ZooError(f"--sweep {text} has no two values.", f"Write --sweep {label}.{option}=0.05,0.1,0.5")
        if option in sweeps[label] or option in settings.sets.get(label, {}):
            raise ZooError(f"{label}.{option} is set twice.", "Sweep it or set it, once.")
        sweeps[label][option] = listed
    return [
        Setting(entrant, dict(zip(sweeps[entrant.label], values, strict=True)))
        for entrant in settings.entrants for values in itertools.product(*sweeps[entrant.label].values())
    ]  # fmt: skip


def tuning_settings(settings: Settings, tried: Sequence[Setting], seeds: Sequence[int], data: str) -> Settings:
    """The settings of the comparison of all settings, which cuts its held-out prompts off `data`."""
    entrants = [replace(setting.entrant, label=setting.label) for setting in tried]
    sets = {setting.label: {**settings.sets.get(setting.entrant.label, {}), **setting.options} for setting in tried}
    own = {setting.label: settings.own.get(setting.entrant.label, {}) for setting in tried}
    given = {**settings.given, "data": data, "eval_data": None, "eval_fraction": SHARE}
    return replace(settings, entrants=entrants, seeds=list(seeds), given=given, sets=sets, own=own)


def training_part(core: TrainConfig) -> str:
    """The data without the rows that the comparison holds out. Raises ZooError where these are a share of it."""
    if "(" in core.data or "+" in core.data:
        raise ZooError("A sweep cuts its prompts off one source of data.", "Give one --data, without a mixture.")
    if brings_held_out(replace(core, eval_data=None), contributions(manager(), "sources")):
        return f"{core.data}@train"
    if core.eval_data is None:
        raise ZooError(
            f"The comparison holds out a share of {core.data}, and a sweep would choose by the same prompts.",
            "Name held-out rows of their own: --eval-data FILE",
        )
    return core.data


@dataclass
class Tuned:
    """A tuning: its comparison of all settings, and afterwards what it found. make: of `tune`."""

    settings_before: Settings
    folder: str
    make: Callable[..., Any]
    tried: list[Setting]
    measure: str
    seeds: list[int]
    comparison: Any
    plan: Any
    outcome: dict[str, Any] = field(default_factory=dict)

    def go(self, workers: Workers | None) -> Any:
        """Train every setting, and give the comparison of the best ones. workers: as of `Comparison.go`."""
        settings = self.settings(self.comparison.go(self.plan, workers))
        for line in told(self.outcome):
            self.comparison.say(line)
        comparison = self.make(settings, self.folder)
        comparison.tuning = self.outcome
        return comparison

    def settings(self, results: Mapping[str, Any]) -> Settings:
        """The settings of the comparison with the best options of each entrant; what was found is written."""
        self.outcome = {**chosen(results, self.tried, self.measure), "seeds": self.seeds}
        write_text(self.comparison.folder / FILE, json.dumps(self.outcome, indent=1, ensure_ascii=False) + "\n")
        best = {label: one["best"] for label, one in self.outcome["entrants"].items()}
        before = self.settings_before
        return replace(before, sets={label: {**before.sets.get(label, {}), **best[label]} for label in best})


def tune(
    comparison: Any, sweeps: Sequence[str], by: str | None, seeds: str | None, make: Callable[..., Any]
) -> Tuned:  # fmt: skip
    """The plan of a tuning. comparison: the one that it is for; by: a measure, or a reward of greedy answers;
    make: makes a comparison of settings in a folder. Raises ZooError."""
    if by is None:
        raise ZooError(
            "--sweep does not know what to choose by.",
            "Add --tune-by with a reward (--tune-by instructions), or with a measure such as preference_accuracy.",
        )
    settings = comparison.settings
    tried = read_sweeps(sweeps, settings)
    numbers = seeds_in(seeds) if seeds is not None else list(TUNING_SEEDS)
    if shared := sorted(set(numbers) & set(settings.seeds)):
        raise ZooError(f"The seed {shared[0]} is to choose and to compare.", "Give --tune-seeds others than --seeds.")
    # What the comparison itself lacks is told before hours of tuning.
    comparison.plan()
    of_all = tuning_settings(settings, tried, numbers, training_part(comparison.core))
    reward = None if by in MEASURES else by
    made = make(of_all, str(comparison.folder / TUNING), only=f"{TUNING}/", reward=reward)
    return Tuned(settings, str(comparison.folder), make, tried, by, numbers, made, made.plan())


def chosen(results: Mapping[str, Any], tried: Sequence[Setting], measure: str) -> dict[str, Any]:
    """What tuning found, as JSON types: for each entrant the settings with their scores, and the best one.

    results: of the comparison of all settings. Raises ZooError if an entrant has no setting that finished.
    """
    found = {entrant["label"]: entrant for entrant in results["algorithms"]}
    entrants: dict[str, Any] = {}
    for setting in tried:
        measured = found.get(setting.label)
        row = {
            "options": dict(setting.options),
            "score": measured["measures"].get(measure, {}).get("mean") if measured else None,
            "tokens": _spent(measured["measures"]) if measured else 0,
        }
        entrants.setdefault(setting.entrant.label, {"settings": []})["settings"].append(row)
    for label, one in entrants.items():
        finished = [row for row in one["settings"] if row["score"] is not None]
        if not finished:
            raise ZooError(f"No setting of {label} finished, so none can be chosen.", "The messages above say why.")
        one["best"] = max(finished, key=lambda row: row["score"])["options"]
        one["tokens"] = sum(row["tokens"] for row in one["settings"])
    return {"by": measure, "cases": results["runs"][0]["intervals"][measure][2], "entrants": entrants}


def _spent(measures: Mapping[str, Any]) -> float:
    """Tokens that the runs of a setting were trained on and wrote."""
    return sum(sum(measures[name]["values"]) for name in ("trained_tokens", "generated_tokens") if name in measures)


def told(tuning: Mapping[str, Any]) -> list[str]:
    """What each entrant got, as sentences; the last one says so where the effort was not equal."""
    lines = [
        f"Tuned by {tuning['by']} on {amount(tuning['cases'], 'case')} cut off the training part, seeds "
        f"{', '.join(map(str, tuning['seeds']))}:"
    ]
    counts = {label: len(one["settings"]) for label, one in tuning["entrants"].items()}
    for label, one in tuning["entrants"].items():
        best = ", ".join(f"{name} {value}" for name, value in one["best"].items()) or "its defaults"
        count = amount(counts[label], "setting")
        lines.append(f"  {label}: {count}, {one['tokens']:,.0f} tokens, best {best}")
    if len(set(counts.values())) > 1:
        lines.append("The effort was not equal: who got more settings has an advantage.")
    return lines
