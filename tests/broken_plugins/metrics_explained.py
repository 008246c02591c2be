"""Reports what it does not explain."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Calls the margin `margins`."""

    def _metrics(self, margin):
        metrics = super()._metrics(margin)
        metrics["margins"] = metrics.pop("margin")
        return metrics
