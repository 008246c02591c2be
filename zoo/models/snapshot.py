"""Weights of a model as they were at one time, which it can be given back for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from zoo.libraries.architecture import evaluating
from zoo.libraries.sharding import Gathering, cut_dims, part_like
from zoo.libraries.turns import add_variant, as_variant, is_shared


class Snapshot:
    """A copy of a model's trained weights: the present ones, or `weights` by name."""

    def __init__(self, model: torch.nn.Module, weights: Mapping[str, Tensor] | None = None):
        self.model = model
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if weights is None:
            self.weights = {name: p.detach().clone() for name, p in trained.items()}
        else:
            self.weights = {name: _as_part(weights[name], p) for name, p in trained.items()}
        self._number = add_variant(self)

    def whole(self) -> dict[str, Tensor]:
        """The weights; of a model that is shared out, all processes ask for them together."""
        if not is_shared(self.model):
            return self.weights
        gathering = Gathering(self.weights, dict(self.model.named_parameters()))
        return dict(zip(self.weights, gathering.each(self.weights), strict=True))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """The model with these weights, in eval mode and without gradient."""
        with evaluating(self.model), torch.no_grad():
            # Autocast's copies of the present weights would be used for the former ones.
            torch.clear_autocast_cache()
            with as_variant(self._number):
                yield

    def swap(self) -> None:
        """Exchange these weights and those of the model."""
        # Copied into place: a sharded weight cannot be given another tensor. Through `.data`, so that autograd does not
        # take for changed what a backward pass still needs: by then the present weights are back, bit for bit.
        for name, parameter in self.model.named_parameters():
            if name in self.weights:
                present = parameter.detach().clone()
                parameter.data.copy_(self.weights[name])
                self.weights[name] = present


def _as_part(complete: Tensor, parameter: Tensor) -> Tensor:
    """A copy of whole weights, kept as a parameter is."""
    return part_like(complete.to(parameter.dtype, copy=True), parameter, cut_dims().get(id(parameter)))
