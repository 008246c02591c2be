"""Code of others in a process of its own: how it is found there, what that process may hold, and what its end was.

The process is a fresh interpreter, so it holds nothing of the run: no model, no GPU, no lock. Rewards and environments
live in such processes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.contract.faults import FILE_PREFIX
from zoo.contract.hook_arguments import shown
from zoo.contract.plugin_files import import_file
from zoo.errors import PluginError, ZooError
from zoo.secrets import scrubbed

LOADING = 120.0
"""Seconds for the import of a module."""
GRACE = 2.0
"""Seconds that a process has after its limit to report where it hung."""
SHOWN_ENDING = 200
WORKERS = "zoo/*/worker.py"
"""Files whose lines say nothing about the place where the code of others stood."""


class Failure(Exception):
    """A call that gave no result. kind: import, attribute, options, memory, raised, values, messages, late, ended."""

    def __init__(self, kind: str, reason: str, names: Sequence[str] = (), traceback: str = ""):
        self.kind, self.reason, self.names, self.traceback = kind, scrubbed(reason), list(names), traceback
        super().__init__(self.reason)


@dataclass(frozen=True)
class Target:
    """How a process finds a function or class: by its module or file, or from a pickle of it."""

    place: str
    attribute: str = ""
    pickled: bytes = b""

    def find(self) -> Any:
        """The function, or the function names of its module if none has that name. Raises what the import raises."""
        if self.pickled:
            import dill

            return dill.loads(self.pickled)
        if Path(self.place).is_file():
            try:
                module = import_file(Path(self.place))
            except ZooError as error:
                raise error.__cause__ or error from None
        else:
            module = importlib.import_module(self.place)
        function = getattr(module, self.attribute, None)
        return function if callable(function) else [name for name, member in vars(module).items() if callable(member)]


def target_of(function: Callable[..., Any], title: str, hint: str) -> Target:
    """The target of an object: its module or file if it has one, else a pickle.

    Raises PluginError if it cannot be pickled. title: what the error calls it ("reward 'mine'").
    """
    import dill

    module = sys.modules.get(str(getattr(function, "__module__", "")))
    file = getattr(module, "__file__", None)
    if module is not None and module.__name__.startswith(FILE_PREFIX) and file:
        return Target(file, getattr(function, "__name__", ""))
    try:
        # recurse: pickle only those globals that the function uses.
        return Target(file_of(function), pickled=dill.dumps(function, recurse=True))
    except Exception as error:
        raise PluginError(
            f"The {title} cannot be sent to a process of its own: {type(error).__name__}: {error}.", hint
        ) from None


def file_of(function: Any) -> str:
    """The file in which a function or class is defined, "" if unknown."""
    if isinstance(function, type):
        return getattr(sys.modules.get(function.__module__), "__file__", None) or ""
    function = getattr(function, "func", function)
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    return str(code.co_filename) if code else ""


# -- from the run's side -------------------------------------------------------------------------------------------


def interpreter(module: str, arguments: str, descriptor: int, printed: Any, **environ: str) -> subprocess.Popen[bytes]:
    """A fresh interpreter that calls `main(arguments)` of a module, and shares only a descriptor with this process.

    printed: the file that takes what it prints; environ: variables that it has beside those of this process.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main({arguments})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, pass_fds=[descriptor], env={**os.environ, **environ},
        # A session of its own: ctrl-C reaches only the run, and the processes that this one starts end with it.
        start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and every process that it started."""
    # Until the process is waited for, no other process can get its id.
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ending(status: int, printed: str, target: Target) -> str:
    """How a process ended, and where; or what it printed last. status: as `Popen.returncode`."""
    how = f"with exit status {status}" if status >= 0 else f"by signal {-status}"
    how += ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
    place = place_in(printed, target)
    last_output = " ".join(printed.split())[-SHOWN_ENDING:] if not place else ""
    return f"its process ended {how}{place}{f': {last_output}' if last_output else ''}"


def place_in(printed: str, target: Target) -> str:
    """The line of the target's file at which a process ended, from the output of Python's faulthandler."""
    lines = re.findall(r'^  File "(.+)", line (\d+) in (\S+)', printed, re.MULTILINE)
    own = [line for line in lines if target.place and Path(line[0]).name == Path(target.place).name]
    place = (own or [line for line in lines if not Path(line[0]).match(WORKERS)])[:1]
    return "".join(f" ({shown(file)}, line {line}, in {name})" for file, line, name in place)


def memory_limit() -> int | None:
    """Most bytes for a process: half of the memory that the machine, or the container, has left."""
    from zoo.processes import free_memory

    left = free_memory()
    return None if left is None else max(1 << 28, left // 2)


# -- from the inside -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ends_with(parent: int) -> Iterator[None]:
    """This process ends within a second after its parent."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            if os.getppid() != parent:
                os._exit(0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def limit_memory(memory: int | None) -> None:
    """Let this process hold so many bytes at most; it is also the first that the system ends."""
    # If the machine runs out of memory, Linux should end this process and not the run.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if memory is not None:
        import resource

        # Not the address space: libraries reserve much more of it than they use.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def describe(error: BaseException, file: str) -> str:
    """What was raised, and the last line of the given file in its traceback (or else of any file)."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == Path(file)]
    others = [
        frame
        for frame in frames
        if not Path(frame.filename).match(WORKERS) and not frame.filename.startswith("<frozen ")
    ]
    message = scrubbed(" ".join(str(error).split()))
    what = f"{type(error).__name__}: {message:.300}" if message else type(error).__name__
    if not (own or others):
        return what
    frame = (own or others)[-1]
    return f"{what} ({shown(frame.filename)}, line {frame.lineno}, in {frame.name})"
