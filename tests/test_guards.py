"""Guards: a bad step is told, skipped, or undone by going back; what they did is counted, and repeated by a resume."""

import importlib
import json
import math
import re
import signal
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import SignalAt, assert_same, in_child, installed
from tiny_runs import (
    cli,
    data_for,
    demonstrations,
    float32_flags,
    plugin_file,
    same_bytes,
    trainer,
    two_processes,
    weights,
    write_rows,
)

import zoo
from zoo.api import Answer, Answers, Guard, Loss, hookimpl
from zoo.cards import described
from zoo.contract import registry
from zoo.contract.hook_arguments import learns_from_rewards
from zoo.errors import PluginError, TrainingFailed, ZooError
from zoo.guards import GuardSetup, bundled
from zoo.guards.chosen import ask, available, options_of
from zoo.guards.watch import Guards
from zoo.options.checks import names_in
from zoo.runs import Run
from zoo.testing.guards import CHECKS
from zoo.training.step.module import PostTraining

PAGE = (Path(__file__).parent.parent / "docs" / "guards.md").read_text(encoding="utf-8")
OFFLINE, ONLINE = GuardSetup(online=False, rewarded=False), GuardSetup(online=True, rewarded=True)


class At(Guard):
    """Objects to the steps that its option names, such as 3+5."""

    saved = ("seen",)

    def __init__(self, setup, steps: str):
        self.steps, self.seen = [int(step) for step in steps.split("+")], 0

    def look(self, step, metrics):
        self.seen += 1
        return f"the {self.seen}th look is at step {step}" if step in self.steps else ""


class Plugin:
    """A stranger's plugin."""

    @hookimpl
    def guards(self):
        return {"at": At}


@pytest.fixture
def plugged(monkeypatch):
    modules, broken = registry.plugin_modules()
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*modules, ("mine@test", Plugin())), broken))


EXACT = {"save_every": 2, "lr": 1e-3, "schedule": "cosine", "epochs": 3, "score": "none"}


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch, plugged):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    start = trainer(tmp_path, tiny_folder)
    return lambda algo="sft", **options: start(algo, **{**EXACT, **options})


UNSTEADY = '''
class Unsteady(Algorithm):
    """The loss of some steps is no number."""
    api_version = 2
    data = "demonstration"

    @dataclass
    class Config:
        bad: str = ""
        """Steps with NaN, from 0."""

    def loss(self, batch, models, config, step):
        logps = models.policy.logps(batch.completion)
        factor = float("nan") if str(step) in config.bad.split("+") else 1.0
        return Loss.per_token(-logps.per_token * factor, logps.mask)
'''


def events(run):
    """The rows of metrics.jsonl in which a guard acted: step, and what it did."""
    return {
        row["step"]: sorted(name for name in row if name.startswith("guards/"))
        for row in run.log_history if any(name.startswith("guards/") for name in row)
    }  # fmt: skip


# -- rollback ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "back_to", "out"), [(4, 2, "2+3"), (1, 0, "0"), (9, 6, "6+7+8")])
def test_a_rollback_is_as_if_the_steps_since_the_checkpoint_were_left_out(train, tmp_path, capsys, step, back_to, out):
    run = train(guards=f"at(action=rollback, steps={step})", quiet=False)
    assert events(run) == {step: ["guards/at/rollback", "guards/back_to"]}
    assert run.log_history[step - 1]["guards/back_to"] == back_to and run.log_history[step - 1]["skipped"] == 1
    assert run.summary["guards"] == {"at": {"rollback": 1}}
    assert (run.summary["steps"], run.summary["skipped_steps"]) == (9, step - back_to)
    assert f"Back to step {back_to}; the steps since then are left out" in capsys.readouterr().out
    left_out = train(
        plugin_file(tmp_path, UNSTEADY), data=data_for("sft", tmp_path), bad=out, guards="finite(patience=9)"
    )
    assert same_bytes(run, left_out, "model/model.safetensors")


@pytest.mark.parametrize("optimizer", ["muon", "lion", "adafactor", "rmsprop"])
def test_a_rollback_restores_the_state_of_any_optimizer(train, tmp_path, optimizer):
    run = train(guards="at(action=rollback, steps=4)", optimizer=optimizer)
    left_out = train(
        plugin_file(tmp_path, UNSTEADY), data=data_for("sft", tmp_path), bad="2+3", guards="finite(patience=9)",
        optimizer=optimizer,
    )  # fmt: skip
    assert same_bytes(run, left_out, "model/model.safetensors")


