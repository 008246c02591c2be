"""Evaluations on answers in the data, by default the starter set's: loss, pairs, rankings."""

from __future__ import annotations

from zoo.evals import Score, Subject
from zoo.evals.answers import loss_eval, preference_eval
from zoo.evals.reward_models import pair_eval, ranking_eval, step_eval
from zoo.evals.rows import records_of


def heldout_loss(
    subject: Subject, data: str = "starter", split: str = "", columns: str = "", limit: int | None = None
) -> Score:
    """Negative log-likelihood per token of the demonstrations."""
    return loss_eval("heldout_loss", subject, records_of(subject, data, "demonstration", split, columns, limit))


def preference_accuracy(
    subject: Subject, data: str = "starter", split: str = "", columns: str = "", limit: int | None = None
) -> Score:
    """Share of pairs whose chosen answer has the higher log-probability per token."""
    return preference_eval(
        "preference_accuracy", subject, records_of(subject, data, "preference", split, columns, limit)
    )


def pair_accuracy(
    subject: Subject, data: str = "starter", split: str = "", columns: str = "", limit: int | None = None
) -> Score:
    """Share of pairs whose chosen answer has the higher reward."""
    return pair_eval("pair_accuracy", subject, records_of(subject, data, "preference", split, columns, limit))


def ranking_accuracy(
    subject: Subject, data: str = "starter", split: str = "", columns: str = "", limit: int | None = None
) -> Score:
    """Share of pairs of answers to a prompt that the reward orders as their ranks do."""
    return ranking_eval("ranking_accuracy", subject, records_of(subject, data, "ranking", split, columns, limit))


def step_accuracy(
    subject: Subject, data: str = "starter", split: str = "", columns: str = "", limit: int | None = None,
    zero: str = "",
) -> Score:  # fmt: skip
    """Share of the steps of solutions, up to the first wrong one, whose probability is on the right side of ½.

    zero: the meaning of label 0: wrong, right or skip; by default wrong, but it must be given if there are labels −1.
    """
    return step_eval("step_accuracy", subject, records_of(subject, data, "stepwise", split, columns, limit), zero)
