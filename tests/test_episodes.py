"""Episodes: what the policy wrote stays as it was, what the environment says is marked, and limits cut both."""

import json
import os
import signal

import pytest
import torch
from tiny_runs import FLOAT32, assert_same_runs, differences, same_bytes, two_processes, write_rows

import zoo
from zoo.data.encoding.template import ChatTemplate
from zoo.environments.calculator import Calculator, calculated, questions
from zoo.environments.named import make_pool
from zoo.errors import NoSuchSplit, ZooError
from zoo.models.scoring import score_answers
from zoo.rewards.reward import Reward
from zoo.rollout.engine import InProcessEngine, Sampling
from zoo.rollout.episodes import Player
from zoo.runs import Run
from zoo.values.types import Episode

SOURCE = '''
import os
import random
import time

from zoo.environments import Environment, Turn


class Counting(Environment):
    """Says how often it was spoken to, and how long what it heard was; the letters of turns are the reward."""

    def __init__(self, turns: int = 3, words: int = 2, fault: str = "", wait: float = 0.0):
        self.turns, self.words, self.fault, self.wait, self.heard = turns, words, fault, wait, 0

    def begin(self, record, seed):
        self.seed = seed
        self.wrong("begin")
        return [{"role": "user", "content": f"hello {seed % 7}"}]

    def step(self, message):
        self.heard += 1
        time.sleep(self.wait * random.random())
        self.wrong(f"step{self.heard}")
        done = self.heard == self.turns
        reward = len(message["content"]) / 100 + self.seed % 3
        return Turn([{"role": "user", "content": f"{self.heard} " * self.words}], done, reward)

    def cut(self, message):
        return -1.0

    def wrong(self, where):
        if self.fault == where or self.fault == "odd" and self.seed % 2:
            raise LookupError(f"lost in {where}")
        if self.fault == f"{where} dies":
            os._exit(3)
        if self.fault == f"{where} hangs":
            time.sleep(60)
'''


@pytest.fixture
def play(tmp_path, tiny_model, tiny_tokenizer):
    """`play(options, …)`: the answers of two episodes to each of three prompts."""
    (tmp_path / "mine.py").write_text(SOURCE)
    template = ChatTemplate(tiny_tokenizer)
    # The model draws at random: so many of its tokens end a turn that its turns are short.
    template.eos_ids |= set(range(60, 100))

    def play(options="", max_turns=8, room=200, timeout=20.0, max_batch=64, model=tiny_model, n=2):
        pool = make_pool(f"{tmp_path / 'mine.py'}:Counting({options})", {}, timeout)
        engine = InProcessEngine(model, eos_ids=template.eos_ids, pad_id=0, max_batch=max_batch)
        player = Player(pool, template, max_turns)
        records = [{"prompt": f"prompt {i}"} for i in range(3)]
        sampling = Sampling(room, temperature=1.0)
        try:
            answers = player.play(engine, records, n, sampling, list(range(10, 10 + n * 3)))
        finally:
            player.close()
        play.tracebacks = player.tracebacks
        return answers

    play.template = template
    return play


def assert_consistent(answer, model, template, room=200):
    """The text is made of the policy's ids and of the environment's; log-probs are those of the whole text."""
    with torch.no_grad():
        scored = score_answers(model, [answer], "padded")
    gap = (scored.per_token[0] - answer.behaviour)[answer.mask]
    assert float(gap.abs().max()) < 1e-4 and not answer.behaviour[~answer.mask].any()
    assert len(answer.completion) <= room and bool(answer.mask[-1]) and bool(answer.mask[0])


def test_a_model_that_takes_few_tokens_gives_an_episode_no_more_room(play, tiny_model):
    """What the environment says first is known only when it has begun."""
    [prompt] = {len(answer.prompt) for answer in play("turns=8")}
    tiny_model.config.max_position_embeddings = prompt + 9
    for answer in play("turns=8"):
        assert_consistent(answer, tiny_model, play.template, room=9)
        assert answer.cut and not answer.episode.failure and answer.episode.reward is not None
    tiny_model.config.max_position_embeddings = prompt
    for answer in play("turns=8"):
        assert answer.episode.failure == (
            f"the prompt has {prompt} tokens with what the environment says first, and the model takes {prompt}: "
            "shorten it, or use a model that takes more"
        )
        assert answer.episode.reward is None and len(answer.prompt) + len(answer.completion) <= prompt


