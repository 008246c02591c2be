"""Learning from the policy's own answers: rollouts do not depend on how the work is cut, nor on a kill."""

import contextlib
import functools
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy
import pytest
import torch
from test_resume import assert_same, in_child, installed
from tiny_runs import demonstrations, differences, same_bytes, trainer, two_processes, write_rows

import zoo
from zoo.contract.hookspecs import hookimpl
from zoo.errors import PluginError, ZooError
from zoo.models import roles
from zoo.randomness import seed_everything, seeded
from zoo.runs import Run
from zoo.training.online.experience import packed, unpacked
from zoo.training.online.rollouts import Rollouts
from zoo.training.online.scores import Seen
from zoo.values.types import Answer, Answers, Batch, Ragged

PLUGINS = Path(__file__).parent / "online_plugins.py"
REWARD = f"{PLUGINS.with_name('online_rewards.py')}:odd_letters"
# 5 prompts, 2 answers each; a rollout of 4 prompts serves 2 minibatches twice.
OPTIONS = {
    "reward": REWARD, "max_new_tokens": 6, "minibatches": 2, "rollout_epochs": 2, "epochs": 2.4, "save_every": 1,
}  # fmt: skip


def starter(folder, model):
    """`train(algo, **options)` in this folder, which must be the working one, of PLUGINS and with five prompts."""
    start = trainer(folder, model)
    write_rows(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in demonstrations(10)[::2]])

    def train(algo="Reinforce", **options):
        return start(f"{PLUGINS}:{algo}", **{"data": "prompts.jsonl", **OPTIONS, **options})

    return train


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return starter(tmp_path, tiny_folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder):
    """`whole(algo)`: a run that nothing cuts or interrupts, made once for all tests that compare with it."""
    folder = tmp_path_factory.mktemp("whole")
    train = starter(folder, tiny_folder)

    @functools.cache
    def whole(algo):
        with contextlib.chdir(folder):
            return train(algo)

    return whole


def rows_with(run, name):
    return [row for row in run.log_history if name in row]


def test_a_rollout_serves_its_steps_and_says_what_it_saw(train):
    run = train()
    # 12 prompts make 3 rollouts of 4, each of 2 · 2 steps.
    assert run.summary["steps"] == 12
    assert [row["step"] for row in rows_with(run, "rollout/reward")] == [1, 5, 9]
    first = rows_with(run, "rollout/reward")[0]
    assert 0 < first["rollout/reward"] < 1 and first["rollout/length"] <= 6
    assert first["rollout/engine_gap"] < 1e-5, "log-probs of the engine are those of the trainer"
    ratios = [row["ratio"] for row in rows_with(run, "ratio")]
    assert [ratios[i] for i in (0, 4, 8)] == [1.0, 1.0, 1.0], "the first step after a rollout is on policy"
    assert any(abs(ratio - 1) > 1e-6 for ratio in ratios)
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert {sample["when"] for sample in samples} == {"step 0", "step 4", "step 8"}


def test_the_plan_names_what_the_first_rollout_really_has(train, capsys):
    train(epochs=0.4, max_steps=4, quiet=False)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "A rollout has 2 prompts with 2 answers each" in said
    assert "steps of 4 " in said


