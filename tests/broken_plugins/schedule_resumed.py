"""Counts its own calls, which begin at 0 again when a run is resumed."""

calls = 0


def broken(step, total, warmup):
    """A slow decay."""
    global calls
    calls += 1
    return 1 / (1 + calls)
