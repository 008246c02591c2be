"""Right with any number of processes that hold whole layers; wrong where each has a part of them."""

import math

import torch
from broken_plugins.sound import Sound

from zoo.api import Loss


class Broken(Sound):
    """Scales the loss by the number of the model's weights, of which a process of a tensor group counts its part."""

    def _result(self, z, margin, config):
        loss = super()._result(z, margin, config)
        return Loss.per_example(loss.values * self.size, loss.metrics)

    def loss(self, batch, models, config, step):
        self.size = math.log10(sum(parameter.numel() for parameter in models.policy.model.parameters()))
        return super().loss(batch, models, config, step)


class Drawing(Sound):
    """Noise as two processes of a group must not draw it: each from what the system gives it."""

    def loss(self, batch, models, config, step):
        loss = super().loss(batch, models, config, step)
        torch.seed()
        return Loss.per_example(loss.values * (1 + 0.1 * torch.rand(len(loss.values))), loss.metrics)
