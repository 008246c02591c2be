"""The likeliest words of a model at each token, which take the place of a teacher in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TopLogps:
    """The K likeliest words at each completion token of B answers, with their log-probabilities; a field of a `Batch`.

    ids: int64 [C, K] for each answer, C its completion tokens; logps: float32 [C, K + 1] for each, the last is that of
    all other words together.
    """

    def __init__(self, ids: Sequence[Tensor], logps: Sequence[Tensor]):
        self.ids, self.logps = list(ids), list(logps)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Ids [C, K] and log-probs [C, K + 1] of one answer."""
        return self.ids[index], self.logps[index]

    def select(self, indices: Sequence[int]) -> TopLogps:
        return TopLogps([self.ids[i] for i in indices], [self.logps[i] for i in indices])

    def to(self, device: torch.device | str) -> TopLogps:
        return TopLogps([ids.to(device) for ids in self.ids], [logps.to(device) for logps in self.logps])

    def at(self, answer: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Of N tokens: ids [N, K] and log-probs [N, K + 1]. answer, index: which answer, which completion token."""
        starts = torch.tensor([0, *(len(ids) for ids in self.ids)], device=index.device).cumsum(0)
        place = starts[answer] + index
        return torch.cat(self.ids).to(place.device)[place], torch.cat(self.logps).to(place.device)[place]
