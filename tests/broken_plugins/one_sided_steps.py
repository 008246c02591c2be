"""Divides by a spread that a single example does not have."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Standardises the margins."""

    def _result(self, z, margin, config):
        return super()._result(z / z.std(), margin, config)
