"""Runs programs that a model wrote where they can do no harm, with a verdict for every test."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.rewards.asserts import Sealed, sealed

SCRIPT = Path(__file__).with_name("sandboxed.py")
STARTING = 10.0
"""Seconds that the interpreter has for its start, in addition to the program's own time."""
TRYING = 60.0
"""Seconds for a first look at what the machine offers, however busy it is."""
READY = b"ready"
"""What the script says on standard error when all fences stand; anything else is the reason why they do not."""
SWITCHES = {
    "kernel/unprivileged_userns_clone": ("0", "1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
    "user/max_user_namespaces": ("0", "10000"),
}
"""Settings of the kernel that keep namespaces from plain users: the value that does, and one that does not."""
CONTAINER = (
    "In a container, allow it namespaces (docker run --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined), or run outside of it"
)


@dataclass(frozen=True)
class Limits:
    """What a program may use: wall-clock seconds for all of its tests, bytes of memory, bytes of all its files."""

    seconds: float = 5.0
    memory: int = 512 << 20
    disk: int = 8 << 20


@dataclass(frozen=True)
class Printed:
    """A test of a program that reads and prints: its input, and the output that it should print."""

    given: str
    expected: str

    def passed_by(self, output: str) -> bool:
        """Whether the output is right; white space at the ends of lines and empty lines at the end are ignored."""
        return _lines(output) == _lines(self.expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


class NoBoundary(OSError):
    """The kernel does not carry the fences around a program; the text says what it refused."""


def verdicts(
    program: str, tests: Sequence[str | Sealed] | Sequence[Printed], limits: Limits, namespaces: bool = True,
    unsafe: bool = False, without: Collection[str] = (),
) -> list[bool]:  # fmt: skip
    """Whether each test passed; all tests are statements, which must not raise, or all are Printed.

    The tests run in order in one process, so a test that ends it or uses up the time fails, and so do all later tests.
    Expected results stay in this process as far as they can be separated from the tests. namespaces: False stands for
    a kernel that has none, and then only `unsafe` runs a program; without: fences that a test of the fences leaves
    out. Raises NoBoundary if the fences do not stand, OSError if no process can be started.
    """
    if not namespaces and not unsafe:
        raise NoBoundary("without namespaces there is no boundary around a program")
    key = secrets.token_hex(16)
    judged = [sealed(test) if isinstance(test, str) else test for test in tests]
    with tempfile.TemporaryDirectory(prefix="zoo-program-") as folder:
        job = {
            "program": program, "key": key, "folder": folder, "namespaces": namespaces, "without": list(without),
            "shown": _shown() if namespaces else [],
            "tests": [test.given if isinstance(test, Printed) else test.source for test in judged],
            "prints": any(isinstance(test, Printed) for test in tests),
            "seconds": limits.seconds, "memory": limits.memory, "disk": limits.disk,
        }  # fmt: skip
        results, told = _run(job, limits.seconds + STARTING)
    if told != READY:
        raise NoBoundary(told.decode(errors="replace").strip() or "the process for the program could not be started")
    records = [line for line in map(_read, results.splitlines()) if line.get("key") == key]
    # Of two lines for a test the first counts, so that a program cannot try one value after another.
    lines = {str(line.get("test")): line for line in reversed(records)}
    return [_passed(test, lines.get(str(i), {})) for i, test in enumerate(judged)]


def _passed(test: Sealed | Printed, line: dict[str, Any]) -> bool:
    """Whether a test passed, judged by the line from the program's process, which may hold anything."""
    if line.get("passed") is not True:
        return False
    if isinstance(test, Printed):
        return test.passed_by(str(line.get("output")))
    return test.holds(line.get("told", []))


def _read(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(line)
        return fields if isinstance(fields, dict) else {}
    return {}


# -- the process ---------------------------------------------------------------------------------------------------


def _run(job: dict[str, Any], seconds: float) -> tuple[bytes, bytes]:
    """The lines with results, and what the script told about the fences."""
    end = time.monotonic() + seconds
    process: Any = subprocess.Popen(
        _python(SCRIPT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=job["folder"],
        env={}, start_new_session=True,
    )  # fmt: skip
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(job).encode())
        return _heard(process.stdout, process.stderr, job["disk"], end)
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.stderr.close()
        process.wait()


def _python(script: Path) -> list[str]:
    """The command that runs a script with nothing but Python's standard library."""
    return [sys.executable, "-I", "-S", str(script)]


def _heard(results: Any, told: Any, most: int, end: float) -> tuple[bytes, bytes]:
    """What comes through two pipes until they close, each holds too many bytes, or the time is up."""
    heard = {results: bytearray(), told: bytearray()}
    with selectors.DefaultSelector() as open_ones:
        for pipe in heard:
            open_ones.register(pipe, selectors.EVENT_READ)
        while open_ones.get_map() and (left := end - time.monotonic()) > 0:
            for ready, _ in open_ones.select(left):
                part = os.read(ready.fd, 1 << 16)
                heard[ready.fileobj] += part
                if not part or len(heard[ready.fileobj]) > most:
                    open_ones.unregister(ready.fileobj)
    return bytes(heard[results][:most]), bytes(heard[told])


# -- the boundary of this machine ------------------------------------------------------------------------------------


@functools.cache
def _shown() -> list[str]:
    """The paths that a program sees. Raises OSError if Python cannot say what it needs."""
    command = _python(SCRIPT.with_name("fences.py"))
    try:
        return list(json.loads(subprocess.run(command, env={}, capture_output=True, timeout=TRYING).stdout))
    except (ValueError, subprocess.TimeoutExpired):
        raise NoBoundary("Python could not say which files it needs") from None


@functools.cache
def lacking() -> str:
    """Why this machine has no boundary around a program, "" if it has one. It is tried once."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces, which only Linux has"
    try:
        passed = verdicts("", ["pass"], Limits(seconds=TRYING))
    except OSError as error:
        return str(error)
    return "" if passed == [True] else "a program without a line does not come to its end behind the fences"


def remedy(settings: Path = Path("/proc/sys")) -> str:
    """What to do where there is no boundary."""
    for name, (closed, opened) in SWITCHES.items():
        with contextlib.suppress(OSError):
            if (settings / name).read_text().strip() == closed:
                return f"Let plain users have namespaces: sudo sysctl {name.replace('/', '.')}={opened}"
    return CONTAINER if sys.platform == "linux" else "Run it on Linux, or in a virtual machine with Linux"
