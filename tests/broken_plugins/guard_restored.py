"""Forgets its highest loss when a run is resumed."""

from zoo.api import Guard


class Broken(Guard):
    """The loss has no new maximum."""

    def __init__(self, setup):
        self.highest = 0.0

    def look(self, step, metrics):
        before, self.highest = self.highest, max(self.highest, metrics.get("loss", 0.0))
        return f"the loss rises from {before:g} to {self.highest:g}" if self.highest > before > 0 else ""
