"""Draws random numbers that no seed reaches."""

import torch
from broken_plugins.sound import Sound


class Broken(Sound):
    """Noise from a generator of its own."""

    def _result(self, z, margin, config):
        generator = torch.Generator()
        generator.seed()
        return super()._result(z + 0.1 * torch.randn(z.shape, generator=generator), margin, config)
