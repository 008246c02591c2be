"""For plugin authors: stand-in models for formulas, and conformance checks for the whole algorithm."""

from zoo.testing.stand_ins import stand_ins
from zoo.testing.suite import conformance

__all__ = ["conformance", "stand_ins"]
