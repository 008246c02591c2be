"""The tests that the authors of this package would write."""

import pytest
import torch
from zoo_maxrl import advantages

from zoo.testing import conformance


def test_advantages_are_those_of_the_authors_code():
    """compute_maxrl_outcome_advantage of tajwarfahim/maxrl, which adds 1e-6 to the mean."""
    right = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.float64)
    assert advantages(right).flatten().tolist() == pytest.approx(
        [
            *(0.999998000004, -0.999998000004, -0.999998000004, 0.999998000004),
            *(0.0, 0.0, 0.0, 0.0),
            *(0.3333328888894815, 0.3333328888894815, 0.3333328888894815, -0.9999986666684444),
        ],
        abs=3e-6,
    )


def test_a_missing_reward_is_in_no_mean():
    right = torch.tensor([[1.0, torch.nan, 0.0, 0.0, 0.0]])
    assert advantages(right).flatten().tolist() == pytest.approx([3.0, 0.0, -1.0, -1.0, -1.0])


test_maxrl = conformance("maxrl")
