"""The tests that the authors of this package would write."""

import torch
from zoo_rho1 import largest

from zoo.api import TokenLogps
from zoo.testing import conformance


def test_the_tokens_with_the_largest_excess_are_learned():
    mask = torch.tensor([[True, True, True, True, True], [True, True, False, False, False]])
    excess = torch.tensor([[0.1, 0.5, -1.0, 0.4, 0.2], [0.3, 0.2, 9.0, 9.0, 9.0]])
    logps = TokenLogps(torch.zeros(2, 5), mask)
    assert largest(excess, logps, 0.6).tolist() == [[False, True, False, True, True], [True, True, False, False, False]]
    assert largest(excess, logps, 0.1).sum(1).tolist() == [1, 1]


test_rho1 = conformance("rho1")
