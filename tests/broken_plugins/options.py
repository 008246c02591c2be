"""Changes an option when it is read, so that a file of options means something else each time it is read."""

from dataclasses import dataclass

from broken_plugins.sound import Sound


class Broken(Sound):
    """Doubles β."""

    @dataclass
    class Config(Sound.Config):
        def __post_init__(self):
            self.beta *= 2
