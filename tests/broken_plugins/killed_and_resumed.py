"""Forgets its average when a run is resumed."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Names nothing that must be saved."""

    saved = ()
