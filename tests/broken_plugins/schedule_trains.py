"""Divides steps as integers, so that the rate is that of the floor throughout."""


def broken(step, total, warmup):
    """A line without its fractions."""
    return (total - step - 1) // total
