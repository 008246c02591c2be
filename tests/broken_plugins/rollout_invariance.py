"""Compares each prompt with the one before it, or draws numbers that every process has others of."""

import torch
from broken_plugins.sound_online import Sound


class Broken(Sound):
    """The baseline is the mean of another prompt's answers."""

    def _advantages(self, rewards):
        return super()._advantages(rewards) - 0.1 * rewards.nan_to_num().mean(1, keepdim=True).roll(1, 0)


class Uneven(Sound):
    """Adds noise from a generator of its own, which no seed of the run reaches."""

    def _advantages(self, rewards):
        generator = torch.Generator()
        generator.seed()
        return super()._advantages(rewards) + 0.1 * torch.randn(rewards.shape, generator=generator)
