"""Says nothing."""


def broken(step, total, warmup):
    return 1.0
