"""Has a sign wrong: the loss falls, and the model learns to prefer what was rejected."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Raises the rejected answer."""

    def _result(self, z, margin, config):
        return super()._result(-z, margin, config)
