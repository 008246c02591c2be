"""No program of `escapes.py` leaves the sandbox of the reward `code`, and each does once its fence is left out."""

import os
import sys
import time

import pytest
from escapes import ESCAPES, Escape, Heard, attempt, knows, made, says, sleeper

from zoo.rewards.sandbox import _shown, lacking


@pytest.fixture(autouse=True)
def boundary():
    if lacking():
        pytest.skip(f"no boundary here: {lacking()}")


@pytest.mark.parametrize("name", ESCAPES)
def test_the_kernel_holds_what_the_interpreter_does_not_stop(name):
    assert not attempt(ESCAPES[name], {"hook"})


@pytest.mark.parametrize("name", ESCAPES)
def test_without_its_fence_the_same_program_gets_out(name):
    assert attempt(ESCAPES[name], {"hook", ESCAPES[name].fence})


PATCHED = {
    "a file of the run, after patching what the hook calls": Escape(
        "mount",
        "import builtins, os\nbuiltins.any = builtins.all = lambda x: True\nos.remove('{run}/metrics.jsonl')",
        lambda world: not made("metrics.jsonl")(world),
    ),
    "a file outside, after patching how the hook reads paths": Escape(
        "mount",
        "import posixpath\nposixpath.abspath = lambda p: '/dev/null'\n"
        "posixpath._joinrealpath = lambda *a, **k: ('/dev/null', True)\nprint(open('{run}/metrics.jsonl').read())",
        knows,
    ),
    "a file in the run folder, by a library in C": ESCAPES["a data base in the run folder"],
}


@pytest.mark.parametrize("name", PATCHED)
def test_the_hook_of_the_interpreter_is_no_boundary_and_the_fence_behind_it_is(name):
    assert attempt(PATCHED[name], {"mount"})
    assert not attempt(PATCHED[name], set())


SHELL = Escape(
    "mount",
    "import _posixsubprocess, os, time\nr, w = os.pipe()\n"
    "_posixsubprocess.fork_exec([b'/bin/sh', b'-c', b'echo > {run}/shell'], [b'/bin/sh'], True, (w,), None, None, -1, "
    "-1, -1, -1, -1, -1, r, w, False, False, 0, None, None, None, -1, None, False)\ntime.sleep(1)",
    made("shell"),
)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the arguments are those of Python 3.11")
def test_a_shell_below_subprocess_meets_two_fences():
    assert attempt(SHELL, {"mount", "limits"})
    assert not attempt(SHELL, {"mount", "hook"}) and not attempt(SHELL, {"limits", "hook"})


LEFT_BEHIND = Escape(
    "limits",
    # The child leaves the group, lets the program end, and then ends the other process.
    "import os, signal, time\nr, w = os.pipe()\nif not os.fork():\n    os.setsid()\n    os.write(w, b'x')\n"
    "    time.sleep(0.5)\n    os.kill({process}, signal.SIGKILL)\n    os._exit(0)\nos.read(r, 1)",
    lambda world: ended_within(world.names["process"], 3.0),
    sleeper,
)


def ended_within(process, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(0.02)
    return False


def test_what_a_program_leaves_behind_ends_with_it_even_where_it_may_start_processes():
    assert attempt(LEFT_BEHIND, {"hook", "limits", "pid"})
    assert not attempt(LEFT_BEHIND, {"hook", "limits"})


def test_a_program_sees_no_file_but_those_that_python_needs():
    listing = "import os\nfor place, _, names in os.walk('/'):\n    for name in names: print(os.path.join(place, name))"
    attempt(Escape("mount", listing, says("")), {"hook"})
    shown = tuple(_shown())
    strange = [path for path in Heard.said.splitlines() if path and not path.startswith(shown)]
    assert strange == [] and len(Heard.said) > 10_000
