"""Takes for granted that there is a loss."""

from zoo.api import Guard


class Broken(Guard):
    """The loss is below a limit."""

    def __init__(self, setup, limit: float = 80.0):
        self.limit = limit

    def look(self, step, metrics):
        return "the loss is high" if metrics["loss"] > self.limit else ""
