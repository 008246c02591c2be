"""Functions that raise, hang, end their process or take all memory cost the answers they fail on, and nothing else."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from zoo.errors import PluginError, ZooError
from zoo.rewards import isolation
from zoo.rewards.functions import in_process
from zoo.rewards.reward import Reward
from zoo.rewards.worker import as_json

MINE = """
import os, re, sys, time
import numpy


def each(texts, records):
    return [one(text) for text in texts]


def one(text):
    if text == "raise":
        raise ValueError("cannot say")
    if text == "hang":
        while True: pass

    if text == "sleep":
        time.sleep(60)
    if text == "backtrack":
        return float(bool(re.fullmatch("(a+)+", "a" * 60 + "b")))
    if text == "exit":
        sys.exit(1)
    if text == "die":
        os._exit(3)
    if text == "crash":
        os.kill(os.getpid(), 11)
    if text == "memory":
        held = []
        while True:
            held.append(bytearray(1 << 24))
    if text == "nan":
        return float("nan")
    if text == "none":
        return None
    if text == "array":
        return numpy.float32(0.5)
    return 1.0


def few(texts, records):
    return [1.0]


def many(texts, records):
    return [1.0] * (len(texts) + 1)


def number(texts, records):
    return 1.0


def words(texts, records):
    return ["good"] * len(texts)


def slow(texts, records):
    time.sleep(0.05 * len(texts))
    return [1.0] * len(texts)


def chatty(texts, records):
    print("to be or", end="")
    print("not to be", file=sys.stderr)
    os.system("echo loud")
    return [1.0] * len(texts)


def process(texts, records):
    return [os.getpid()] * len(texts)


def loaded(texts, records):
    return [float("torch" in sys.modules)] * len(texts)


def facts(texts, records, ended, tokens=None, weight: float = 1.0):
    return [weight * n if end else None for n, end in zip(tokens, ended)]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(MINE)
    return str(file)


@pytest.fixture
def make(mine):
    """Makes the reward of a function of the file, and ends its process after the test."""
    made = []

    def reward(function, timeout=4.0, **options):
        made.append(Reward(f"'{mine}:{function}'", {}, timeout=timeout, **options))
        return made[-1]

    yield reward
    for one in made:
        one.close()


def detailed(reward, *texts, **facts):
    return reward.detailed(list(texts), [{"prompt": "x"}] * len(texts), **facts)


def reasons(found):
    return [reason.split(": ", 1)[1] for reason in found.failures]


def test_a_number_that_float32_cannot_hold_is_no_reward():
    assert as_json(-3.4e38) == -3.4e38
    assert as_json(1e39) == "gave 1e+39, more than the largest reward, 3.4e+38"
    assert as_json(float("inf")) == "gave inf"


# -- one bad answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise", r"ValueError: cannot say (MINE, line 12, in one)"),
        ("hang", "no reward within 1 s (MINE, line 14, in one)"),
        ("backtrack", "no reward within 1 s (MINE, line 19, in one)"),
        ("exit", "SystemExit: 1 (MINE, line 21, in one)"),
        ("die", "its process ended with exit status 3"),
        ("crash", "its process ended by signal 11 (MINE, line 25, in one)"),
        ("nan", "gave nan"),
        ("none", "gave none"),
    ],
)
def test_a_bad_answer_costs_its_own_reward_and_no_other(make, mine, text, reason):
    reward = make("each")
    found = detailed(reward, "good", text, "array")
    assert found.values == [1.0, None, 0.5]
    assert reasons(found) == [reason.replace("MINE", mine)]
    assert list(found.failures.values()) == [1]
    assert detailed(reward, "good").values == [1.0]


def test_a_function_that_takes_all_memory_is_stopped_before_the_run_is(make, mine, monkeypatch):
    monkeypatch.setattr(isolation, "memory_limit", lambda: 400 << 20)
    found = detailed(make("each", timeout=10.0), "good", "memory")
    assert found.values == [1.0, None]
    assert reasons(found)[0].startswith("MemoryError (")


def test_half_of_the_free_memory_is_the_limit():
    assert 1 << 28 <= isolation.memory_limit() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_hang_takes_no_longer_than_a_few_limits(make):
    reward = make("each", timeout=0.4)
    began = time.monotonic()
    found = detailed(reward, *["sleep"] * 20, "good")
    assert time.monotonic() - began < 10
    assert found.values == [None] * 21
    assert sum(found.failures.values()) == 21
    assert any(reason.startswith("not reached, because of other answers") for reason in reasons(found))


def test_a_batch_that_only_takes_too_long_is_scored_one_by_one_and_said_once(make):
    said = []
    reward = make("slow", timeout=0.9, say=said.append)
    for _ in range(2):
        assert detailed(reward, *["x"] * 20).values[:3] == [1.0] * 3
    assert len(said) == 1 and "--reward-timeout" in said[0]


# -- functions that are wrong altogether -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("few", "gave 1 value for 2 answers"),
        ("many", "gave 3 values for 2 answers"),
        ("number", "gave 1.0, not a number for each answer"),
        ("words", "'good' is not a number"),
    ],
)
def test_a_function_that_gives_no_value_for_each_answer_is_an_error_after_three_batches(make, function, message):
    reward = make(function)
    detailed(reward, "a", "b")
    detailed(reward, "a", "b")
    with pytest.raises(PluginError, match=f"{function}' failed on all of 3 batches in a row") as caught:
        detailed(reward, "a", "b")
    assert message in caught.value.message
    assert "returns as many numbers" in caught.value.hint


