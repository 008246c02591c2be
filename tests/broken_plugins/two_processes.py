"""Right in one process, and in two that a test imitates; wrong where each process really is alone with its examples."""

import os
import time

import torch
from broken_plugins.sound import Sound

from zoo.api import Loss


class Broken(Sound):
    """Trains a number of its own by its own optimizer, which exchanges nothing."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))
        self.optimizer = torch.optim.SGD([self.offset], lr=0.1)
        self.learned = -1

    def _result(self, z, margin, config):
        if self.learned != self.step:
            self.learned = self.step
            self.optimizer.step()
            self.optimizer.zero_grad()
        if torch.is_grad_enabled():
            (z.detach() - self.offset).square().sum().backward()
        return super()._result(z - self.offset.detach(), margin, config)


class OwnMean(Sound):
    """Divides by the mean length of the micro-batch, which another cut changes."""

    def loss(self, batch, models, config, step):
        loss = super().loss(batch, models, config, step)
        lengths = torch.tensor([float(len(answer.completion)) for answer in batch.chosen])
        return Loss.per_example(loss.values / lengths.mean(), loss.metrics)


class OwnStream(Sound):
    """Noise from a generator that is seeded by the process."""

    def _result(self, z, margin, config):
        generator = torch.Generator().manual_seed(os.getpid())
        return super()._result(z + 0.1 * torch.randn(z.shape, generator=generator), margin, config)


class FirstOnly(Sound):
    """Learns in the first process alone."""

    def _result(self, z, margin, config):
        return super()._result(z if os.environ.get("RANK", "0") == "0" else 0 * z, margin, config)


class Failing(Sound):
    """Fails in the second process alone."""

    def _result(self, z, margin, config):
        if os.environ.get("RANK") == "1":
            raise ValueError("Where am I?")
        return super()._result(z, margin, config)


class Sleeping(Sound):
    """Never comes back in the second process."""

    def _result(self, z, margin, config):
        time.sleep(3600 if os.environ.get("RANK") == "1" else 0)
        return super()._result(z, margin, config)


class Noisy(Sound):
    """Draws noise as it may: each process has its own."""

    def loss(self, batch, models, config, step):
        loss = super().loss(batch, models, config, step)
        return Loss.per_example(loss.values * (1 + 0.1 * torch.rand(len(loss.values))), loss.metrics)
