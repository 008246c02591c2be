"""Compares sums of the policy with means of the reference."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """A margin that is not zero at the start."""

    def _margin(self, batch, models, config):
        chosen, rejected = self._sums(models.policy, batch)
        frozen = [logps.mean() for logps in models.reference.logps(batch.chosen, batch.rejected)]
        return config.beta * (chosen - frozen[0] - rejected + frozen[1])
