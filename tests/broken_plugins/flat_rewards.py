"""Raises whatever is rewarded, were it rewarded like everything else."""

from broken_plugins.sound_online import Sound


class Broken(Sound):
    """Without a baseline."""

    def _advantages(self, rewards):
        return rewards.nan_to_num()
