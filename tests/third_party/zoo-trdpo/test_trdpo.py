"""The tests that the authors of this package would write."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from zoo_trdpo import TRDPO

from zoo.testing import conformance, stand_ins
from zoo.testing.suite import Suite


class Often(TRDPO):
    """Renews its reference so often that the short runs of the checks see it."""

    @dataclass
    class Config(TRDPO.Config):
        renew_every: int = 2
        """Steps between two renewals."""


class Forgetful(Often):
    """A run that goes on does not know when it renewed its reference."""

    saved = ()


def test_the_reference_is_renewed_every_few_steps_and_not_while_held_out_rows_are_scored():
    sides = {"chosen": [-2.0], "rejected": [-6.0]}
    batch, models = stand_ins(policy=sides, anchor={"chosen": [-3.0], "rejected": [-5.0]})
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
    forgetful = Suite(Forgetful).run("killed and resumed")
    assert forgetful.result == "failed" and "self.renewed" in forgetful.detail


test_trdpo = conformance("trdpo")
