"""Comparing: several algorithms at equal compute from one start, or runs that are finished."""
