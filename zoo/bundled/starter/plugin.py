"""The starter set as a plugin: a source, a reward and evaluations, registered like those of any plugin."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from zoo.bundled import starter
from zoo.contract.algorithm import Algorithm
from zoo.contract.hookspecs import hookimpl
from zoo.data.sources.named import DataSource
from zoo.rewards import instructions

LONGEST_ANSWER = 96
UNDESIRABLE_WEIGHT = 0.2
"""Weight of bad answers where an algorithm weights them. They are what the model writes by itself, and are lowered as
fast as good ones are raised: with equal weights most of what is learned is what not to write."""


def greedy() -> Any:
    """The sampling settings for answers to the held-out prompts."""
    from zoo.rollout.engine import Sampling

    return Sampling(max_new_tokens=LONGEST_ANSWER, temperature=0.0)


@hookimpl
def sources() -> dict[str, Any]:
    return {"starter": DataSource(starter.records, defaults)}


def defaults(part: str, algorithm: type[Algorithm]) -> dict[str, Any]:
    """The reward for this data, the score that shows whether answers have improved, and the weight of bad ones."""
    options: dict[str, Any] = {"score": {"lm": "instructions", "scalar": "pair_accuracy"}[algorithm.head]}
    if algorithm.data == "stepwise":
        options["score"] = "step_accuracy"
    if algorithm.online():
        options["reward"] = "instructions"
    if any(field.name == "undesirable_weight" for field in fields(algorithm.Config)):
        options["undesirable_weight"] = UNDESIRABLE_WEIGHT
    return {name: value for name, value in options.items() if name not in algorithm.defaults}


@hookimpl
def rewards() -> dict[str, Any]:
    return {"instructions": instructions.reward}


@hookimpl
def evals() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.answers import reward_eval

    return {
        "instructions": Eval(
            "Share of instructions followed in greedy answers to the starter set's held-out prompts.",
            lambda subject: reward_eval(
                "instructions", subject, starter.records("heldout", "prompt"), instructions.reward, greedy()
            ),
        ),
    }
