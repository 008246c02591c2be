"""Comparisons: several algorithms at equal compute from one start, or finished runs."""
