"""The norm of a gradient does not depend on how large the model is, or how its weights are cut."""

import math

import numpy
import pytest
import torch

from zoo.training.step.gradients import BLOCK, total_norm


def test_the_norm_of_thirty_million_elements_is_that_of_numpy_in_float64():
    """Added up in float32 it is off by a thousandth from some twenty millions on."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(30_000_000, generator=generator)
    exact = float(numpy.linalg.norm(gradient.numpy().astype(numpy.float64)))
    assert total_norm([gradient]) == pytest.approx(exact, rel=1e-6)
    assert total_norm(gradient.split(1_234_567)) == pytest.approx(total_norm([gradient]), rel=1e-6)


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_whatever_the_shape(count):
    gradients = [torch.full((count, 2), 2.0).t(), torch.tensor(3.0), torch.zeros(0)]
    assert total_norm(gradients) == pytest.approx(math.sqrt(8 * count + 9))


def test_in_bfloat16_only_the_elements_are_rounded():
    gradient = torch.full((1000,), 1.0, dtype=torch.bfloat16)
    assert total_norm([gradient]) == pytest.approx(math.sqrt(1000))


def test_no_gradient_has_no_length_and_no_number_is_none():
    assert total_norm([]) == 0.0
    assert math.isnan(total_norm([torch.ones(3), torch.tensor([math.nan])]))
    assert total_norm([torch.tensor([math.inf])]) == math.inf
