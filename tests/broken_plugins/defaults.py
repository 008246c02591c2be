"""Gives a reason for an option that it does not have."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Says `lrr` for `lr`."""

    reasons = {"lrr": "The paper's."}
