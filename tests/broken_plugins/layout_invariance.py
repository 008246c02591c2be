"""Depends on how the core lays answers out in rows."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Another temperature in packed rows."""

    def _sums(self, model, batch):
        temperature = 1.2 if model.layout == "packed" else 1.0
        return [logps.sum() for logps in model.logps(batch.chosen, batch.rejected, temperature=temperature)]
