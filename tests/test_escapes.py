"""No program of `escapes.py` leaves the sandbox of the reward `code`, and each does once its fence is left out."""

import os
import time

import pytest
from escapes import ESCAPES, Escape, Heard, attempt, says, sleeper

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


LEFT_BEHIND = Escape(
    "limits",
    # The child waits until the program is over, and then ends the other process.
    "import os, signal, time\nif not os.fork():\n    os.setsid()\n    time.sleep(0.5)\n"
    "    os.kill({process}, signal.SIGKILL)\n    os._exit(0)\n",
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
