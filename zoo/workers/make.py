"""`--workers`: a number of processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import ZooError
from zoo.options.spelling import bind, parse
from zoo.workers.tasks import Workers

CHOICES = "Give a number of processes (--workers 4), ray, or ray(cpus=4, gpus=1, address=HOST:6379)."
HELP = "Run several at a time: a number of processes, or ray for a cluster (docs/clusters.md)."


def make_workers(text: str) -> Workers:
    """The workers that a text names. Raises ZooError for other texts, and where there is no such cluster."""
    if text.strip().lstrip("-").isdigit():
        return _processes(int(text))
    name, options = parse(text, "value of --workers", "ray(cpus=4)")
    if name != "ray":
        raise ZooError(f"--workers {text} is neither a number of processes nor ray.", CHOICES)
    from zoo.workers.cluster import ClusterWorkers

    return ClusterWorkers(**bind(ClusterWorkers, options, "value ray of --workers", fixed=0))


def without(arguments: Sequence[str], *flags: str) -> list[str]:
    """A command's arguments without these flags and their values."""
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in flags:
            next(rest, None)
        elif not argument.startswith(tuple(f"{flag}=" for flag in flags)):
            left.append(argument)
    return left


def _processes(count: int) -> Workers:
    from zoo.workers.local import LocalWorkers

    if count < 1:
        raise ZooError(f"--workers {count} leaves no process.", CHOICES)
    return LocalWorkers(count)