def test_prompts_are_counted_by_right_answers_where_rewards_are_0_or_1():
    def groups(*rewards):
        seen = Seen()
        answers = Answers(Answer.of([1], [2, 3], row=i // 2) for i in range(len(rewards)))
        seen.add(answers, ["text"] * len(rewards), rewards, {})
        return {name: value for name, value in seen.metrics().items() if "groups/" in name}

    right = groups(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, float("nan"), 0.0)
    assert right == {"rollout/groups/0": 0.25, "rollout/groups/1": 0.25, "rollout/groups/2": 0.5}
    assert groups(1.0, 0.5, 0.0, 1.0) == {}


def test_the_length_of_answers_that_ended_is_told_apart():
    seen = Seen()
    answers = [Answer.of([1], [2] * n, cut=n == 6, row=i) for i, n in enumerate((6, 2, 4))]
    seen.add(Answers(answers), ["text"] * 3, [0.0, 0.0, 1.0], {})
    assert (seen.metrics()["rollout/length"], seen.metrics()["rollout/length_ended"]) == (4, 3)
    seen.forget(answers[1:])
    assert "rollout/length_ended" not in seen.metrics()


def test_tokens_that_a_tool_wrote_count_in_no_length():
    seen = Seen()
    seen.add(Answers([Answer.of([1], [2] * 6, mask=[True] * 2 + [False] * 3 + [True], row=1)]), ["text"], [1.0], {})
    found = seen.metrics()
    assert [found[f"rollout/{name}"] for name in ("length", "length_max", "length_ended")] == [3, 3, 3]


def test_samples_tell_which_answers_were_cut():
    seen = Seen()
    answers = Answers([Answer.of([1], [2, 3], row=0, ended=False, cut=True), Answer.of([1], [2], row=1)])
    seen.add(answers, ["so it", "so"], [0.5, float("nan")], {})
    assert seen.samples({0: {"prompt": "why"}, 1: {"prompt": "how"}}, 3) == [
        {"prompt": "why", "answer": "so it", "score": 0.5, "length": 2, "cut": True},
        {"prompt": "how", "answer": "so", "score": None, "length": 1, "cut": False},
    ]


def test_beginnings_of_answers_are_scored_and_counted_nowhere(train):
    whole, begun = train("Reinforce"), train("Beginnings")
    rollout = [{name: value for name, value in row.items() if "rollout/" in name} for row in begun.log_history]
    assert rollout == [{name: value for name, value in row.items() if "rollout/" in name} for row in whole.log_history]
    assert (begun.path / "samples.jsonl").read_bytes() == (whole.path / "samples.jsonl").read_bytes()
    asked = [row["asked"] for row in begun.log_history if "asked" in row]
    assert asked and all(asked), "their rewards were given"


def test_answers_that_others_stand_in_for_are_counted_nowhere(train):
    run = train("SecondThoughts", minibatches=1, rollout_epochs=1, epochs=2.4)
    rows = rows_with(run, "rollout/length")
    assert len(rows) == run.summary["steps"] > 3, "every step has a rollout of its own"
    for row in rows:
        assert row["rollout/length"] == pytest.approx(row["words"])
        assert row.get("rollout/reward") == pytest.approx(row.get("worth"))


def test_missing_rewards_are_counted_and_not_trained_on(train):
    run = train(epochs=2.4)
    share = [row["rollout/missing"] for row in rows_with(run, "rollout/missing")]
    assert any(0 < one < 1 for one in share)
    assert run.summary["skipped_steps"] == 0


@pytest.mark.parametrize("options", [{}, {"lora": True, "lora_rank": 2}], ids=str)
def test_the_reference_becomes_the_policy_every_so_many_steps(train, options):
    """A rollout serves four steps: of three rollouts the first and, from step 6 on, the third begin at distance 0."""
    moving = rows_with(train("ActorCritic", reference_every=6, **options), "kl")
    staying = rows_with(train("ActorCritic", **options), "kl")
    for row, still in zip(moving[:8], staying[:8], strict=True):
        assert row["kl"] == still["kl"]
    assert abs(staying[8]["kl"]) > 1e-4 > 1e-5 > abs(moving[8]["kl"])


@pytest.mark.parametrize(("event", "step"), [("rollout_end", 4), ("step_end", 6)], ids=str)
def test_a_moved_reference_comes_back_after_a_kill(train, tmp_path, event, step):
    whole = train("ActorCritic", name="whole", reference_every=3)

    def broken():
        installed(KillAt(event, step))
        train("ActorCritic", name="broken", reference_every=3)

    assert in_child(broken, tmp_path / "output.txt") == 128 + signal.SIGKILL
    zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert_same(Run(tmp_path / "runs" / "broken"), whole)


def test_a_reference_that_is_not_there_cannot_move(train):
    with pytest.raises(ZooError, match="--reference-every renews the reference, but this run has none"):
        train("Reinforce", reference_every=2)


@pytest.mark.parametrize("options", [{"micro_tokens": 20}, {"layout": "packed"}, {"layout": "padded"}], ids=str)
@pytest.mark.parametrize("algo", ["Reinforce", "ActorCritic"])
def test_the_result_does_not_depend_on_the_cut(train, whole, algo, options):
    assert differences(whole(algo), train(algo, **options)) < 1e-5


@pytest.mark.parametrize("algo", ["Reinforce", "ActorCritic"])
def test_two_processes_give_what_one_gives(train, tmp_path, tiny_folder, algo):
    single = train(algo)
    flags = {
        "model": tiny_folder, "data": tmp_path / "prompts.jsonl", "devices": 2, "accelerator": "cpu", "batch_size": 4,
        "precision": "32-true", "eval_fraction": 0.0, "schedule": "constant", "warmup": 0.0, **OPTIONS,
        "out": tmp_path / "two",
    }  # fmt: skip
    arguments = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
    for done in two_processes("train", "--algo", f"{PLUGINS}:{algo}", *arguments, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "two").iterdir()
    double = Run(path)
    assert differences(single, double) < 1e-5
    for a, b in zip(single.log_history, double.log_history, strict=True):
        assert a.keys() == b.keys()
        assert [a[name] for name in a] == pytest.approx([b[name] for name in a], abs=1e-5, rel=1e-4)


def test_the_time_of_writing_scoring_and_training_is_told_apart(train, monkeypatch):
    scored = Rollouts.scored

    def slow(self, *arguments):
        time.sleep(0.1)
        return scored(self, *arguments)

    monkeypatch.setattr(Rollouts, "scored", slow)
    run = train()
    timing = run.read_json("timing.json")
    assert timing["reward_seconds"] >= 0.3, "three rollouts"
    assert timing["generation_seconds"] + timing["reward_seconds"] < timing["rollout_seconds"]
    written = sum(8 * row["rollout/length"] for row in rows_with(run, "rollout/length"))
    assert timing["generated_tokens"] == written
    assert timing["generation_tokens_per_second"] == pytest.approx(written / timing["generation_seconds"])
    assert timing["training_tokens_per_second"] == pytest.approx(run.summary["num_tokens"] / timing["seconds"])
    rows = run.timings
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["step"] for row in rows if "speed/generation" in row] == [1, 5, 9]
    for part, total in (("training", "seconds"), ("generation", "generation_seconds"), ("reward", "reward_seconds")):
        assert sum(row.get(f"seconds/{part}", 0.0) for row in rows) == pytest.approx(timing[total])
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<b>speed</b>" in page and "generation tokens per second" in page


# -- killed and resumed --------------------------------------------------------------------------------------------


class KillAt:
    """Kills its own process at an event of a step."""

    def __init__(self, event, step):
        def implementation(step):
            if step == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        self.step = step
        setattr(self, event, hookimpl(implementation))


# In the second minibatch, in the second pass, behind a rollout whose first step was not made, and between two.
MOMENTS = [("step_end", 1), ("step_end", 3), ("rollout_end", 4), ("step_end", 4), ("step_end", 7)]


# With a critic at every moment; without one, the moments other than the fourth repeat this.
@pytest.mark.parametrize(
    ("algo", "event", "step"),
    [pytest.param(algo, *moment, marks=[pytest.mark.long] if algo == "Reinforce" and moment != MOMENTS[3] else [])
     for algo in ("Reinforce", "ActorCritic") for moment in MOMENTS],
)  # fmt: skip
def test_a_killed_run_resumed_equals_an_unbroken_one(train, whole, tmp_path, algo, event, step):
    unbroken = whole(algo)

    def broken():
        installed(KillAt(event, step))
        train(algo, name="broken")

    assert in_child(broken, tmp_path / "output.txt") == 128 + signal.SIGKILL, (tmp_path / "output.txt").read_text()
    zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert_same(Run(tmp_path / "runs" / "broken"), unbroken)
    assert [row["step"] for row in Run(tmp_path / "runs" / "broken").timings] == list(range(1, 13))
    assert same_bytes(Run(tmp_path / "runs" / "broken"), unbroken, "samples.jsonl")


def test_killed_inside_a_rollout(train, tmp_path):
    """While the rewards of the second rollout are computed."""
    whole = train(name="whole")

    def broken():
        from zoo.training.online.rollouts import Rollouts

        score = Rollouts._score
        calls = []

        def dying(self, answers):
            calls.append(answers)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return score(self, answers)

        Rollouts._score = dying
        train(name="broken")

    assert in_child(broken, tmp_path / "output.txt") == 128 + signal.SIGKILL
    zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert_same(Run(tmp_path / "runs" / "broken"), whole)


class Draws:
    """Draws random numbers when a step is over."""

    @hookimpl
    def step_end(self):
        random.random(), numpy.random.rand(), torch.rand(3)


def test_what_a_rollout_draws_by_itself_depends_on_the_seed_and_the_iteration_alone(train, tmp_path):
    whole = train("Capricious", name="whole")
    advantages = [row["advantage"] for row in rows_with(whole, "advantage")]
    assert len({advantages[i] for i in (0, 4, 8)}) == 3, "every rollout has numbers of its own"

    def broken():
        installed(Draws(), KillAt("rollout_end", 4))
        train("Capricious", name="broken")

    assert in_child(broken, tmp_path / "output.txt") == 128 + signal.SIGKILL
    zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert_same(Run(tmp_path / "runs" / "broken"), whole)


def test_random_numbers_of_a_stretch_end_with_it():
    def draw():
        return torch.rand(1).item(), random.random(), float(numpy.random.rand())

    seed_everything(3)
    before, after = draw(), draw()
    seed_everything(3)
    assert draw() == before
    with seeded(-17):
        first = draw()
    assert draw() == after
    with seeded(-17):
        assert draw() == first
    with seeded(18):
        assert not set(draw()) & set(first)


def test_a_batch_in_a_checkpoint_is_what_it_was(tmp_path):
    answers = Answers(
        [Answer.of([1], [2, 3], behaviour=torch.tensor([0.5, 2.0]), row=4), Answer.of([1], [5], cut=True)]
    )
    batch = Batch(
        answers=answers, old=Ragged(torch.ones(2, 2), answers), reward=torch.tensor([1.0, 2.0]), names=["a", "b"]
    )
    torch.save(packed(batch), tmp_path / "batch.pt")
    again = unpacked(torch.load(tmp_path / "batch.pt", weights_only=True))
    assert again.answers[0].row == 4 and again.answers[1].cut and again.answers[1].behaviour is None
    assert torch.equal(again.answers[0].behaviour, answers[0].behaviour)
    assert torch.equal(again.old, batch.old) and again.reward.tolist() == [1.0, 2.0] and again.names == ["a", "b"]


# -- validation, variants, options ---------------------------------------------------------------------------------


def test_validation_scores_held_out_prompts_by_both_rewards(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", [{"prompt": "one two"}, {"prompt": "red cat"}])
    run = train(eval_data=held_out, gold_reward="length(target=4)", eval_every=4)
    rows = rows_with(run, "val/reward")
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    assert all(0 <= row["val/gold"] <= 1 for row in rows)
    # The same random numbers each time: without a step in between nothing changes.
    still = train(eval_data=held_out, lr=0.0, eval_every=4)
    assert len({row["val/reward"] for row in rows_with(still, "val/reward")}) == 1


def test_the_distance_from_the_start_is_measured_without_a_reference_too(train, tmp_path, tiny_folder):
    held_out = write_rows(tmp_path / "held_out.jsonl", [{"prompt": row["prompt"]} for row in demonstrations(3)])
    given = {"eval_data": held_out, "eval_every": 4, "lr": 1e-2}
    for more in ({}, {"lora": True, "lora_rank": 2}):
        found = [row["val/kl"] for row in rows_with(train(**given, **more), "val/kl")]
        assert len(found) == 4 and found[0] == pytest.approx(0, abs=1e-4) and abs(found[-1]) > 1e-2


def test_a_held_out_answer_is_shown_while_the_run_goes_on(train, tmp_path, capsys):
    held_out = write_rows(tmp_path / "held_out.jsonl", [{"prompt": "Say what you see."}])
    train(eval_data=held_out, eval_every=6, quiet=False)
    shown = capsys.readouterr().out
    assert shown.count("Say what you see.\n  → ") == 3 and " tokens)" in shown


def test_later_steps_of_a_rollout_compare_with_the_log_probs_that_the_trainer_computes(train, monkeypatch):
    rolled = []

    def look(self, *arguments):
        batch = made(self, *arguments)
        policy = self.models.built("policy")
        with self.rolling(0):
            rolled.append((batch.answers.behaviour, policy.logps(batch.answers).per_token))
        return batch

    made = Rollouts.__call__
    monkeypatch.setattr(Rollouts, "__call__", look)
    train(max_steps=4)
    behaviour, own = rolled[0]
    assert torch.equal(behaviour, own)
    rolled.clear()
    train(max_steps=1, minibatches=1, rollout_epochs=1)
    behaviour, own = rolled[0]
    torch.testing.assert_close(behaviour, own, atol=1e-5, rtol=0)


def test_a_rollout_may_draw_prompts_that_it_was_not_given_and_the_same_ones_when_it_is_made_again(train, monkeypatch):
    drawn = []

    def look(self, records, iteration, step):
        for count in (1, 9):
            self.writer.begin(iteration, self.prompts)
            drawn.append([prompt["row"] for prompt in self.models.built("policy").more_prompts(count, besides=records)])
        assert not {record["row"] for record in records} & set(drawn[-1])
        return made(self, records, iteration, step)

    made = Rollouts.__call__
    monkeypatch.setattr(Rollouts, "__call__", look)
    train(minibatches=1)
    assert {len(rows) for rows in drawn} == {1, 3}
    assert all(one == more[:1] for one, more in zip(drawn[::2], drawn[1::2], strict=True))


def test_a_critic_may_be_a_head_on_the_policy(train):
    own, head = train("ActorCritic"), train("ActorCritic", critic="head")
    values = [row["value"] for row in rows_with(head, "value")]
    assert values[0] == 0.0 and values[-1] != 0.0, "it starts at 0 and learns"
    assert rows_with(own, "critic/grad_norm") and rows_with(head, "critic/grad_norm")


@pytest.mark.parametrize("options", [{}, {"micro_tokens": 24}, {"lora": True, "lora_rank": 2}], ids=str)
def test_a_head_that_reads_the_states_of_the_policys_pass_learns_what_it_would_from_a_pass_of_its_own(
    train, monkeypatch, options
):
    passes = []

    def counted(*arguments, **more):
        passes.append(torch.is_grad_enabled())
        return made(*arguments, **more)

    made = roles.predicting_states
    monkeypatch.setattr(roles, "predicting_states", counted)
    given = {"critic": "head", "precision": "32-true", "lr": 1e-2, **options}
    sharing = train("ActorCritic", **given)
    spared, passes = sum(passes), []
    monkeypatch.setattr(
        roles.Policy, "states", lambda self, answers: counted(self.model, answers, self.layout, self.balance)
    )
    alone = train("ActorCritic", **given)
    assert 2 * spared == sum(passes), "one pass for both"
    assert "lora" in options or differences(sharing, alone) < 1e-5
    for a, b in zip(sharing.log_history, alone.log_history, strict=True):
        assert [a[name] for name in a] == pytest.approx([b[name] for name in a], abs=1e-5, rel=1e-4)


def test_states_are_shared_for_the_same_answers_and_weights_only(tiny_folder):
    from zoo.models.loading import load_model
    from zoo.models.names import resolve_model

    model = load_model(resolve_model(str(tiny_folder)), torch.float32)
    policy = roles.Policy(model, "shared")
    policy.share_states()
    answers = Answers([Answer.of([1, 2], [3, 4]), Answer.of([1, 2], [5])])
    fresh = policy.states(answers).hidden

    def shared(change=lambda: None, asked=answers):
        """Whether the states of the pass before are taken."""
        policy.logps(answers)
        hidden = policy._shared.states.hidden
        change()
        return policy.states(asked).hidden is hidden

    policy.logps(answers)
    assert torch.equal(policy._shared.states.hidden, fresh)
    assert shared()
    assert not shared(lambda: policy.states(answers)), "once"
    assert not shared(asked=answers.select([1, 0]))
    assert not shared(lambda: next(model.parameters()).detach().add_(1)), "the weights have moved"
    policy.logps(answers)
    with torch.no_grad():
        assert not policy.states(answers).hidden.requires_grad


def test_a_variant_outranks_the_defaults_and_the_command_line_the_variant(train):
    config = train(variant="patient", max_steps=1).config
    assert (config["lr"], config["temperature"], config["variant"]) == (1e-4, 0.5, "patient")
    assert train(variant="patient", lr=1e-2, max_steps=1).config["lr"] == 1e-2
    with pytest.raises(ZooError, match="no variant 'pacient'.*Did you mean 'patient'"):
        train(variant="pacient")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"answers_per_prompt": 3}, "cannot hold 3 answers.*--batch-size 6"),
        ({"engine": "nowhere"}, "No engine is called 'nowhere'"),
        ({"reward": None}, "none is named.*--reward"),
        ({"temperature": -1.0}, "temperature"),
        ({"critic_model": "x", "critic": "head"}, "--critic-model"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(train, options, said):
    with pytest.raises(ZooError, match=f"(?s){said}"):
        train("ActorCritic", **options)


def test_options_of_rollouts_are_refused_by_algorithms_without_one(train, tmp_path, tiny_folder):
    for name, value in (("reward", "length"), ("engine", "vllm(url=http://127.0.0.1:1)")):
        with pytest.raises(ZooError, match=f"--{name} is for algorithms that learn from their policy's own answers"):
            trainer(tmp_path, tiny_folder)("sft", **{name: value})


def test_a_rollout_that_returns_something_else_is_named(train, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        PLUGINS.read_text() + "\n\nclass Wrong(Reinforce):\n    def rollout(self, prompts):\n        return 1\n"
    )
    with pytest.raises(PluginError, match="Wrong.rollout returned int, not a Batch"):
        trainer(tmp_path, None)(
            f"{file}:Wrong",
            model=str(Path(train().model_path)),
            data=str(tmp_path / "prompts.jsonl"),
            **dict(OPTIONS.items()),
        )