def test_one_good_answer_ends_the_row_of_bad_batches(make):
    reward = make("each")
    for text in ("raise", "raise", "good", "raise", "raise", "none"):
        detailed(reward, text, text)
    with pytest.raises(PluginError, match=r"ValueError: cannot say .*line 12"):
        for _ in range(3):
            detailed(reward, "raise")


def test_who_has_one_batch_only_hears_of_it_at_once(make):
    with pytest.raises(PluginError, match="failed on the whole batch: ValueError"):
        detailed(make("each", patience=1), "raise", "raise")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nowhere_at_all", r"ModuleNotFoundError.*broken\.py, line 1"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("import os\nos._exit(7)", "its process ended with exit status 7"),
        ("import sys\nsys.exit(1)", "SystemExit"),
        ("def f(texts): return [1.0]", r"takes 1 arguments"),
        ("f = 3", "has no function 'f'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_an_error_before_anything_else(tmp_path, code, message):
    (tmp_path / "broken.py").write_text(code + "\n")
    with pytest.raises(ZooError, match=message) as caught:
        Reward(f"'{tmp_path / 'broken.py'}:f'", {})
    assert "character 1" in caught.value.message


# -- the process -------------------------------------------------------------------------------------------------


def test_one_process_serves_all_batches_and_is_another_than_this(make):
    reward = make("process")
    first, second = detailed(reward, "a").values, detailed(reward, "b").values
    assert first == second != [os.getpid()]
    reward.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(first[0]), 0)


def test_the_process_knows_nothing_of_torch(make):
    import torch  # noqa: F401 (this process does)

    assert detailed(make("loaded"), "a").values == [0.0]


def test_what_a_function_prints_is_not_seen(make, capfd):
    assert detailed(make("chatty"), "a").values == [1.0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["good", "sleep"])
def test_the_process_ends_with_its_parent(mine, tmp_path, text):
    """Killed, so that the parent can do nothing about it; idle, and in the middle of a call."""
    code = f"""
import json, threading, time
from zoo.contract.own_process import Target
from zoo.rewards.isolation import Isolated
part = Isolated("mine", Target({mine!r}, "process"), 30.0)
print(json.dumps(part(["a"], [{{}}], {{}})), flush=True)
busy = Isolated("mine", Target({mine!r}, "each"), 30.0)
print(json.dumps(busy._worker._process.pid), flush=True)
busy([{text!r}], [{{}}], {{}})
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(json.loads(parent.stdout.readline())[0]), json.loads(parent.stdout.readline())]
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- functions that are at hand ----------------------------------------------------------------------------------


def test_a_function_of_a_plugin_or_a_notebook_runs_there_too():
    here, factor = os.getpid(), 3.0
    named = {"away": lambda texts, records: [factor * (os.getpid() != here)] * len(texts)}
    assert Reward("away", named).score(["a"], [{}]) == [3.0]


def test_a_function_marked_for_this_process_stays_in_it():
    held = []

    @in_process
    def kept(texts, records):
        held.extend(texts)
        return [float(len(held))] * len(texts)

    assert Reward("kept", {"kept": kept}).score(["a"], [{}]) == [1.0]
    assert held == ["a"]


def test_a_file_may_mark_its_function_for_this_process(tmp_path):
    (tmp_path / "own.py").write_text(
        "import os\n\n\ndef own(texts, records, scale: int = 1):\n    return [os.getpid() * scale] * len(texts)\n\n\n"
        "own.in_process = True\n"
    )
    assert Reward(f"'{tmp_path}/own.py:own'(scale=2)", {}).score(["a"], [{}]) == [2 * os.getpid()]


def test_a_function_that_cannot_be_copied_is_told_so():
    import threading

    lock = threading.Lock()

    def locked(texts, records):
        with lock:
            return [1.0] * len(texts)

    locked.me = (i for i in range(3))
    with pytest.raises(PluginError, match="'locked' cannot be sent to a process of its own"):
        Reward("locked", {"locked": locked})


def test_a_function_may_ask_for_facts_by_name_and_takes_options(make, mine):
    found = detailed(make("facts"), "a", "b", ended=[True, False], tokens=[7, 9])
    assert found.values == [7.0, None]
    reward = Reward(f"'{mine}:facts'(weight=2)", {})
    assert reward.score(["a"], [{}], [True], [4]) == [8.0]
    with pytest.raises(ZooError, match="has no option tokens"):
        Reward(f"'{mine}:facts'(tokens=2)", {})
    with pytest.raises(ZooError, match="weight must be a number, not 'much'"):
        Reward(f"'{mine}:facts'(weight=much)", {})


def test_a_sum_counts_the_reasons_of_all_its_parts(make, mine):
    reward = Reward(f"exact + '{mine}:each' + 1/length", {}, timeout=1.0)
    found = reward.detailed(["good", "raise", "nan", ""], [{"answer": "good"}, {"answer": "x"}, {}, {"answer": "x"}])
    assert found.values == [3.0, None, None, None]
    assert sorted(found.failures.values()) == [1, 1, 1, 1]
    assert "the sum is not a finite number" in found.failures
    assert any(reason.startswith("exact: no reference answer") for reason in found.failures)
    assert not any(value is not None and math.isnan(value) for column in found.parts.values() for value in column)
    reward.close()
