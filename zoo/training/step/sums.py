"""Sums and counts that are added up over micro-batches and processes before anything is divided."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.processes import begin_exchange, gathered, is_distributed, tensor_group
from zoo.values.loss import LARGEST, Metric

Pair = tuple[Tensor, Tensor]


class Sums:
    """Named (sum, count) pairs in float64; (largest, 1) where the name ends in `_max`."""

    def __init__(self) -> None:
        self._pairs: dict[str, Pair] = {}

    def add(self, pairs: Mapping[str, Pair]) -> None:
        for name, (total, count) in pairs.items():
            total, count = total.detach().double(), count.detach().double()
            if name in self._pairs:
                total, count = _together(name, self._pairs[name], (total, count))
            self._pairs[name] = (total, count)

    def reduced(self, device: torch.device) -> Sums:
        """The pairs of all processes together; every process must hold the same names."""
        if not is_distributed() or not self._pairs:
            return self
        begin_exchange()
        # In one order, whatever that of this process, which the result keeps.
        names = sorted(self._pairs)
        place = {name: 2 * number for number, name in enumerate(names)}
        mine = torch.stack([part.to(device) for name in names for part in self._pairs[name]])
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        together = Sums()
        # The processes of a tensor group have the same pairs.
        for stacked in every[:: tensor_group().size]:
            together.add({name: (stacked[place[name]], stacked[place[name] + 1]) for name in self._pairs})
        return together

    @property
    def pairs(self) -> Mapping[str, Pair]:
        return self._pairs

    @property
    def names(self) -> list[str]:
        return list(self._pairs)

    def total(self, name: str) -> float:
        return float(self._pairs[name][0])

    def count(self, name: str) -> float:
        return float(self._pairs[name][1])

    def means(self) -> dict[str, float]:
        """sum / count of every pair that counted something."""
        return {name: float(total / count) for name, (total, count) in self._pairs.items() if float(count) > 0}


def _together(name: str, a: Pair, b: Pair) -> Pair:
    if not name.endswith(LARGEST):
        return a[0] + b[0], a[1] + b[1]
    counted = [pair for pair in (a, b) if float(pair[1])]
    return max(counted, key=lambda pair: float(pair[0])) if counted else a


def case_values(metrics: Mapping[str, Metric], count: int) -> dict[str, list[float | None]]:
    """The metrics with one value for each of `count` examples; None for values that are missing or not finite."""
    return {
        name: [value if math.isfinite(value) else None for value in values.detach().tolist()]
        for name, values in metrics.items() if isinstance(values, Tensor) and values.shape == (count,)
    }  # fmt: skip


def add_cases(cases: dict[str, list[float | None]], more: Mapping[str, list[float | None]]) -> None:
    for name, values in more.items():
        cases.setdefault(name, []).extend(values)


def cases_of_all(cases: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """The cases of all processes, one process after the other."""
    together: dict[str, list[float | None]] = {}
    for share in gathered(cases):
        add_cases(together, share)
    return together