def test_a_lower_rate_after_a_rollback_holds_for_each_group_of_a_joint_optimizer(train, monkeypatch):
    rates, real = [], PostTraining.training_step

    def recorded(self, batch, index):
        rates.append([group["lr"] for group in self.optimizers().param_groups])
        real(self, batch, index)

    monkeypatch.setattr(PostTraining, "training_step", recorded)
    options = {"optimizer": "muon(others_lr=0.5)", "schedule": "constant", "warmup": 0, "lr": 1e-3}
    train(guards="at(action=rollback, steps=4)", rollback_lr=0.5, **options)
    assert rates[0] == [1e-3, 5e-4, 5e-4] and rates[-1] == [5e-4, 2.5e-4, 2.5e-4]


TWO = {"guards": "at(action=rollback, steps=4+8)", "save_every": 3, "rollback_lr": 0.5}
ADAPTERS = {"neftune_alpha": 5.0, "lora": True, "lora_rank": 2, "lora_dropout": 0.1, "lr": 1e-2}


def assert_repeated(train, tmp_path, signals, *algo, **options):
    """A run that gets a signal after a step, resumed, ends like one that gets none. signals: the number by step."""
    whole = train(*algo, name="whole", **options)
    for step, number in signals.items():

        def action(step=step, number=number):
            installed(SignalAt(step, number))
            train(*algo, name=f"broken-{step}", **options)

        assert in_child(action, tmp_path / "output.txt") == 128 + number
        broken = zoo.resume(tmp_path / "runs" / f"broken-{step}", quiet=True)
        assert_same(broken, whole)
        assert same_bytes(broken, whole, "offending.jsonl")
    return whole


def test_a_kill_around_a_rollback_changes_no_bit(train, tmp_path):
    """At step 7 the run is stopped with a checkpoint of its own; the rollback still goes back to that of step 6."""
    whole = assert_repeated(train, tmp_path, {4: signal.SIGKILL, 7: signal.SIGTERM}, **ADAPTERS, **TWO)
    assert events(whole) == {step: ["guards/at/rollback", "guards/back_to"] for step in (4, 8)}
    assert [row["guards/back_to"] for row in whole.log_history if "guards/back_to" in row] == [0, 6]
    rates = [row["lr"] for row in train(name="calm").log_history]
    assert [round(row["lr"] / rate * 1e-1, 6) for row, rate in zip(whole.log_history, rates, strict=True)] == [
        *[1.0] * 4, *[0.5] * 4, 0.25,
    ]  # fmt: skip


# -- numbers that are not finite -----------------------------------------------------------------------------------


def test_weights_that_are_no_numbers_end_the_run_with_a_reason_and_other_options_go_on(train, tmp_path):
    """The run used to read "unfinished", its checkpoint held NaN, and a resume ran into the same three steps."""
    with pytest.raises(TrainingFailed, match="The guard finite stops the run|The weights are no finite") as failed:
        train(name="wild", lr=1e38, save_every=3)
    assert failed.value.exit_status == 1 and "--lr" in failed.value.hint
    run = Run(tmp_path / "runs" / "wild")
    assert run.status == "failed" and run.summary["guards"]["finite"]["skip"] >= 1
    assert not run.checkpoints.exists() and not run.model_path.exists()
    with pytest.raises(TrainingFailed, match="finite") as again:
        zoo.resume(run.path, quiet=True)
    assert "--lr" in again.value.hint


def test_a_run_that_a_guard_stopped_goes_on_with_other_options(train, tmp_path):
    with pytest.raises(TrainingFailed, match="The guard at stops the run at step 6 .rows .*the 6th look"):
        train(name="stopped", guards="at(action=stop, steps=6)")
    run = Run(tmp_path / "runs" / "stopped")
    assert run.status == "failed" and run.summary["guards"] == {"at": {"stop": 1}} and run.summary["steps"] == 5
    with pytest.raises(TrainingFailed, match="The guard at stops the run") as again:
        zoo.resume(run.path, quiet=True)
    assert "run.yaml" in again.value.hint and "--allow-change NAME" in again.value.hint
    config = run.path / "run.yaml"
    config.write_text(config.read_text().replace("action=stop", "action=warn"))
    done = zoo.resume(run.path, quiet=True, allow_change=["guards"])
    assert done.status == "finished" and done.summary["guards"] == {"at": {"warn": 1}}
    assert same_bytes(done, train(), "model/model.safetensors")


