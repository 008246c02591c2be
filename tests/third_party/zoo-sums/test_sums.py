"""The tests that the authors of this package would write."""

import math

import pytest
import torch
from zoo_sums.algorithm import AWR
from zoo_sums.plugin import right, rows

from zoo.testing import conformance, stand_ins


def test_the_weight_of_an_answer_is_that_of_its_advantage():
    logps = torch.tensor([-2.0, -4.0], requires_grad=True)
    batch, models = stand_ins(
        policy={"completion": logps}, lengths={"completion": [2, 4]}, fields={"label": torch.tensor([True, False])}
    )
    batch.measured = {"reward": torch.tensor(0.5)}
    loss = AWR().loss(batch, models, AWR.Config(beta=0.5), step=0)
    # V = 0.5: e and 1/e, times a mean log-probability of −1.
    assert loss.values.tolist() == pytest.approx([math.e, 1 / math.e])
    loss.numerator.backward()
    assert logps.grad.tolist() == pytest.approx([-math.e / 2, -1 / math.e / 4])


def test_half_of_the_answers_are_right_and_the_reward_knows_which():
    found = rows("heldout", "feedback")
    assert right([row["completion"] for row in found], found) == [float(row["label"]) for row in found]
    assert right(["It is 7, no, 8."], [{"sum": 8}]) == [1.0] and right(["8"], [{}]) == [None]


test_awr = conformance("awr")
