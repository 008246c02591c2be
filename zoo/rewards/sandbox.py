"""Runs programs that a model wrote where they can do little harm, with a verdict for every test."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.rewards.asserts import Sealed, sealed

SCRIPT = Path(__file__).with_name("sandboxed.py")
STARTING = 10.0
"""Seconds that the interpreter has for its start, in addition to the program's own time."""


@dataclass(frozen=True)
class Limits:
    """What a program may use: wall-clock seconds for all of its tests, bytes of memory, bytes of each file."""

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


def verdicts(
    program: str, tests: Sequence[str] | Sequence[Printed], limits: Limits, namespaces: bool = True
) -> list[bool]:
    """Whether each test passed; all tests are statements, which must not raise, or all are Printed.

    The tests run in order in one process, so a test that ends it or uses up the time fails, and so do all later tests.
    Expected results stay in this process as far as they can be separated from the tests. namespaces: False leaves out
    what only Linux has. Raises OSError if no process can be started.
    """
    key = secrets.token_hex(16)
    judged = [test if isinstance(test, Printed) else sealed(test) for test in tests]
    with tempfile.TemporaryDirectory(prefix="zoo-program-") as folder, tempfile.TemporaryFile() as results:
        job = {
            "program": program, "key": key, "folder": folder, "namespaces": namespaces,
            "tests": [test.given if isinstance(test, Printed) else test.source for test in judged],
            "prints": any(isinstance(test, Printed) for test in tests),
            "seconds": limits.seconds, "memory": limits.memory, "disk": limits.disk,
        }  # fmt: skip
        _start(job, results, folder, limits.seconds + STARTING)
        results.seek(0)
        records = [line for line in map(_read, results.read(limits.disk).splitlines()) if line.get("key") == key]
        if not records and not _is_done(results):
            raise OSError("the process for the program could not be started")
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


def _start(job: dict[str, Any], results: Any, folder: str, seconds: float) -> None:
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(job).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SCRIPT), str(results.fileno())],
            stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[results.fileno()],
            cwd=folder, env={"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin"}, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def _is_done(results: Any) -> bool:
    """Whether the watching process finished, however the program ended."""
    results.seek(0)
    return b'{"done": true}' in results.read()


def _read(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(line)
        return fields if isinstance(fields, dict) else {}
    return {}
