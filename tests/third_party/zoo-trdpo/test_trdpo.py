"""The tests that the authors of this package would write."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from zoo_trdpo import TRDPO

from zoo.testing import conformance, stand_ins
from zoo.testing.suite import Suite


class Often(TRDPO):
    """Renews its reference so often that the short runs of the checks see it."""

    @dataclass
    class Config(TRDPO.Config):
        renew_every: int = 2
        """Steps between two renewals."""


def test_the_reference_is_renewed_every_few_steps_and_not_while_held_out_rows_are_scored():
    given = {"policy": (-2.0, -6.0), "anchor": (-3.0, -5.0)}
    sides = {role: {"chosen": torch.tensor([a]), "rejected": torch.tensor([b])} for role, (a, b) in given.items()}
    batch, models = stand_ins(**sides)
    renewals, algorithm = [], TRDPO()
    models["anchor"].renew = lambda: renewals.append(algorithm.renewed)
    config = SimpleNamespace(beta=0.5, renew_every=2)
    for step, training in enumerate([True, True, False, True, True, True]):
        models.training = training
        loss = algorithm.loss(batch, models, config, step)
    assert renewals == [0, 2] and algorithm.renewed == 4
    # 0.5·((−2 + 3) − (−6 + 5)) = 1.
    assert float(loss.values) == pytest.approx(math.log1p(math.exp(-1)))


def test_a_run_that_was_killed_goes_on_with_the_weights_of_the_last_renewal():
    assert Suite(Often).run("killed and resumed").result == "passed"


test_trdpo = conformance("trdpo")
