"""Environments of other libraries: each against the real package where it is installed, and what they share."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from zoo.contract.own_process import Target
from zoo.data.sources.named import rows_of
from zoo.environments import adaptors
from zoo.environments import plugin as bundled
from zoo.environments.named import data_of
from zoo.environments.pool import Pool
from zoo.environments.verifiers import tasks
from zoo.errors import NoSuchSplit, ZooError


@contextlib.contextmanager
def pool(name, **options):
    cls = bundled.environments()[name]
    made = Pool(name, Target(cls.__module__, cls.__name__), options, 60.0)
    try:
        yield made
    finally:
        made.close()


def played(made, record, *turns, seed=7):
    """What the environment says at the begin, and after each turn of the policy."""
    episode = made.start(record, seed)
    heard = [episode.receive()]
    for turn in turns:
        episode.step({"role": "assistant", **({"content": turn} if isinstance(turn, str) else turn)})
        heard.append(episode.receive())
    episode.close()
    return heard


# -- without the packages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, option", [("gymnasium", {"id": "X"}), ("verifiers", {"id": "x"}), ("openenv", {"url": ""})]
)
def test_a_package_that_is_missing_is_named_with_what_to_type(name, option, monkeypatch):
    monkeypatch.setattr("zoo.libraries.extras.is_missing", lambda module: True)
    with pytest.raises(ZooError) as told:
        bundled.environments()[name](**option)
    assert f"the package {name}, which is not installed" in str(told.value)
    assert f'pip install "{name}' in str(told.value.hint)


def test_options_for_the_library_are_read_as_yaml_reads_them():
    assert adaptors.settings("(size=8, slippery=false, name=4x4)") == {"size": 8, "slippery": False, "name": "4x4"}
    assert adaptors.settings("") == {}
    with pytest.raises(ZooError, match="not in brackets"):
        adaptors.settings("size=8")


@pytest.mark.parametrize(
    "seen, text",
    [
        ("a text", "a text"), ({"only": "this"}, "this"), ({"a": 1, "b": [0.123456]}, "a: 1\nb: [0.1235]"),
        ((20, 7, 0), "[20, 7, 0]"), (3, "3"),
    ],
)  # fmt: skip
def test_observations_are_told_in_short(seen, text):
    assert adaptors.shown(seen) == text


def test_the_last_json_of_a_text_is_found_whatever_stands_around_it():
    assert adaptors.last_json('first {"a": 1}, no: [2, {"b": 3}] {') == [2, {"b": 3}]
    assert adaptors.last_json("no [ json {") is None
    assert adaptors.last_json("[" * 100_000) is None


def test_environments_without_rows_have_prompts_and_a_source_of_their_options_is_spelled_out():
    rows = rows_of(bundled.sources()["episodes"])("heldout", "prompt")
    assert len(rows) == adaptors.ROWS["heldout"] and rows[0]["prompt"][0]["content"] == adaptors.INSTRUCTION
    with pytest.raises(NoSuchSplit):
        adaptors.episodes("test", "prompt")
    assert data_of("verifiers(id=sums, options=(most=9))") == "verifiers:sums(most=9)"
    assert data_of("gymnasium(id=FrozenLake-v1)") == "episodes"


# -- gymnasium ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lake():
    pytest.importorskip("gymnasium")
    with pool("gymnasium", id="FrozenLake-v1", options="(is_slippery=false)") as made:
        yield made


def test_a_game_of_gymnasium_is_won_by_names_and_by_numbers(lake):
    turns = played(lake, {"prompt": "x"}, "I go down.", "Move down", "2", "right", "down", "then right")
    assert "[S]FFF" in turns[0].messages[-1]["content"] and "0 (Move left)" in turns[0].messages[-1]["content"]
    assert [turn.reward for turn in turns[1:]] == [0, 0, 0, 0, 0, 1] and turns[-1].done and not turns[-2].done


def test_an_answer_without_an_action_is_told_so_and_changes_nothing(lake):
    turns = played(lake, {"prompt": "x"}, "nowhere", "99", "0.5", "down")
    assert all("no action is named" in turn.messages[0]["content"] and turn.reward == 0 for turn in turns[1:4])
    assert turns[4].messages[0]["content"].startswith("Observation: 4")


def test_an_episode_that_is_cut_keeps_what_it_has(lake):
    episode = lake.start({"prompt": "x"}, 1)
    episode.receive()
    episode.cut({"role": "assistant", "content": "do"})
    assert episode.receive().reward == 0
    episode.close()


def test_the_seed_decides_what_happens():
    pytest.importorskip("gymnasium")
    with pool("gymnasium", id="Taxi-v4" if _newer() else "Taxi-v3") as made:
        first, again, other = (played(made, {"prompt": "x"}, "up", seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_numbers_are_observations_and_actions():
    pytest.importorskip("gymnasium")
    with pool("gymnasium", id="Pendulum-v1", about=False) as made:
        turns = played(made, {"prompt": "x"}, "I choose [0.5]", "[9]")
    assert turns[1].reward < 0 and turns[1].messages[0]["content"].startswith("Observation: [")
    assert "no action here" in turns[2].messages[0]["content"]


def _newer():
    import gymnasium

    return "Taxi-v4" in gymnasium.registry


# -- verifiers ---------------------------------------------------------------------------------------------------

TASKS = """
    import verifiers.v1 as vf

    class Config(vf.TasksetConfig):
        most: int = 20

    class Data(vf.TaskData):
        number: int

    class Guess(vf.Task[Data, vf.State, vf.TaskConfig]):
        @vf.reward
        async def turns(self, trace) -> float:
            return float(trace.num_turns)

    class EnvConfig(vf.EnvConfig):
        player: vf.AgentConfig = vf.AgentConfig()

    class Env(vf.Env[EnvConfig]):
        async def run(self, task, agents):
            async with agents.player.interaction(task) as interaction:
                segment = await interaction.turn()
                while not segment.terminated and segment.last_reply != str(task.data.number):
                    segment = await interaction.turn(f"It is not {segment.last_reply}.")

    class Guesses(vf.Taskset[Guess, Config]):
        def load(self):
            for number in range(self.config.most):
                yield Guess(Data(prompt="Guess.", number=number), self.config.task)

    __all__ = ["Guesses", "Env"]
