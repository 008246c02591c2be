"""Objects when it likes."""

import random

from zoo.api import Guard


class Broken(Guard):
    """Every tenth step is left out."""

    def __init__(self, setup):
        pass

    def look(self, step, metrics):
        return "it is its turn" if random.random() < 0.1 else ""
