"""The bandit: one question, two answers, and a rater who always prefers the first (arXiv:2310.12036, section 5).

The start gives both answers the same probability. The result of training on pairs that never contradict each other can
be computed: a target of 1/(2τ) for the difference of log-ratios gives π(first) = σ(1/(2τ)), and a logistic loss on the
difference has no optimum, so π(first) goes to 1 for any β.
"""

from __future__ import annotations

import math
from typing import Any

from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.errors import NoSuchSplit, ZooError
from zoo.evals import Eval, Score, Subject, mean_score

QUESTION, ANSWERS = "choose", ("first", "second")


def rows(split: str, kind: str, rows: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs, all equal; nothing is random, and only the base uses the seed."""
    if kind != "preference":
        raise ZooError(f"The bandit has only pairs, no data of kind '{kind}'.", "Train with an algorithm for pairs.")
    if split != "train":
        raise NoSuchSplit(f"The bandit has no split '{split}': all its pairs are equal.", "Leave out the split.")
    pair = {"prompt": QUESTION, "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    return [{**pair, "number": number} for number in range(rows)]


def bandit_eval(subject: Subject) -> Score:
    """π(first), computed from the probabilities of the two whole answers."""
    from zoo.evals.answers import score_all

    logps = [
        float(answer_logps.sum())
        for answer_logps in score_all(subject, [subject.template.answer(QUESTION, a) for a in ANSWERS])
    ]
    difference = logps[0] - logps[1]
    details = {"log_odds": difference, "both": math.exp(logps[0]) + math.exp(logps[1])}
    return mean_score("bandit", [1 / (1 + math.exp(-difference))], details=details)


def evals() -> dict[str, Eval]:
    text = "Probability π(y1) of the answer that world:bandit's rater always prefers."
    return {"bandit": Eval(text, bandit_eval, details=("log_odds", "both"), by_default=False)}


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """The paper's settings except the number of steps: Adam, no clipping; the rate decays, so that π settles."""
    return {
        "lr": 0.01, "schedule": "linear", "warmup": 0, "max_grad_norm": 0, "batch_size": 8, "epochs": 50,
        "eval_fraction": 0, **({"score": "bandit"} if algorithm.head == "lm" else {}),
    }  # fmt: skip


WORLD = World((QUESTION, *ANSWERS), rows, network={"width": 12, "layers": 1, "uniform": True}, defaults=defaults)