def test_a_last_step_that_breaks_the_weights_writes_no_model(train, tmp_path):
    with pytest.raises(TrainingFailed, match="The weights are no finite numbers after step 1"):
        train(name="wild", lr=3e38, max_steps=1, batch_size=12, optimizer="adamw(eps=1e-30)", weight_decay=10.0)
    run = Run(tmp_path / "runs" / "wild")
    assert run.status == "failed" and not run.model_path.exists()


def test_a_rollback_with_a_lower_rate_saves_a_run_whose_weights_broke(train):
    run = train(lr=1e38, rollback_lr=1e-41, save_every=1, guards="finite(action=rollback)", max_rollbacks=1)
    assert run.status == "finished" and run.summary["guards"] == {"finite": {"rollback": 1}}
    assert run.log_history[-1]["loss"] < run.log_history[0]["loss"]


def test_more_rollbacks_than_are_allowed_stop_the_run(train):
    with pytest.raises(TrainingFailed, match=r"stops the run at step 7.*after 1 rollback\b"):
        train(guards="at(action=rollback, steps=5+7)", max_rollbacks=1)


# -- rows that are objected to --------------------------------------------------------------------------------------


def offending(run):
    return [json.loads(line) for line in (run.path / "offending.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_rows_of_a_bad_step_are_kept_whole(train, tmp_path):
    rows = [{**row, "source": f"page {i}"} for i, row in enumerate(demonstrations(12))]
    rows[5]["completion"] = "red\x1b[31m\x07blue"
    data = write_rows(tmp_path / "rows.jsonl", rows)
    run = train(plugin_file(tmp_path, UNSTEADY), data=data, bad="0+1+2", guards="finite(patience=9)", epochs=1.5)
    kept = offending(run)
    assert sorted(line["row"] for line in kept) == list(range(1, 13)), "each row once, in three steps of four"
    assert {line["step"] for line in kept} == {1, 2, 3} and all(line["loss"] == "nan" for line in kept)
    assert all(line["record"]["source"] == f"page {line['row'] - 1}" for line in kept)
    (odd,) = [line for line in kept if line["row"] == 6]
    assert "red\x1b[31m\x07blue" in odd["texts"]["completion"]
    assert odd["objections"][0].keys() == {"guard", "action", "why"}


def test_the_loss_of_each_row_is_kept_where_it_is_a_number(train):
    run = train(guards="at(steps=2)", epochs=1)
    kept = offending(run)
    assert len(kept) == 4 and kept[0]["objections"][0]["action"] == "warn"
    tokens = [len(line["texts"]["completion"]) for line in kept]
    assert all(isinstance(line["loss"], float) for line in kept) and all(tokens)
    assert min(line["loss"] for line in kept) <= run.log_history[1]["loss"] <= max(line["loss"] for line in kept)


def test_two_processes_decide_alike_and_keep_the_rows_of_both(tmp_path, tiny_folder, plugged):
    data = data_for("sft", tmp_path)
    flags = float32_flags(
        **{
            **EXACT,
            "guards": "at(action=rollback, steps=4)",
            "name": "two",
            "save_every": 1,
            "devices": 2,
            "accelerator": "cpu",
        }
    )
    done = two_processes("train", "--algo", "sft", "--model", tiny_folder, "--data", data, *flags, cwd=tmp_path,
                         ZOO_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert [one.returncode for one in done] == [0, 0], done[0].stdout + done[0].stderr + done[1].stderr
    run = Run(tmp_path / "runs" / "two")
    assert run.summary["guards"] == {"at": {"rollback": 1}} and run.log_history[3]["guards/back_to"] == 2
    assert len({line["row"] for line in offending(run)}) == 4 == len(offending(run))


# -- online --------------------------------------------------------------------------------------------------------

PLUGINS = Path(__file__).parent / "online_plugins.py"
REWARDS = PLUGINS.with_name("online_rewards.py")
# A rollout of 4 prompts serves 2 minibatches twice.
ROLLING = {
    "reward": f"{REWARDS}:odd_letters", "max_new_tokens": 6, "minibatches": 2, "rollout_epochs": 2, "epochs": 2.4,
    "batch_size": 4, "save_every": 3,
}  # fmt: skip


class OfRollout(At):
    """Objects to whole rollouts."""

    of_rollout = True


@pytest.fixture
def roll(train, tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in demonstrations(10)[::2]])
    return lambda algo=f"{PLUGINS}:Reinforce", **options: train(algo, data=data, **{**ROLLING, **options})


def test_a_skip_of_a_rollout_passes_over_all_steps_that_it_serves(roll, monkeypatch):
    monkeypatch.setattr(Plugin, "guards", hookimpl(lambda self: {"at": OfRollout}))
    run = roll(guards="at(action=skip, steps=5)")
    assert [row["step"] for row in run.log_history if "skipped" in row] == [5, 6, 7, 8]
    assert run.summary["skipped_steps"] == 4 and run.summary["guards"]["at"] == {"skip": 1}


def test_a_rollback_within_a_rollout_passes_over_the_rest_of_it_and_a_kill_changes_no_bit(roll, tmp_path):
    options = {"guards": "at(action=rollback, steps=6)", "algo": "grpo", "beta": 0.1, "reference_every": 4}
    whole = assert_repeated(roll, tmp_path, {7: signal.SIGKILL}, **options)
    assert [row["step"] for row in whole.log_history if "skipped" in row] == [6, 7, 8]
    assert whole.log_history[5]["guards/back_to"] == 3
    assert whole.summary["skipped_steps"] == 5, "those since step 3, and the rest of the rollout"


# -- the bundled guards --------------------------------------------------------------------------------------------


def looks(guard, rows):
    """What a guard says of each row of metrics."""
    return [guard.look(step, row) for step, row in enumerate(rows, start=1)]


def test_a_loss_that_spikes_is_beyond_k_robust_deviations_of_the_window():
    """Of 1…9 the median is 5 and the MAD 2, so a deviation is 2 · 1.4826: with ten values (5.5, 2.5) likewise."""
    values = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    bound = 5.5 + 8 * 1.4826 * 2.5
    for value, objected in [(bound + 0.01, True), (bound - 0.01, False), (-100.0, False), (math.nan, False)]:
        said = looks(bundled.LossSpike(OFFLINE), [{"loss": one} for one in [*values, value]])
        assert said[:-1] == [""] * 10 and bool(said[-1]) == objected, value


def test_a_metric_that_a_step_has_not_is_told_once_with_the_nearest():
    with pytest.warns(
        UserWarning, match="watches 'grad_nrm', and step 1 has no such metric. Did you mean 'grad_norm'?"
    ):
        guard = bundled.Spike(OFFLINE, "grad_nrm")
        assert looks(guard, [{"loss": 1.0, "grad_norm": 2.0}] * 3) == ["", "", ""]


def test_a_window_forgets_and_equal_values_are_no_reason_for_an_objection():
    guard = bundled.LossSpike(OFFLINE, window=10, k=8)
    assert not any(looks(guard, [{"loss": 2.0}] * 12 + [{"loss": 2.01}]))
    assert looks(guard, [{"loss": 3.0}] * 8)[0] and not looks(guard, [{"loss": 3.0}] * 3)[-1], "a new level is accepted"
    gradient = bundled.GradientSpike(ONLINE)
    assert looks(
        gradient, [{"loss": 0.0, "grad_norm": 1 + i % 3} for i in range(12)] + [{"loss": 0.0, "grad_norm": 50}]
    )[-1]
    assert not any(looks(gradient, [{"grad_norm": 10.0**i} for i in range(12)])), "steps with nothing to learn from"


def test_constant_rewards_are_objected_to_after_three_rollouts():
    def rollouts(*values):
        return [{"rollout/reward": value, "rollout/reward_std": spread} for value, spread in values]

    said = looks(bundled.ConstantReward(ONLINE), rollouts(*[(0.0, 0.0)] * 5))
    assert [bool(one) for one in said] == [False, False, True, True, True] and "the last 3 rollouts was 0" in said[2]
    others = rollouts((1, 0), (1, 0), (0, 0), (1, 0), (1, 0), (1, 0.5), (1, 0), (1, 0), (math.nan, math.nan))
    assert not any(looks(bundled.ConstantReward(ONLINE), [*others, {"loss": 1.0}]))


@pytest.mark.parametrize(
    ("guard", "metric", "quiet", "objected"),
    [
        (bundled.FlatGroups, "rollout/flat_groups", 0.79, 0.8), (bundled.CutAnswers, "rollout/cut", 0.49, 0.5),
        (bundled.MissingRewards, "rollout/missing", 0.49, 0.5), (bundled.KL, "kl", 50.0, 50.1),
        (bundled.EngineGap, "rollout/engine_gap", 0.05, 0.051),
    ],
)  # fmt: skip
def test_a_number_is_objected_to_beyond_its_limit(guard, metric, quiet, objected):
    assert not any(looks(guard(ONLINE), [{}, {metric: quiet}, {metric: math.nan}]))
    assert looks(guard(ONLINE), [{metric: objected}])[0]


def test_an_entropy_that_collapses_falls_below_a_share_of_its_first_values():
    guard = bundled.Entropy(ONLINE, share=0.3, window=2)
    said = looks(guard, [{"entropy": value} for value in (2.0, 4.0, 3.0, 0.5, 1.0, 0.7)])
    assert [bool(one) for one in said] == [False] * 4 + [True, True], "0.75 and 0.85 are below 0.9"
    assert not any(looks(bundled.Entropy(ONLINE, window=2), [{"loss": 1.0}] * 5))


# -- how they are named --------------------------------------------------------------------------------------------


def asked(text, setup=OFFLINE):
    return {one.name: one for one in ask([text] if text else [], available({"at": At}), setup)}


def test_by_default_bad_numbers_are_skipped_and_the_rest_warns():
    offline = {name: one.action for name, one in asked("").items()}
    assert offline == {"finite": "skip", "loss_spike": "warn", "gradient_spike": "warn", "kl": "warn"}
    online = {name: one.action for name, one in asked("", ONLINE).items()}
    assert "loss_spike" not in online and {"entropy", "constant_reward", "cut_answers", "engine_gap"} < set(online)
    assert {*online} - {*asked("", GuardSetup(online=True, rewarded=False))} == {
        "constant_reward", "flat_groups", "missing_rewards",
    }  # fmt: skip


@pytest.mark.parametrize("load", [registry.load_algorithm, described], ids=["class", "card"])
def test_runs_that_learn_from_no_reward_have_no_guards_of_rewards(load):
    learn = {}
    for name in ("grpo", "ppo", "online-dpo", "rlaif", "spin", "gkd", "opd", "dpo"):
        cls = load(name)[1]
        learn[name] = learns_from_rewards(cls, cls().roles(cls.Config()))
    assert {name for name, one in learn.items() if one} == {"grpo", "ppo", "online-dpo"}


def test_a_guard_is_changed_turned_off_or_added_by_its_name():
    assert asked("loss_spike(action=rollback, k=6)")["loss_spike"].options == {"k": 6.0}
    assert asked("loss_spike(action=skip, patience=9)")["loss_spike"].patience == 9
    assert "loss_spike" not in asked("loss_spike(action=off)")
    assert asked("spike(metric=kl)")["spike"].action == "warn", "named without an action"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("los_spike", "No guard is called 'los_spike'. Did you mean 'loss_spike'"),
        ("loss_spike(actoin=skip)", "no option 'actoin'"),
        ("loss_spike(action=skipp)", "option action = skipp: it is off, warn, .* Did you mean 'skip'"),
        ("loss_spike(patience=0)", "option patience = 0: it is a number of steps"),
        ("loss_spike(window=few)", "option window = few"),
        ("loss_spike(window=2)", "window must be at least 10"),
        ("entropy", "'entropy' is for runs that learn from their policy's own answers"),
        ("spike", "The guard 'spike' needs metric"),
        ("loss_spike, loss_spike(k=3)", "named twice"),
    ],
)
def test_a_guard_that_cannot_be_is_refused(text, words):
    with pytest.raises(ZooError, match=words):
        [one.made(OFFLINE) for one in ask(names_in(text), available({}), OFFLINE)]


