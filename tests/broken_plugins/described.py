"""Has an option without help."""

from dataclasses import dataclass

from broken_plugins.sound import Sound


class Broken(Sound):
    """Says nothing of its sharpness."""

    @dataclass
    class Config(Sound.Config):
        sharpness: float = 1.0
