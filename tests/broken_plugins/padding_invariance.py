"""Averages over the width of the batch instead of over an answer's own tokens."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Padding counts as tokens."""

    def _sums(self, model, batch):
        return [10 * logps.per_token.mean(-1) for logps in model.logps(batch.chosen, batch.rejected)]
