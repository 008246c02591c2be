"""Has twice the slope, so that it goes below the floor."""


def broken(step, total, warmup):
    """A line that ends too early."""
    return 1 - 2 * step / total
