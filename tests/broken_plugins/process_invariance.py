"""Keeps a number of its own share of the step, so that every process has another one."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """The average of the first micro-batch that comes."""

    def _seen(self, batch, margin):
        return float(margin.detach().mean())
