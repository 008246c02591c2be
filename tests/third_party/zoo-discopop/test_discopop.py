"""The tests that the authors of this package would write."""

import math

import pytest
import torch
from zoo_discopop import DiscoPOP

from zoo.testing import conformance, stand_ins


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_far_margins_stay_finite(size):
    chosen = torch.tensor([size], requires_grad=True)
    zero = torch.zeros(1)
    batch, models = stand_ins(policy={"chosen": chosen, "rejected": zero}, reference={"chosen": zero, "rejected": zero})
    loss = DiscoPOP().loss(batch, models, DiscoPOP.Config())
    loss.numerator.backward()
    assert loss.values.isfinite().all() and chosen.grad.isfinite().all()


def test_the_loss_has_a_hill_at_the_start():
    zero = torch.zeros(1, dtype=torch.float64)
    chosen = zero.clone().requires_grad_()
    batch, models = stand_ins(policy={"chosen": chosen, "rejected": zero}, reference={"chosen": zero, "rejected": zero})
    DiscoPOP().loss(batch, models, DiscoPOP.Config(beta=1.0)).numerator.backward()
    assert float(chosen.grad) == pytest.approx((1 - math.log(2)) / (4 * 0.05) - 0.75)


test_discopop = conformance("discopop")
