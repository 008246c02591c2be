"""The starter set as a plugin: a source, a reward and three evaluations, registered like anybody's."""

from __future__ import annotations

from typing import Any

from zoo.data import starter
from zoo.hookspecs import hookimpl
from zoo.rewards import instructions

LONGEST_ANSWER = 96


@hookimpl
def sources() -> dict[str, Any]:
    return {"starter": starter.records}


@hookimpl
def rewards() -> dict[str, Any]:
    return {"instructions": instructions.reward}


@hookimpl
def evals() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.answers import loss_eval, preference_eval, reward_eval
    from zoo.rollout.engine import Sampling

    greedy = Sampling(max_new_tokens=LONGEST_ANSWER, temperature=0.0)
    return {
        "instructions": Eval(
            "Share of instructions followed in greedy answers to the starter set's held-out prompts.",
            lambda subject: reward_eval(
                "instructions", subject, starter.records("heldout", "prompt"), instructions.reward, greedy
            ),
        ),
        "heldout_loss": Eval(
            "Negative log-likelihood a token of the held-out demonstrations.",
            lambda subject: loss_eval("heldout_loss", subject, starter.records("heldout", "demonstration")),
        ),
        "preference_accuracy": Eval(
            "Share of held-out pairs whose chosen answer is likelier a token.",
            lambda subject: preference_eval("preference_accuracy", subject, starter.records("heldout", "preference")),
        ),
    }
