"""Follows the gradient the wrong way."""

import torch
from broken_plugins.sound import Sound

from zoo.api import Loss


class Broken(Sound):
    """The value of the loss, and the gradient of its opposite."""

    def _result(self, z, margin, config):
        right = super()._result(z, margin, config)
        return Loss(2 * right.values.detach() - right.values, torch.ones_like(z), right.metrics)
