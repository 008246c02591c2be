"""The processes of a run: which one this is, how many there are, and what each of them holds.

torch is imported where it is used: a list of runs asks only whether their processes are alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BEFORE: list[Callable[[], None]] = []


def before_exchanges(call: Callable[[], None]) -> None:
    """Call this before every exchange between the processes."""
    if call not in _BEFORE:
        _BEFORE.append(call)


def begin_exchange() -> None:
    """To be called by all processes before they exchange something."""
    for call in _BEFORE:
        call()


def _exchange() -> Any:
    import torch.distributed

    return torch.distributed


def is_distributed() -> bool:
    dist = _exchange()
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leave_processes() -> None:
    """End the exchange between processes, all at once: one that exits with its threads running is aborted."""
    dist = _exchange()
    if dist.is_available() and dist.is_initialized():
        begin_exchange()
        dist.barrier()
        dist.destroy_process_group()


# -- tensor groups -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorGroup:
    """The processes that compute each layer together, on the same rows: `size` of them, with ranks that follow.

    rank: of this process in it; group: torch's, None of a process alone.
    """

    size: int = 1
    rank: int = 0
    group: Any = None


_GROUP: list[TensorGroup] = []


def set_tensor_group(group: TensorGroup | None) -> None:
    """From now on this process is in a group; None: in none."""
    _GROUP[:] = [] if group is None else [group]


def tensor_group() -> TensorGroup:
    return _GROUP[0] if _GROUP else TensorGroup()


def agreed(mine: Any) -> Any:
    """What the first process of this tensor group holds: it decides where theirs may differ, as by the clock."""
    group = tensor_group()
    if group.size == 1:
        return mine
    held = [mine]
    _exchange().broadcast_object_list(held, group=group.group, group_src=0)
    return held[0]


# -- what each of them holds ---------------------------------------------------------------------------------------


def from_all(mine: Any) -> list[Any]:
    """What each process holds, in the order of the processes; tensors in it should be on the CPU."""
    dist = _exchange()
    if not is_distributed():
        return [mine]
    begin_exchange()
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, mine)
    return held


def gathered(mine: Any) -> list[Any]:
    """What each share of the work holds, in their order: of a tensor group that of its first process."""
    return from_all(mine)[:: tensor_group().size]


def my_place() -> tuple[int, int]:
    """The share of the work that this process has, and how many there are. A tensor group has one together."""
    rank, processes = my_rank()
    size = tensor_group().size
    return rank // size, processes // size


def my_rank() -> tuple[int, int]:
    """This process and how many there are."""
    dist = _exchange()
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return my_rank()[0] == 0


def leads() -> bool:
    """Whether this process is the first one of its tensor group, whose part of what is `gathered` counts."""
    return tensor_group().rank == 0


def process_is_alive(pid: int) -> bool:
    """Whether a process of this machine goes on; one that has ended and was not asked for its status does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


DEATH_SIGNAL = 1
"""Linux's PR_SET_PDEATHSIG."""


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the thread that started it ends; only Linux can."""
    if sys.platform == "linux":
        _system().prctl(DEATH_SIGNAL, int(number))


ADOPTION = 36
"""Linux's PR_SET_CHILD_SUBREAPER."""


def adopt_orphans() -> None:
    """From now on, what a child leaves running becomes a child of this process; only Linux can."""
    if sys.platform == "linux":
        _system().prctl(ADOPTION, 1)


def children() -> set[int]:
    """The processes whose parent is this one, also those that have ended; none where the system does not tell."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, thread.read_text().split()))
    return found


@functools.cache
def _system() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def free_memory() -> int | None:
    """Bytes that the machine, or the container, has left; None where the system does not tell."""
    left = []
    with contextlib.suppress(OSError):
        if found := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()):
            left.append(int(found[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        left.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    return min(left) if left else None


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