"""


@pytest.fixture(scope="module")
def guesses(tmp_path_factory):
    pytest.importorskip("verifiers.v1")
    folder = tmp_path_factory.mktemp("tasksets")
    (folder / "zoo_guesses.py").write_text(textwrap.dedent(TASKS))
    sys.path.insert(0, str(folder))
    with pool("verifiers", id="zoo_guesses", options="(most=20)") as made:
        yield made
    sys.path.remove(str(folder))


@pytest.mark.long
def test_verifiers_plays_its_own_loop_and_its_scores_are_the_reward(guesses):
    row = tasks("train", "prompt", "zoo_guesses(most=20)")[3]
    turns = played(guesses, row, "5", "3")
    assert turns[0].messages == [] and turns[1].messages == [{"role": "user", "content": "It is not 5."}]
    assert turns[2].done and turns[2].reward == 2
    assert len(tasks("heldout", "prompt", "zoo_guesses(most=20)")) == 2


@pytest.mark.long
@pytest.mark.parametrize("given, reward", [("5", 1), ("6", 2)])
def test_an_episode_of_verifiers_that_is_cut_is_scored(guesses, given, reward):
    episode = guesses.start(tasks("train", "prompt", "zoo_guesses(most=20)")[3], 1)
    episode.receive()
    episode.step({"role": "assistant", "content": "5"})
    episode.receive()
    episode.cut({"role": "assistant", "content": given})
    assert episode.receive().reward == reward
    episode.close()


# -- OpenEnv -----------------------------------------------------------------------------------------------------

SERVER = """
    from openenv.core.env_server.http_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State

    class Say(Action):
        message: str

    class Heard(Observation):
        echo: str = ""

    class Echo(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self):
            super().__init__()
            self.turns = 0

        def reset(self, seed=None, episode_id=None, **options):
            return Heard(echo=f"seed {seed}")

        def step(self, action, timeout_s=None, **options):
            self.turns += 1
            if action.message == "bad":
                raise ValueError("not this word")
            return Heard(echo=action.message, reward=0.5, done=self.turns == 2)

        @property
        def state(self):
            return State()

    app = create_app(Echo, Say, Heard, env_name="echo", max_concurrent_envs=8)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("openenv.core")
    folder = tmp_path_factory.mktemp("server")
    (folder / "zoo_echo.py").write_text(textwrap.dedent(SERVER))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "zoo_echo:app", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_an_openenv_server_plays_an_episode(server):
    with pool("openenv", url=server) as made:
        assert made.tools == [] and made.data == "episodes"
        first, second = (played(made, {"prompt": "x"}, *turns) for turns in (["hello", "bye"], ["bad", "bye"]))
    assert [turn.messages[-1]["content"] for turn in first] == ["seed 7", "hello", "bye"]
    assert [turn.reward for turn in first] == [None, 0.5, 0.5] and [turn.done for turn in first] == [False, False, True]
    assert "not this word" in second[1].messages[0]["content"] and not second[1].done
