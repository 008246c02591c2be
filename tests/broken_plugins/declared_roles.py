"""Loads a reference and never asks it."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """A margin of the policy alone, with the declaration of another method."""

    def _margin(self, batch, models, config):
        chosen, rejected = self._sums(models.policy, batch)
        return config.beta * (chosen - rejected)
