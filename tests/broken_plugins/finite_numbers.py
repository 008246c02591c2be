"""Takes the logarithm of a sigmoid that has become zero."""

from broken_plugins.sound import Sound

from zoo.api import Loss


class Broken(Sound):
    """The formula as it stands in the paper."""

    def _result(self, z, margin, config):
        return Loss.per_example(-z.sigmoid().log(), self._metrics(margin))
