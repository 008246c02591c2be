"""Has its learning rates in the wrong order."""

from broken_plugins.sound import Sound

from zoo.api import Point


class Broken(Sound):
    """Names the largest model first."""

    defaults = {"lr": [Point(7e9, 1e-6, "the paper's"), Point(135e6, 1e-4, "tuned here")]}