def test_a_plugin_may_not_take_the_name_of_a_bundled_guard_nor_give_what_is_none():
    with pytest.raises(PluginError, match="registers the guard 'finite'"):
        available({"finite": At})
    (one,) = [one for one in ask(["odd"], available({"odd": lambda setup: 7}), OFFLINE) if one.name == "odd"]
    with pytest.raises(PluginError, match="'odd' is int, no zoo.api.Guard"):
        one.made(OFFLINE)


class Mute(Guard):
    """Forgets to answer."""

    action = "warn"

    def __init__(self, setup):
        pass

    def look(self, step, metrics):
        metrics["loss"] = 0.0


def test_a_guard_cannot_change_the_numbers_and_has_to_answer():
    def guards(look):
        mute = type("Mute", (Mute,), {"look": look})
        return Guards([one.made(OFFLINE) for one in ask([], available({"mute": mute}), OFFLINE)])

    with pytest.raises(TypeError, match="does not support item assignment"):
        guards(Mute.look).look(1, {"loss": 1.0})
    with pytest.raises(PluginError, match="The guard 'mute' returned NoneType"):
        guards(lambda self, step, metrics: None).look(1, {"loss": 1.0})


def test_a_warning_is_printed_once_and_counted_each_time(train, capsys):
    run = train(guards="at(steps=2+3)", quiet=False)
    assert capsys.readouterr().out.count("look is at step") == 1
    assert run.summary["guards"] == {"at": {"warn": 2}} and run.summary["skipped_steps"] == 0
    assert same_bytes(run, train(), "model/model.safetensors")


