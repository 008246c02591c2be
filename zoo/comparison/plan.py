"""The plan of a comparison: its runs, with their numbers of steps and tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy

from zoo.comparison.budget import DEFINITION, Planner, Written
from zoo.comparison.entrants import Entrant, Settings
from zoo.data.encoding.records import PROMPT_HASH
from zoo.data.encoding.template import ChatTemplate
from zoo.data.work import Prompts
from zoo.errors import ZooError
from zoo.options.config import Resolved


@dataclass
class Planned:
    """One planned run; resolved is its complete configuration."""

    entrant: Entrant
    seed: int
    resolved: Resolved
    steps: int
    tokens: int
    passes: float
    fingerprints: dict[str, str]
    """Fingerprints of its training data, as in data.json."""

    @property
    def name(self) -> str:
        return re.sub(r"[^\w.+-]", "-", f"{self.entrant.label}-seed{self.seed}")


@dataclass
class Plan:
    """All runs, and what makes them comparable."""

    runs: list[Planned]
    budget: int
    reason: str
    trained_prompts: Prompts
    """Prompts that some run trains on."""
    notes: list[str]

    def definition(self) -> str:
        return f"{DEFINITION} Every run stops at the step nearest to {self.budget:,} of them: {self.reason}."


def make_plan(
    settings: Settings, template: ChatTemplate, model: str, out: str, tokens: int | None, say: Any,
    written: Written | None = None,
) -> Plan:  # fmt: skip
    """Read the data as each entrant will, count tokens, and choose the steps. Raises ZooError if one cannot be trained.

    model: the name of the start in runs; tokens: the budget, or None for that of the shortest entrant; written: gives
    the mean length of answers, for entrants that write their own.
    """
    planners, own = {}, {}
    for entrant in settings.entrants:
        say(f"Counting the tokens of {entrant.label}")
        resolved = _resolved(settings, entrant, 0, model, out)
        planners[entrant.label] = Planner(resolved, entrant.cls, template, written)
        own[entrant.label] = planners[entrant.label].steps(resolved)
        if not own[entrant.label].tokens[-1]:
            raise ZooError(
                f"The trained tokens of {entrant.label} cannot be counted before it trains.",
                "Leave it out of --algos; finished runs are compared with: zoo compare RUN RUN",
            )
    shortest = min(own, key=lambda label: own[label].tokens[-1])
    budget = tokens or own[shortest].tokens[-1]
    reason = "as --tokens asks" if tokens else f"the number of {shortest}, which trains on the fewest tokens by default"
    runs = []
    for seed in settings.seeds:
        for entrant in settings.entrants:
            runs.append(_planned(settings, entrant, seed, planners[entrant.label], budget, model, out))
    prompts = Prompts(
        numpy.concatenate([planner.data.train.records.column(PROMPT_HASH) for planner in planners.values()])
    )  # fmt: skip
    notes = [f"{label}: {planner.note}." for label, planner in planners.items() if planner.note]
    return Plan(runs, budget, reason, prompts, notes)


def _resolved(settings: Settings, entrant: Entrant, seed: int, model: str, out: str, **more: Any) -> Resolved:
    """The configuration of a run of the comparison, which scores it itself and validates only at both ends."""
    decided: dict[str, Any] = {"seed": seed, "model": model, "out": out, "score": "none", **more}
    return settings.resolve(entrant, **decided)


def _planned(
    settings: Settings, entrant: Entrant, seed: int, planner: Planner, budget: int, model: str, out: str
) -> Planned:
    steps, epochs = planner.steps_until(_resolved(settings, entrant, seed, model, out), budget)
    count = steps.nearest(budget)
    more: dict[str, Any] = {"max_steps": count, "epochs": epochs}
    if not any("eval_every" in layer for layer in (settings.common, settings.given)):
        more["eval_every"] = count
    resolved = _resolved(settings, entrant, seed, model, out, **more)
    facts = {part: facts_of_part["fingerprint"] for part, facts_of_part in planner.data.facts.items()}
    passes = count * steps.batch_size / steps.records
    return Planned(entrant, seed, resolved, count, steps.tokens[count - 1], passes, facts)
