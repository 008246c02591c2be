"""Environments that hang, raise, die or flood cost their own episode, and nothing else."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.contract.own_process import Failure, Target, target_of
from zoo.environments import Turn, pool
from zoo.environments.pool import Pool
from zoo.environments.worker import FLOOD

MINE = '''
import ctypes, os, random, signal, subprocess, sys, time
from zoo.environments import Environment, Turn


class Mine(Environment):
    """Does what it is told."""

    data = "mine.jsonl"

    def __init__(self, factor: float = 1.0, log=""):
        self.factor, self.log, self.turns = factor, log, 0

    def price(self, item: str) -> float:
        "The price of an item."
        return self.factor

    tools = [price]

    def begin(self, record, seed):
        self.record, self.seed = record, seed
        what = record.get("begin")
        if what == "raise":
            raise ValueError("cannot begin")
        return None if what is None else [{"role": "user", "content": what}] if isinstance(what, str) else what

    def step(self, message):
        self.turns += 1
        return getattr(self, "do_" + message["content"])()

    def close(self):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"closed {os.getpid()}\\n")

    def do_count(self): return say(self.turns)
    def do_pid(self): return say(os.getpid())
    def do_seeded(self): return say([self.seed, random.random()])
    def do_record(self): return say(sorted(self.record))
    def do_loaded(self): return say("torch" in sys.modules)
    def do_group(self): return say([os.getpgid(0), os.getsid(0)])
    def do_end(self): return Turn([], True, self.factor)
    def do_raise(self): raise ValueError("cannot step")
    def do_exit(self): sys.exit(1)
    def do_hang(self):
        while True: pass
    def do_sleep(self): time.sleep(60)
    def do_die(self):
        print("good", "bye")
        sys.stdout.flush()
        os._exit(3)
    def do_crash(self): ctypes.string_at(0)
    def do_memory(self):
        held = []
        while True:
            held.append(bytearray(1 << 24))
    def do_flood(self): return say("x" * 10**8)
    def do_many(self): return Turn([{"role": "user", "content": "\\u1234" * FLOOD}] * 100)
    def do_print(self):
        while True: print("to be or not to be")
    def do_chatty(self):
        for _ in range(100_000): print("to be or not to be")
        os.system("echo loud")
        return say("done")
    def do_child(self):
        return say(subprocess.Popen(["sleep", "60"]).pid)
    def do_apart(self):
        return say(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
    def do_orphan(self):
        lost = "setsid sleep 60 >/dev/null & echo $!"
        return say(int(subprocess.check_output(["sh", "-c", lost])))
    def do_half(self): return say("\\ud800")
    def do_kill_all(self): os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)
    def do_descriptors(self): return say(len(os.listdir("/proc/self/fd")))
    def do_inherited(self):
        return say(subprocess.check_output(["ls", "/proc/self/fd"], close_fds=False, text=True).split())
    def do_closed(self): os.closerange(1, 1000); time.sleep(60)
    def do_nothing(self): pass
    def do_dict(self): return {"messages": []}
    def do_words(self): return Turn("word")
    def do_strings(self): return Turn(["word"])
    def do_no_content(self): return Turn([{"role": "user"}])
    def do_number(self): return Turn([{"role": "user", "content": 3}])
    def do_nan(self): return Turn([], True, float("nan"))
    def do_good(self): return Turn([], True, "good")
    def do_object(self): return Turn([{"role": "user", "content": "x", "extra": object()}])


FLOOD = 100_000


def say(what):
    return Turn([{"role": "user", "content": str(what)}])


def maker(factor: int = 2):
    return Mine(factor)


def wrong():
    return 3


class Faulty(Mine):
    def __init__(self):
        raise ValueError("no display")
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(MINE)
    return str(file)


@pytest.fixture(scope="module")
def environment(mine):
    """A pool for all tests of this file that do not end it."""
    made = Pool("mine", Target(mine, "Mine"), {}, 20.0)
    yield made
    made.close()


@pytest.fixture
def make(mine):
    made = []

    def pool(attribute="Mine", timeout=20.0, **options):
        made.append(Pool("mine", Target(mine, attribute), options, timeout))
        return made[-1]

    yield pool
    for one in made:
        one.close()


def begun(pool, seed=0, **record):
    episode = pool.start(record, seed)
    episode.receive()
    return episode


def does(episode, what):
    episode.step({"role": "assistant", "content": what})
    return episode.receive()


def says(episode, what):
    return does(episode, what).messages[0]["content"]


def fails(episode, what):
    with pytest.raises(Failure) as caught:
        does(episode, what)
    return caught.value


def line_of(mine, text):
    """The line of the file that has a text."""
    return next(n for n, line in enumerate(Path(mine).read_text().splitlines(), start=1) if text in line)


def soon(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == pid:
            found.append((int(name.split()[0]), rest.split()[0]))
    return found


# -- episodes ----------------------------------------------------------------------------------------------------


def test_an_episode_has_its_own_state_in_a_process_of_its_own(environment):
    one = environment.start({"begin": "Hello.", "row": 3}, 7)
    two = environment.start({"begin": [{"role": "user", "content": "Hi.", "name": "x"}]}, 8)
    assert one.receive() == Turn([{"role": "user", "content": "Hello."}])
    assert two.receive() == Turn([{"role": "user", "content": "Hi.", "name": "x"}])
    assert [says(one, "count"), says(two, "count"), says(one, "count")] == ["1", "1", "2"]
    assert says(one, "record") == "['begin', 'row']"
    assert does(one, "end") == Turn([], done=True, reward=1.0)
    assert len({says(one, "pid"), says(two, "pid"), str(os.getpid())}) == 3
    assert says(one, "loaded") == "False"
    one.close()
    two.close()


def test_the_pool_knows_tools_and_data_of_an_environment_with_its_options(environment, make):
    assert [tool["function"]["name"] for tool in environment.tools] == ["price"]
    assert environment.data == "mine.jsonl"
    assert does(begun(make("maker")), "end").reward == 2.0
    assert does(begun(make(factor="0.5")), "end").reward == 0.5


def test_a_record_may_hold_what_json_cannot(environment):
    episode = environment.start({"image": b"\x00\xff", "when": complex(1, 2)}, 0)
    assert episode.receive() == Turn([])
    assert says(episode, "record") == "['image', 'when']"
    episode.close()


def test_random_numbers_follow_from_the_seed_alone(environment):
    drawn = []
    for seed in (5, 5, 6):
        episode = begun(environment, seed)
        drawn.append(json.loads(says(episode, "seeded")))
        episode.close()
    assert drawn[0] == drawn[1] and drawn[0][0] == 5 and drawn[2][1] != drawn[0][1]
    import random

    assert drawn[0][1] == random.Random(5).random()


# -- what goes wrong ---------------------------------------------------------------------------------------------


def test_one_that_raises_says_where_and_can_still_be_closed(make, mine, tmp_path):
    pool = make(log=str(tmp_path / "log"))
    episode = begun(pool)
    failure = fails(episode, "raise")
    assert failure.kind == "raised"
    assert failure.reason == f"ValueError: cannot step ({mine}, line {line_of(mine, 'cannot step')}, in do_raise)"
    assert failure.traceback.startswith("Traceback") and "cannot step" in failure.traceback
    assert fails(begun(pool), "exit").kind == "raised"
    first = pool.start({"begin": "raise"}, 0)
    with pytest.raises(Failure, match="cannot begin"):
        first.receive()
    first.close()
    soon(lambda: (tmp_path / "log").exists() and "closed" in (tmp_path / "log").read_text())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "step gave None, not a Turn"),
        ("dict", "step gave {'messages': []}, not a Turn"),
        ("words", "step gave 'word', not a list of messages"),
        ("strings", "step gave 'word' as message 1, without a text as role"),
        ("no_content", "step gave {'role': 'user'} as message 1, without a text as content"),
        ("number", "step gave {'role': 'user', 'content': 3} as message 1, without a text as content"),
        ("nan", "step gave the reward nan, which is no finite number"),
        ("good", "step gave the reward 'good', which is no finite number"),
        ("object", "step gave what JSON cannot hold: Object of type object is not JSON serializable"),
        ("many", "step gave 60,003,345 bytes, more than the 16,777,216 of an answer"),
    ],
)
def test_a_wrong_answer_is_named(environment, what, reason):
    episode = begun(environment)
    failure = fails(episode, what)
    kind = "messages" if what in ("words", "strings", "no_content", "number") else "raised"
    assert failure.kind == kind and failure.reason.startswith(reason)
    episode.close()


def test_a_wrong_begin_is_named(environment):
    episode = environment.start({"begin": ["word"]}, 0)
    with pytest.raises(Failure, match="begin gave 'word' as message 1"):
        episode.receive()
    episode.close()


def test_those_that_hang_end_with_their_line_and_no_other_episode_waits(make, mine):
    pool = make(timeout=1.0)
    other = begun(pool)
    hanging = [(begun(pool), what) for what in ("hang", "sleep", "hang")]
    began = time.monotonic()
    for episode, what in hanging:
        episode.step({"role": "assistant", "content": what})
    assert says(other, "count") == "1"
    for episode, what in hanging:
        with pytest.raises(Failure) as caught:
            episode.receive()
        assert caught.value.kind == "late"
        line = line_of(mine, "while True: pass" if what == "hang" else "time.sleep(60)")
        assert caught.value.reason == f"no answer within 1 s ({mine}, line {line}, in do_{what})"
    assert time.monotonic() - began < 6
    assert says(other, "count") == "2"


def test_an_answer_that_came_in_time_is_read_later(make):
    pool = make(timeout=0.5)
    episode = begun(pool)
    episode.step({"role": "assistant", "content": "count"})
    dying = begun(pool)
    dying.step({"role": "assistant", "content": "die"})
    time.sleep(0.8)
    assert episode.receive().messages[0]["content"] == "1"
    with pytest.raises(Failure, match="exit status 3: good bye") as caught:
        dying.receive()
    assert caught.value.kind == "ended"


def test_one_that_dies_says_how(environment, mine):
    failure = fails(begun(environment), "die")
    assert (failure.kind, failure.reason) == ("ended", "its process ended with exit status 3: good bye")
    failure = fails(begun(environment), "crash")
    assert failure.kind == "ended"
    assert re.match(rf"its process ended by signal 11 \({mine}, line \d+, in do_crash\)", failure.reason)
    assert says(begun(environment), "count") == "1"


def test_one_that_takes_all_memory_is_stopped_before_the_run_is(make, monkeypatch):
    monkeypatch.setattr(pool, "memory_limit", lambda: 600 << 20)
    made = make()
    other = begun(made)
    assert fails(begun(made), "memory").kind == "memory"
    assert says(other, "count") == "1"


def test_a_flood_is_cut(environment):
    episode = begun(environment)
    text = says(episode, "flood")
    assert text == "x" * FLOOD + "\n[cut here: only 100,000 of 100,000,000 characters are shown]"
    assert says(episode, "half") == "?"
    episode.close()


def test_what_is_printed_is_not_seen_and_takes_no_room(environment, make, capfd):
    assert says(begun(environment), "chatty") == "done"
    assert fails(begun(make(timeout=1.0)), "print").kind == "late"
    assert capfd.readouterr() == ("", "")


def test_one_that_closes_all_files_ends_its_episode(make):
    assert fails(begun(make(timeout=4.0)), "closed").kind == "ended"


def test_episodes_go_on_in_a_new_process_when_all_have_died(make):
    pool = make(timeout=5.0)
    other = begun(pool)
    assert fails(begun(pool), "kill_all").kind == "ended"
    assert fails(other, "count").reason == "its process ended, with that of all episodes"
    assert says(begun(pool), "count") == "1"


# -- a pool that cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("import nowhere_at_all", "import", "ModuleNotFoundError"),
        ("import os\nos._exit(7)", "ended", "its process ended with exit status 7"),
        ("def f(:", "import", "SyntaxError"),
        ("x = 1", "attribute", ""),
    ],
)
def test_a_file_that_cannot_be_imported_is_a_failure_at_once(tmp_path, code, kind, reason):
    (tmp_path / "broken.py").write_text(code + "\n")
    with pytest.raises(Failure) as caught:
        Pool("broken", Target(str(tmp_path / "broken.py"), "Shop"), {}, 5.0)
    assert caught.value.kind == kind and reason in caught.value.reason


@pytest.mark.parametrize(
    ("attribute", "options", "kind", "reason"),
    [
        ("Faulty", {}, "raised", "ValueError: no display"),
        ("wrong", {}, "raised", "it is of the class int, not an Environment"),
        ("Mine", {"facto": "1"}, "options", "has no option 'facto'. Did you mean 'factor'?"),
        ("Mine", {"factor": "much"}, "options", "option factor = much"),
        ("Mone", {}, "attribute", ""),
    ],
)
def test_one_that_cannot_be_made_is_a_failure_at_once(make, attribute, options, kind, reason):
    with pytest.raises(Failure) as caught:
        make(attribute, **options)
    assert caught.value.kind == kind and reason in caught.value.reason
    assert kind != "attribute" or "Mine" in caught.value.names


def test_a_class_of_a_notebook_goes_along():
    from zoo.environments import Environment

    class Local(Environment):
        def step(self, message):
            return Turn([], True, 0.25)

    made = Pool("local", target_of(Local, "environment 'local'", ""), {}, 10.0)
    assert does(begun(made), "x").reward == 0.25
    made.close()


# -- processes ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_of_many_episodes(environment):
    """Neither descriptors here, nor in the process that forks, nor in its forks; nor processes."""
    gc.collect()
    for episode in list(environment.open):
        episode.close()
    zygote = environment._zygote._process.pid
    soon(lambda: not children_of(zygote))
    held = [len(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", zygote)]
    episodes = [environment.start({}, seed) for seed in range(256)]
    assert all(episode.receive() == Turn([]) for episode in episodes)
    assert len({says(episode, "pid") for episode in episodes}) == 256
    # The directory that is listed, stdin, stdout, stderr, the line to the run.
    assert says(episodes[-1], "descriptors") == says(episodes[0], "descriptors") == "5"
    for episode in episodes:
        episode.close()
    for seed in range(128):
        begun(environment, seed).close()
    soon(lambda: not children_of(zygote))
    assert [len(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", zygote)] == held


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["child", "apart", "orphan"])
def test_what_an_environment_started_ends_with_its_episode(environment, how):
    episode, other = begun(environment), begun(environment)
    started, kept = int(says(episode, how)), int(says(other, how))
    assert is_running(started)
    episode.close()
    soon(lambda: not is_running(started))
    assert is_running(kept)
    other.close()
    dying = begun(environment)
    started = int(says(dying, how))
    fails(dying, "die")
    soon(lambda: not is_running(started))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_its_module_started_stays_for_all_episodes_and_ends_with_them(mine, tmp_path):
    file = tmp_path / "serving.py"
    started = "SERVER = subprocess.Popen(['sleep', '60'], start_new_session=True).pid"
    more = "class Serving(Mine):\n    def do_server(self): return say(SERVER)\n"
    file.write_text(f"{Path(mine).read_text()}\n{started}\n{more}")
    pool = Pool("serving", Target(str(file), "Serving"), {}, 20.0)
    episode = begun(pool)
    server, apart = int(says(episode, "server")), int(says(episode, "apart"))
    episode.close()
    soon(lambda: not is_running(apart))
    assert is_running(server)
    pool.close()
    soon(lambda: not is_running(server))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_an_environment_starts_has_no_line_to_the_run(environment):
    episode = begun(environment)
    # The last one is the folder that is listed.
    assert says(episode, "inherited") == "['0', '1', '2', '3']"
    episode.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_closed_episode_that_hangs_is_ended(environment):
    episode = begun(environment)
    pid = int(says(episode, "pid"))
    episode.step({"role": "assistant", "content": "hang"})
    began = time.monotonic()
    episode.close()
    assert time.monotonic() - began < 1
    soon(lambda: not is_running(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_closed_pool_and_one_that_is_forgotten_leave_no_process(mine, tmp_path):
    log = tmp_path / "log"
    for forget in (Pool.close, lambda pool: None):
        made = Pool("mine", Target(mine, "Mine"), {"log": str(log)}, 20.0)
        pids = [made._zygote._process.pid, int(says(begun(made), "pid"))]
        forget(made)
        del made
        gc.collect()
        soon(lambda: not any(is_running(pid) for pid in pids))  # noqa: B023
        assert f"closed {pids[1]}\n" in log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_all_processes_end_with_the_run(mine):
    """Killed, so that the run can do nothing about it; idle, hanging, and with a process that a tool started."""
    code = f"""
