"""Takes the mean of the micro-batch for the mean of the step."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Centres on the examples that happen to be beside each other."""

    def _result(self, z, margin, config):
        return super()._result(z - z.mean(), margin, config)
