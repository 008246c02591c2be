"""Treats the first example of a micro-batch in its own way."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Compares each pair with its neighbour."""

    def _result(self, z, margin, config):
        return super()._result(z - 0.5 * z.roll(1).detach(), margin, config)
