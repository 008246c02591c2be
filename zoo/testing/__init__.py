"""For plugin authors: stand-in models that return given numbers, so that a formula is checked without a network."""

from zoo.testing.stand_ins import stand_ins

__all__ = ["stand_ins"]