def test_an_episode_is_one_text_of_both(play, tiny_model):
    answers = play("turns=3")
    for number, answer in enumerate(answers):
        assert_consistent(answer, tiny_model, play.template)
        messages, seed = answer.episode.messages, 10 + number // 2 * 2
        assert messages[0] == {"role": "user", "content": f"hello {seed % 7}"}
        roles = [message["role"] for message in messages[1:]]
        assert roles == ["assistant", "user"] * (len(roles) // 2) + ["assistant"] * (len(roles) % 2)
        own = [message for message in messages if message["role"] == "assistant"]
        assert (
            len(own) == 3
            and answer.ended
            and answer.episode.reward == pytest.approx(sum(len(message["content"]) / 100 + seed % 3 for message in own))
        )
        places = [position for position, _ in answer.episode.rewards]
        assert all(int(answer.completion[place]) in play.template.eos_ids for place in places)
        assert places[-1] == len(answer.completion) - 1


def test_neither_the_batch_nor_the_time_of_a_tool_changes_an_episode(play):
    one = play("turns=3")
    for other in (play("turns=3", max_batch=2), play("turns=3, wait=0.3")):
        for a, b in zip(one, other, strict=True):
            assert a.completion.tolist() == b.completion.tolist() and a.episode == b.episode
            assert a.mask.tolist() == b.mask.tolist() and a.prompt.tolist() == b.prompt.tolist()


@pytest.mark.parametrize("limit", [{"max_turns": 2}, {"room": 30}, {"options": "turns=9, words=60"}], ids=str)
def test_a_limit_cuts_an_episode_and_the_environment_says_what_it_is_worth(play, tiny_model, limit):
    answers = play(**{"options": "turns=9", **limit})
    for answer in answers:
        assert answer.cut and not answer.ended and answer.episode.rewards[-1][1] == -1.0
        assert_consistent(answer, tiny_model, play.template)
        own = sum(message["role"] == "assistant" for message in answer.episode.messages)
        assert own <= limit.get("max_turns", 8)


@pytest.mark.parametrize(
    ("fault", "says"),
    [("begin", "lost in begin"), ("step1", "lost in step1"), ("step2 dies", "ended with exit status 3"),
     ("step1 hangs", "no answer within 1 s")],
)  # fmt: skip
def test_an_environment_that_fails_is_a_missing_reward(play, fault, says):
    failed = [answer for answer in play(f"fault={fault}", timeout=1.0) if answer.episode.failure]
    assert failed
    for answer in failed:
        assert says in answer.episode.failure and answer.episode.reward is None
        assert not answer.ended and not answer.cut, "no limit has cut it"
    assert any("LookupError" in trace for trace in play.tracebacks) == ("dies" not in fault and "hangs" not in fault)


@pytest.mark.parametrize("turns", [0, -1])
def test_an_episode_has_a_turn_at_least(play, turns):
    with pytest.raises(ZooError, match=f"An episode of {turns} turns is not possible"):
        play(max_turns=turns)


def test_an_engine_that_cannot_go_on_is_refused(play):
    class Once:
        remote = False

    player = Player.__new__(Player)
    with pytest.raises(ZooError, match="writes one answer, and cannot go on"):
        player.play(Once(), [], 1, Sampling(), [])


# -- runs --------------------------------------------------------------------------------------------------------


OPTIONS = {
    **FLOAT32, "stop": "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z", "answers_per_prompt": 2, "batch_size": 4,
    "max_new_tokens": 60, "max_turns": 3, "max_steps": 4, "epochs": 10, "minibatches": 2, "eval_prompts": 2,
    "save_every": 1, "score": "none",
}  # fmt: skip


def starter(folder, model):
    (folder / "mine.py").write_text(SOURCE)
    write_rows(folder / "prompts.jsonl", [{"prompt": f"prompt {i}"} for i in range(6)])
    options = {**OPTIONS, "model": str(model), "environment": "mine.py:Counting(turns=2)", "data": "prompts.jsonl"}
    return lambda **more: zoo.train("grpo", **{**options, "out": "runs", "quiet": True, **more})


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return starter(tmp_path, tiny_folder)


def test_a_run_is_rewarded_by_its_environment(train):
    run = train(eval_every=2)
    assert run.config["reward"] == "environment"
    rows = [row for row in run.log_history if "rollout/reward" in row]
    assert len(rows) == 2 and all(row["rollout/missing"] == 0.0 for row in rows)
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert {sample["messages"][0]["role"] for sample in samples} == {"user"}
    assert any("assistant: " in text for text in [(run.path / "report.html").read_text()])


def test_an_environment_that_cannot_be_made_is_refused_before_the_model_is_loaded(train, tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(f"{SOURCE}\n\ndef Faulty():\n    raise ValueError('no display')\n")
    monkeypatch.setattr("zoo.training.assembly.load_template", lambda *given, **named: pytest.fail("loads"))
    with pytest.raises(
        ZooError, match=r"'faulty.py:Faulty' cannot be made: ValueError: no display \(.*faulty.py, line"
    ):
        train(environment="faulty.py:Faulty")


def test_what_raises_is_in_the_folder_of_the_run(train):
    run = train(environment="mine.py:Counting(fault=odd)")
    assert "LookupError: lost in begin" in (run.path / "environment.log").read_text()
    missing = [row["rollout/missing"] for row in run.log_history if "rollout/missing" in row]
    assert 0.0 < sum(missing) < len(missing)


def test_killed_in_the_middle_of_an_episode(train, tmp_path):
    whole = train(name="whole")
    if not (child := os.fork()):
        from zoo.rollout.episodes import Player

        heard, calls = Player._hear, []

        def dying(self, *given):
            calls.append(given)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return heard(self, *given)

        Player._hear = dying
        train(name="broken")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    broken = Run(tmp_path / "runs" / "broken")
    assert differences(broken, whole) == 0.0 and broken.log_history == whole.log_history
    assert same_bytes(broken, whole, "samples.jsonl")


def test_two_processes_play_what_one_plays(train, tmp_path, tiny_folder):
    single = train()
    flags = {
        **OPTIONS, "model": tiny_folder, "data": "prompts.jsonl", "environment": "mine.py:Counting(turns=2)",
        "devices": 2, "accelerator": "cpu", "out": tmp_path / "two",
    }  # fmt: skip
    arguments = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
    for done in two_processes("train", "--algo", "grpo", *arguments, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "two").iterdir()
    assert_same_runs(single, Run(path))


# -- the reward and the calculator -------------------------------------------------------------------------------


def test_the_reward_of_an_environment_is_one_of_a_sum():
    reward = Reward("environment + 0.5*length(target=2)", {})
    played = [Episode([], 2.0), Episode([], None, [], "it fell over")]
    scored = reward.detailed(["a b"] * 2, [{"prompt": "p"}] * 2, [True] * 2, [2, 2], played)
    assert scored.values == [2.5, None] and scored.failures == {"environment: it fell over": 1}
    alone = Reward("environment", {}, patience=9).detailed(["a"], [{"prompt": "p"}])
    assert "there is no environment" in next(iter(alone.failures))


def test_a_reward_may_read_the_turns():
    def talkative(completions, records, messages):
        return [float(len(one)) for one in messages]

    talkative.in_process = True
    scored = Reward("talkative", {"talkative": talkative}).score(
        ["a"], [{"prompt": "p"}], episodes=[Episode([{"role": "assistant", "content": "a"}] * 3)]
    )
    assert scored == [3.0]


@pytest.mark.parametrize(
    ("expression", "value"),
    [("48 * 37 - 19", "1757"), ("(63 + 78) * 18", "2538"), ("10/4", "2.5"), ("-3*(2+1)", "-9"),
     ("1/0", "Error: division by zero")]
    + [(text, "Error: write numbers with + - * / and brackets") for text in
       ("2**999", "7 7", "__import__('os')", "1e400", "1e308*10 - 1e308*10", "True + 1", "(" * 150 + "1", "9" * 300)],
)  # fmt: skip
def test_the_calculator_takes_arithmetic_alone(expression, value):
    assert calculated(expression) == value


def test_the_calculator_ends_with_the_last_number():
    one = Calculator()
    one.begin({"answer": "1757"}, 0)
    assert one.step({"content": "CALC(48 * 37 - 19)"}).messages == [{"role": "tool", "content": "1757"}]
    assert one.step({"content": "It is 5, no: 1,757."}).reward == 1.0
    assert one.step({"content": "1757 or 12"}).reward == one.step({"content": "none"}).reward == 0.0
    assert one.cut({"content": "CALC(1757)"}) == 0.0
    typed = Calculator()
    typed.begin({"prompt": "x"}, 0)
    assert typed.step({"content": "12"}).reward is None


def test_its_questions_have_their_answers():
    for row in questions("heldout", "demonstration"):
        call, result, final = row["completion"]
        expression = call["content"].removeprefix("CALC(").removesuffix(")")
        assert str(eval(expression)) == result["content"] == row["answer"] and row["answer"] in final["content"]
    asked = {split: {str(row["prompt"]) for row in questions(split, "prompt")} for split in ("train", "heldout")}
    assert len(asked["heldout"] - asked["train"]) > 190
    with pytest.raises(NoSuchSplit, match="Did you mean 'heldout'"):
        questions("held-out", "prompt")
    with pytest.raises(ZooError, match="no data of kind 'preference'"):
        questions("train", "preference")
