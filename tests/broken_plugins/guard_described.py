"""Says nothing of itself."""

from zoo.api import Guard


class Broken(Guard):
    action = "warn"

    def __init__(self, setup):
        pass

    def look(self, step, metrics):
        return ""