import json, time
from zoo.contract.own_process import Target
from zoo.environments.pool import Pool
pool = Pool("mine", Target({mine!r}, "Mine"), {{}}, 60.0)
def do(episode, what):
    episode.step({{"role": "assistant", "content": what}})
    return int(episode.receive().messages[0]["content"])
idle, hanging = pool.start({{}}, 0), pool.start({{}}, 1)
idle.receive(), hanging.receive()
pids = [pool._zygote._process.pid, do(idle, "pid"), do(idle, "child"), do(idle, "apart"), do(hanging, "pid")]
hanging.step({{"role": "assistant", "content": "hang"}})
print(json.dumps(pids), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        pids = json.loads(run.stdout.readline())
        assert all(is_running(pid) for pid in pids)
        run.send_signal(signal.SIGKILL)
    soon(lambda: not any(is_running(pid) for pid in pids))


def test_waiting_for_many_takes_no_time_of_the_processor(make):
    pool = make(timeout=20.0)
    episodes = [begun(pool) for _ in range(16)]
    for episode in episodes:
        episode.step({"role": "assistant", "content": "sleep"})
    used = sum(os.times()[:2])
    time.sleep(0.2)
    with pytest.raises(TimeoutError):
        episodes[0]._channel.receive(time.monotonic() + 1.5)
    assert sum(os.times()[:2]) - used < 0.5
