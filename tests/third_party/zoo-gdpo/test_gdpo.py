"""The tests that the authors of this package would write."""

import pytest
import torch
from zoo_gdpo import advantages

from zoo.testing import conformance


def test_advantages_are_those_of_trl():
    """TRL 1.16.0 with multi_objective_aggregation=normalize_then_sum and the weights 1 and 0.5."""
    right = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    short = torch.tensor([[1.0, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.float64)
    assert advantages(torch.stack([right, short]), [1.0, 0.5]).flatten().tolist() == pytest.approx(
        [
            *(1.352098974263057, 0.14059351796723843, -0.7463462461151477, -0.7463462461151477),
            *(-0.9086290922218638, 0.30287636407395463, -0.9086290922218638, 1.5143818203697732),
        ]
    )


def test_rewards_whose_sum_is_equal_are_told_apart():
    """A sum of (0, 1, 1, 1) and (1, 0, 0, 0) is flat; a rare reward is worth more than a common one."""
    rewards = torch.tensor([[[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]], [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    found = advantages(rewards, [1.0, 1.0])
    assert found[0, 0] != pytest.approx(found[0, 1])


def test_a_missing_reward_counts_nowhere():
    rewards = torch.tensor([[[1.0, torch.nan, 0.0]], [[1.0, 0.0, 1.0]]])
    rewards[1, 0, 1] = torch.nan
    assert advantages(rewards, [1.0, 1.0])[0, 1] == 0


test_gdpo = conformance("gdpo")