# -- the listing and the page --------------------------------------------------------------------------------------


def test_the_guards_are_listed_with_their_options(plugged):
    status, out, _ = cli("guards", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and {*bundled.BUNDLED, "at"} == set(rows)
    assert rows["loss_spike"]["options"] == {"window": 50, "k": 8.0} and rows["at"]["options"] == {"steps": None}
    status, out, _ = cli("guards", "loss_spike")
    assert status == 0 and "warn by default; offline runs; options: window=50, k=8.0" in out
    status, _, err = cli("guards", "los_spike")
    assert status == 2 and "Did you mean 'loss_spike'" in err


def test_the_table_of_the_page_has_each_guard_with_its_options_and_action():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    on_page = {row[0].strip("`"): row for row in rows if row[0].strip("`") in bundled.BUNDLED}
    for name, factory in bundled.BUNDLED.items():
        shown = [
            o.name if o.default is o.empty else f"{o.name}={o.default}".removesuffix(".0") for o in options_of(factory)
        ]
        assert re.findall(r"`(.+?)`", on_page[name][2]) == shown
        verb = {"skip": "skips", "warn": "warns", "off": "is off"}[factory.action]
        assert on_page[name][3] == verb


def test_the_guard_of_the_page_works(tmp_path):
    (code,) = re.findall(r"<!-- lengths.py -->\n```python\n(.*?)```", PAGE, flags=re.S)
    module = {}
    exec(code, module)
    factories = available(module["guards"]())
    (one,) = [one for one in ask(["lengths(action=stop, factor=3)"], factories, ONLINE) if one.name == "lengths"]
    guards = Guards([one.made(ONLINE)])
    assert [bool(guards.look(i, {"rollout/length": value})) for i, value in enumerate((10, 30, 31))] == [0, 0, 1]


def test_the_page_explains_each_check_in_the_words_of_its_code():
    table = PAGE.partition("| check | what it requires |")[2]
    assert re.findall(r"^\| (\w[\w ]+) \| (.+) \|$", table, flags=re.M) == [(n, c.__doc__) for n, c in CHECKS.items()]


# -- faults that real runs meet ------------------------------------------------------------------------------------

SICK = '''
class Sick(Algorithm):
    """A number that is none, in one step."""
    api_version = 2
    data = "demonstration"
    needs = ("policy", "reference")

    @dataclass
    class Config:
        where: str = "loss"
        """loss, gradient or reference."""
        value: float = float("nan")
        """The bad number."""

    def loss(self, batch, models, config, step):
        policy, reference = models.policy.logps(batch.completion), models.reference.logps(batch.completion)
        bad = config.value if step == 1 else 1.0
        frozen = reference.per_token * (bad if config.where == "reference" else 1.0)
        values = -policy.per_token + 0.1 * (policy.per_token - frozen)
        if config.where == "gradient" and step == 1:
            values = values + (policy.per_token * 0.0).sqrt()
        return Loss.per_token(values * (bad if config.where == "loss" else 1.0), policy.mask)
'''


@pytest.mark.parametrize("options", [{"where": "loss", "value": "inf"}, {"where": "gradient"}, {"where": "reference"}])
def test_a_bad_number_wherever_it_comes_from_skips_the_step(train, tmp_path, options):
    algo = plugin_file(tmp_path, SICK.replace('float("nan")', f'float("{options.pop("value", "nan")}")'))
    run = train(algo, data=data_for("sft", tmp_path), epochs=1, **options)
    assert [row.get("skipped") for row in run.log_history] == [None, 1.0, None]
    assert run.summary["guards"] == {"finite": {"skip": 1}} and {line["step"] for line in offending(run)} == {2}
    assert all(value.isfinite().all() for value in weights(run).values())


SCORES = '''
def odd(completions, records):
    """NaN and infinity in turn."""
    return [[float("nan"), float("inf"), 0.5, 1.0][i % 4] for i in range(len(completions))]


def flat(completions, records):
    return [0.5] * len(completions)
'''


def test_rewards_that_are_no_numbers_are_missing_and_leave_the_weights_finite(roll, tmp_path):
    (tmp_path / "scores.py").write_text(SCORES)
    run = roll(reward=f"{tmp_path / 'scores.py'}:odd", max_steps=4)
    assert run.log_history[0]["rollout/missing"] == 0.5 and run.summary["guards"]["missing_rewards"] == {"warn": 1}
    assert all(math.isfinite(row["loss"]) for row in run.log_history)
    assert all(value.isfinite().all() for value in weights(run).values())


def test_rewards_that_are_all_equal_teach_nothing_and_are_told(roll, tmp_path, capsys):
    (tmp_path / "scores.py").write_text(SCORES)
    options = {"reward": f"{tmp_path / 'scores.py'}:flat", "minibatches": 1, "rollout_epochs": 1, "epochs": 4.0}
    run = roll("grpo", **options, answers_per_prompt=2, lr=0.1, quiet=False)
    assert run.summary["guards"]["constant_reward"] == {"warn": run.summary["steps"] - 2}
    assert all(math.isfinite(value) for row in run.log_history for value in row.values())
    assert capsys.readouterr().out.count("every reward of the last 3 rollouts was 0.5".capitalize()) == 1
    start = load_file(Path(run.config["model"]) / "model.safetensors")
    assert all(value.equal(start[name]) for name, value in weights(run).items()), "no advantage, no gradient"


@pytest.mark.parametrize("kind", ["empty", "only the end", "never ends", "only special tokens"])
def test_answers_of_any_shape_have_a_defined_loss(kind, tmp_path, tiny_folder):
    from zoo.models.loading import load_model, load_tokenizer
    from zoo.models.names import Source
    from zoo.models.scoring import score_answers

    source = Source("tiny", tiny_folder)
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    end = tokenizer.eos_token_id
    made = {
        "empty": Answer.of([5, 6], [], ended=False), "only the end": Answer.of([5, 6], [end]),
        "never ends": Answer.of([5, 6], [7, 8, 9], ended=False, cut=True),
        "only special tokens": Answer.of([5], [end] * 3),
    }  # fmt: skip
    answers = Answers([made[kind], Answer.of([5, 6], [7, end])])
    logps = score_answers(model, answers, "padded")
    loss = Loss.per_token(-logps.per_token, logps.mask)
    loss.mean().backward()
    assert bool(loss.mean().isfinite()) and answers.cut.tolist() == [kind == "never ends", False]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_with_a_guard_a_spoilt_batch_leaves_a_run_within_noise_of_one_without_it(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    bad_batch = importlib.import_module("bad_batch")
    found = bad_batch.measured(3)
    ends = {kind: [one[kind][1] for one in found] for kind in bad_batch.KINDS}
    calm = ends["as they are"]
    noise = max(calm) - min(calm) + 0.05
    assert min(one["spoilt"][0] for one in found) > 50
    for kind in ("spoilt, skip", "spoilt, rollback"):
        assert abs(statistics.fmean(ends[kind]) - statistics.fmean(calm)) < noise, kind
    assert statistics.fmean(ends["spoilt"]) - statistics.fmean(calm) > 3 * noise
