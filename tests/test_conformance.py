"""The conformance suite: every bundled algorithm passes it, and each of its checks catches what it is made for."""

import dataclasses
import functools
import json
from pathlib import Path

import pytest
from broken_plugins.sound import Sound
from broken_plugins.sound_online import Sound as SoundOnline
from tiny_runs import cli, differences, float32_flags, losses, run_command, trainer, write_rows

from zoo.contract import registry
from zoo.errors import ZooError
from zoo.guards.bundled import BUNDLED as GUARDS
from zoo.runs import Run
from zoo.testing import conformance
from zoo.testing.declared import Declared, declared, find_check
from zoo.testing.guards import NAMES as GUARD_NAMES
from zoo.testing.guards import check_guard
from zoo.testing.optimizers import NAMES as OPTIMIZER_NAMES
from zoo.testing.optimizers import check_optimizer
from zoo.testing.schedules import NAMES as SCHEDULE_NAMES
from zoo.testing.schedules import check_schedule
from zoo.testing.suite import NAMES, Result, Suite, explanation, summary
from zoo.testing.tiny import tiny_rows
from zoo.values.types import Answers, Batch

BROKEN = Path(__file__).parent / "broken_plugins"
NUMBERS = ("known values", "step-one identities", "flat rewards")
ROLLOUTS = ("rollout invariance", "missing rewards", "flat rewards", "kept experience", "environment tokens")
TURNS = 6
"""A check is made with the defaults and every sixth variant; checks take turns, so that each variant meets some."""
TOGETHER = ("metrics explained",)
"""What is judged over all variants together."""
REAL = "two processes"
CUT = "tensor group"
"""These start real processes, for the defaults alone."""
FIRST = ("dpo", "grpo")
"""Algorithms that every run of the tests makes on real processes."""
REWARDLESS = ("gkd", "opd", "spin")
"""Algorithms whose rollouts ask for no reward, so that no answer is better than another."""
BUNDLED = [entry.name for entry in registry.algorithms() if entry.target.startswith("zoo_plugins.")]


@functools.cache
def suite_of(name):
    suite = Suite(name)
    return suite, suite.bench.variants


def assert_conforms(name, check, turns):
    suite, variants = suite_of(name)
    if check not in TOGETHER:
        variants = variants[:1] + variants[1:][NAMES.index(check) % turns :: turns]
    suite.bench.variants = variants
    found, cls = suite.run(check), suite.bench.cls
    excused = check in NUMBERS or (check in ROLLOUTS and not cls.online())
    # What a judge or a constitution wants stands in no row.
    excused |= check == "right direction" and cls.data == "prompt" and not cls.online()
    excused |= check == "frozen roles" and not suite.bench.stage({}).models.frozen()
    excused |= name in REWARDLESS and check in ("missing rewards", "right direction")
    assert found.result == "passed" or (found.result == "skipped" and excused), found.detail


@pytest.mark.parametrize("check", [name for name in NAMES if name not in (REAL, CUT)])
@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_algorithm_conforms(name, check):
    assert_conforms(name, check, TURNS)


@pytest.mark.parametrize("check", [REAL, CUT])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FIRST else pytest.mark.long) for n in BUNDLED])
def test_real_processes_make_the_run_of_one(name, check):
    assert_conforms(name, check, 1)


@pytest.mark.slow
@pytest.mark.parametrize("check", [name for name in NAMES if name not in (REAL, CUT)])
@pytest.mark.parametrize("name", BUNDLED)
def test_so_it_does_with_all_of_its_variants(name, check):
    assert_conforms(name, check, 1)


def test_every_bundled_algorithm_with_a_reference_says_how_it_starts():
    for name in BUNDLED:
        cls = registry.load_algorithm(name)[1]
        if "reference" in cls().roles(cls.Config()):
            assert cls.conformance["start"], name


def test_no_bundled_algorithm_has_an_exception():
    assert [name for name in BUNDLED if registry.load_algorithm(name)[1].conformance.get("exceptions")] == []


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "simpo", "orpo", "cpo", "bco", "rm", "prm"])
def test_offline_algorithms_declare_worked_numbers_and_these_come_from_outside(name, vectors):
    cls = registry.load_algorithm(name)[1]
    algorithm = {"prm": "rm"}.get(name, name)
    known = [one["expected"] for key, one in vectors.items() if key.startswith(f"{algorithm}.")]
    known = [value for one in known for value in (one.get("loss"), one.get("or_loss")) if value is not None]
    for case in cls.conformance["values"]:
        for value in [case[key] for key in ("loss",) if key in case] + list(case.get("metrics", {}).values()):
            assert value in known, value


test_the_sound_one = conformance(Sound)
test_the_sound_online_one = conformance(SoundOnline)


def test_the_sound_one_is_checked_against_its_declared_numbers():
    results = list(Suite(Sound).results(only=["known values", "step-one-identities"]))
    assert summary(results) == {"passed": 2}


# -- each check catches what it is made for --------------------------------------------------------------------------

CAUGHT = {
    "loads quietly": "prints 'Thank you for choosing us.'",
    "hook arguments": "Did you mean 'models'?",
    "described": "The option sharpness has no help",
    "options": "Options change when they are written to a file",
    "defaults": "reasons: lrr is no option. Did you mean 'lr'?",
    "collation": "collate changes its input records",
    "declared roles": "needs names the role 'reference', which is never used",
    "gradients": "The loss calls backward",
    "frozen roles": 'call renew() of a role of your own, models["opponent"]: checkpoints keep these.',
    "metrics explained": "The metric 'margins' is reported, but not explained in `metrics`. Did you mean 'margin'?",
    "padding invariance": "each example alone, without padding",
    "layout invariance": "with shared rows and with packed rows",
    "micro-batch invariance": "with one micro-batch and with a few micro-batches",
    "process invariance": "two processes",
    "order invariance": "the examples reversed",
    "one-sided steps": "A step with one example has the loss nan",
    "rollout invariance": "The same answers give a different advantage if the prompts are reversed",
    "missing rewards": "with answers without a reward included and with these answers left out",
    "flat rewards": "If every reward is 0.3, there is a gradient of",
    "kept experience": "A checkpoint cannot hold the batch",
    "environment tokens": "It counts the environment's tokens in the loss, or the ratio",
    "finite numbers": "The loss is inf or its gradient is not finite",
    "step-one identities": "In the first step",
    "known values": "Case 1: loss is 0.47",
    "learns": "6 steps on the same rows change loss from",
    "right direction": "steps reduce the lead of good answers",
    "repeatable": "With the same seed, step 1 has the loss",
    "killed and resumed": "of metrics.jsonl differs",
    "two processes": "The two have different values of self.offset.",
    "tensor group": "With one process and with two (--tensor-parallel 2), loss of step 1 differs (",
}


def broken(check, name="Broken"):
    return str(BROKEN / f"{check.replace(' ', '_').replace('-', '_')}.py") + f":{name}"


def test_there_is_a_broken_plugin_for_every_check():
    broken_ones = {file.stem for file in BROKEN.glob("*.py")} - {"sound", "sound_online"}
    kinds = {"guard": GUARD_NAMES, "optimizer": OPTIMIZER_NAMES, "schedule": SCHEDULE_NAMES}
    others = [f"{kind} {name}" for kind, names in kinds.items() for name in names]
    assert broken_ones == {Path(broken(name)).stem for name in (*NAMES, *others)}


@pytest.mark.parametrize("check", NAMES)
def test_a_broken_plugin_is_caught_by_the_check_made_for_it(check):
    found = Suite(broken(check)).run(check)
    assert found.result == "failed"
    assert CAUGHT[check] in found.detail


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("two_processes.py:OwnMean", "--strategy ddp), loss of step 1 differs ("),
        ("two_processes.py:OwnStream", "random numbers come from the run's generators."),
        ("two_processes.py:FirstOnly", "loss of step 1 differs"),
        ("two_processes.py:Failing", "in _result: ValueError: Where am I?"),
        ("process_invariance.py:Broken", "the two have different values of self.average after 3 steps ("),
        ("rollout_invariance.py:Uneven", "random numbers come from the run's generators."),
    ],
)
def test_what_goes_wrong_in_real_processes_is_told(plugin, words):
    found = Suite(str(BROKEN / plugin)).run(REAL)
    assert found.result == "failed" and words in found.detail, found.detail


@pytest.mark.parametrize(
    ("plugin", "words"),
    [("Distance", "the KL to a frozen role. The metric kl differs"), ("Explorer", "the entropy. The loss differs"),
     ("Longwinded", "lengths, such as"), ("Impatient", "the returns or advantages, by the critic's values")],
)  # fmt: skip
def test_wherever_the_tokens_of_an_environment_are_counted_is_told(plugin, words):
    found = Suite(broken("environment tokens", plugin)).run("environment tokens")
    assert found.result == "failed" and f"It counts the environment's tokens in {words}" in found.detail, found.detail


def test_what_happens_every_second_step_and_is_forgotten_is_caught():
    found = Suite(broken("killed and resumed", "EverySecond")).run("killed and resumed")
    assert found.result == "failed" and "count" in found.detail, found.detail


@pytest.mark.long
def test_what_tensor_parallelism_alone_breaks_passes_with_two_processes():
    assert Suite(broken(CUT)).run(REAL).result == "passed"


@pytest.mark.long
def test_a_tensor_group_draws_the_noise_of_one_process():
    assert Suite(broken(REAL, "Noisy")).run(CUT).result == "passed"
    assert "loss of step 1 differs" in Suite(broken(CUT, "Drawing")).run(CUT).detail


def test_an_algorithm_whose_defaults_no_group_takes_is_not_run_in_one():
    defaults = {"lora": True, "lora_kind": "dora"}
    skipped = Suite(type("Whole", (Sound,), {"__module__": __name__, "__doc__": "Whole.", "defaults": defaults})).run(
        CUT
    )
    assert skipped.result == "skipped" and "reads whole matrices" in skipped.detail


def test_a_process_that_never_comes_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("zoo.testing.processes.LIMIT", 6.0)
    found = Suite(broken(REAL, "Sleeping")).run(REAL)
    assert found.result == "failed" and "has not ended after 6 s" in found.detail


def test_noise_that_each_process_draws_for_itself_is_not_compared():
    found = Suite(broken(REAL, "Noisy")).run(REAL)
    assert found.result == "skipped" and "each process draws its own" in found.detail


def test_a_class_that_no_other_process_can_import_is_not_run_in_one():
    found = Suite(online_one("Local")).run(REAL)
    assert found.result == "skipped" and "Local cannot be imported" in found.detail


def test_without_a_terminal_each_check_is_told_when_it_is_done():
    chosen = ("--only", "described", "--only", "hook-arguments")
    status, out, error = cli("check", broken("described"), *chosen)
    lines = error.splitlines()
    assert status == 1 and lines[0].startswith("1/2 hook arguments: passed, ")
    assert lines[1].startswith("2/2 described: failed, ") and "1/2" not in out
    assert cli("check", broken("described"), *chosen, "--json")[2] == ""


GUARDS_CAUGHT = {
    "described": "The guard has no docstring",
    "answers": "KeyError: 'loss'",
    "leaves numbers": "In step 50 look() changes loss",
    "repeatable": "A second guard that sees the same numbers says",
    "restored": "A guard that is restored after step",
}


@pytest.mark.parametrize("check", GUARD_NAMES)
def test_a_broken_guard_is_caught_by_the_check_made_for_it(check):
    (found,) = check_guard(broken(f"guard {check}"), [check])
    assert found.result == "failed" and GUARDS_CAUGHT[check] in found.detail


@pytest.mark.parametrize("name", ["spike(metric=kl)", *[name for name in GUARDS if name != "spike"]])
def test_a_bundled_guard_passes_each_check(name):
    assert [result.detail for result in check_guard(name) if result.result != "passed"] == []


def test_a_guard_is_checked_by_the_same_command():
    status, out, _ = cli("check", broken("guard restored"), "--json")
    content = json.loads(out)
    assert (status, content["guard"], content["passed"]) == (1, "broken", False)
    assert [one["check"] for one in content["checks"] if one["result"] == "failed"] == ["restored"]
    assert cli("check", "loss_spike", "--only", "leaves-numbers")[0] == 0
    status, _, error = cli("check", "loss_spike", "--only", "lerns")
    assert status == 2 and "lerns" in error


@pytest.mark.parametrize(("wrong", "right"), [("lino", "lion"), ("gpro", "grpo"), ("cosin", "cosine"), ("klu", "kl")])
def test_a_name_of_any_kind_is_guessed(wrong, right):
    status, _, error = cli("check", wrong)
    text = " ".join(error.replace("│", " ").split())
    assert status == 2 and f"is called '{wrong}'. Did you mean '{right}'?" in text


OPTIMIZERS_CAUGHT = {
    "described": "The function has no docstring",
    "groups": "The optimizer 'broken' lacks critic.0.weight and 7 more",
    "moves": "Twice the learning rate of the critic does not change critic.0.weight",
    "rates": "With a learning rate of 0 a step moves policy.0.weight",
    "decay": "Weight decay changes policy.1.bias",
    "left alone": "A step moves critic.0.weight, which has no gradient in it",
    "repeatable": "The same gradients from the same weights give another policy.0.weight",
    "restored": "Resumed after step 3 with what state_dict() gave, a run has another policy.0.weight",
}


@pytest.mark.parametrize("check", OPTIMIZER_NAMES)
def test_a_broken_optimizer_is_caught_by_the_check_made_for_it(check):
    (caught,) = check_optimizer(broken(f"optimizer {check}", "broken"), [check])
    assert caught.result == "failed" and OPTIMIZERS_CAUGHT[check] in caught.detail


def test_an_optimizer_is_checked_by_the_same_command():
    status, out, _ = cli("check", broken("optimizer restored", "broken"), "--json")
    content = json.loads(out)
    assert (status, content["optimizer"], content["passed"]) == (1, "broken", False)
    assert [one["check"] for one in content["checks"] if one["result"] == "failed"] == ["restored"]
    assert cli("check", "lion", "--only", "rates")[0] == 0
    status, _, error = cli("check", "lion(beta3=1)")
    assert status == 2 and "The optimizer 'lion' has no option 'beta3'" in error


SCHEDULES_CAUGHT = {
    "described": "The function has no docstring",
    "within": "Step 6 of 10 with a warmup of 0 gets -0.19999999999999996, which is not in [0, 1]",
    "trains": "No step of 1 with a warmup of 0 has a rate above the floor",
    "resumed": "Step 0 of 1 gets 0.5 at first and then 0.3333333333333333",
}


@pytest.mark.parametrize("check", SCHEDULE_NAMES)
def test_a_broken_schedule_is_caught_by_the_check_made_for_it(check):
    (caught,) = check_schedule(broken(f"schedule {check}", "broken"), [check])
    assert caught.result == "failed" and SCHEDULES_CAUGHT[check] in caught.detail


def test_a_schedule_is_checked_by_the_same_command():
    status, out, _ = cli("check", broken("schedule resumed", "broken"), "--json")
    content = json.loads(out)
    assert (status, content["schedule"], content["passed"]) == (1, "broken", False)
    assert [one["check"] for one in content["checks"] if one["result"] == "failed"] == ["resumed"]
    assert cli("check", "wsd(decay_share=0.3)", "--only", "within")[0] == 0
    status, _, error = cli("check", "wsd(decay=1)")
    assert status == 2 and "The schedule 'wsd' has no option 'decay'" in error


def online_one(name, **methods):
    """The sound online one, with a mistake."""
    return type(name, (SoundOnline,), {"__module__": __name__, "__doc__": "Broken.", **methods})


def test_a_rollout_that_two_processes_make_apart_is_caught():
    found = Suite(str(BROKEN / "rollout_invariance.py") + ":Uneven").run("rollout invariance")
    assert found.result == "failed" and "After a joint rollout, two processes have a different adv" in found.detail


def test_an_online_algorithm_with_the_wrong_sign_earns_less_and_goes_the_wrong_way():
    suite = Suite(online_one("Upside", _advantages=lambda self, rewards: -SoundOnline._advantages(self, rewards)))
    assert "the mean reward is" in suite.run("learns").detail
    assert "steps reduce the lead of good answers" in suite.run("right direction").detail


def test_answers_that_were_tampered_with_no_longer_have_their_log_probs():
    def rollout(self, prompts, models, config, score):
        batch = SoundOnline.rollout(self, prompts, models, config, score)
        changed = [dataclasses.replace(one, behaviour=one.behaviour * 1.01) for one in batch.answers]
        return Batch(**{**batch.fields, "answers": Answers(changed)})

    assert "from that of its sampling" in Suite(online_one("Off", rollout=rollout)).run("step-one identities").detail


def test_a_critic_that_no_gradient_reaches_is_caught():
    def loss(self, batch, models, config):
        return SoundOnline.loss(self, batch, models, dataclasses.replace(config, value_weight=0.0))

    detail = Suite(online_one("Deaf", loss=loss)).run("gradients").detail
    assert "The weight critic." in detail and "gets no gradient" in detail


def test_a_plugin_that_cannot_be_imported_fails_to_load_and_skips_the_rest(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module\n")
    results = list(Suite(f"{tmp_path / 'bad.py'}:Bad").results())
    assert results[0].check == "loads quietly" and "no_such_module" in results[0].detail
    assert summary(results) == {"failed": 1, "skipped": len(NAMES) - 1}


def test_a_mistake_in_the_plugin_is_told_with_its_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from zoo.api import Algorithm\n\n\nclass Mine(Algorithm):\n    api_version = 2\n    data = 'text'\n\n"
        "    def loss(self, batch, models):\n        return models.policy.logps(batch.complétion)\n"
    )
    found = Suite(f"{file}:Mine").run("learns")
    assert found.result == "failed" and "mine.py, line 9" in found.detail


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"given": {"policy": {"chosen": [-1.0]}}, "los": 1.0}, "no key 'los'. Did you mean 'loss'?"),
        ({"given": {"policy": {"chosen": [-1.0]}}}, "needs `given`, and the expected `loss`, `metrics` or `gradients`"),
    ],
)
def test_a_worked_case_that_would_check_nothing_fails(case, words):
    assert words in Suite(Sound, values=[case]).run("known values").detail


def test_worked_numbers_of_a_scorer_are_scores():
    """−log σ(2 − 1) = 0.313262, and −σ(−1) = −0.268941."""
    case = {
        "given": {"scores": {"chosen": [2.0], "rejected": [1.0]}},
        "loss": 0.3132617,
        "gradients": {"chosen": [-0.2689414]},
    }
    assert Suite("rm", values=[case]).run("known values").result == "passed"
    assert "Case 1: loss" in Suite("rm", values=[{**case, "loss": 0.3}]).run("known values").detail


RANKINGS = {
    # −log σ(1) = 0.3132617 of the only pair, and the mean of −log σ(1), −log σ(3), −log σ(2) = 0.1629257.
    "given": {"scores": {"completions": [[2.0, 1.0], [4.0, 3.0, 1.0]]}, "fields": {"ranks": [[1, 2], [1, 2, 3]]}},
    "loss": 0.2380937,
    # −σ(−1)/2; a third of half of −(σ(−1) + σ(−3)), of σ(−1) − σ(−2), of σ(−3) + σ(−2).
    "gradients": {"completions": [[-0.1344707, 0.1344707], [-0.0527279, 0.0249564, 0.0277715]]},
}
STEPS = {
    # Mean of −log σ(1) = 0.3132617, −log σ(2) = 0.1269280, −log σ(−0.5) = 0.9740770.
    "given": {
        "scores": {"completion": [[1.0, -2.0], [-0.5]]},
        "fields": {"step_ends": [[0, 3], [2]], "labels": [[1, 0], [1]]},
        "lengths": {"completion": [4, 3]},
    },
    "loss": 0.4714222,
    "gradients": {"completion": [[-0.0896471, 0.0397343], [-0.2074865]]},
}


@pytest.mark.parametrize(("name", "case"), [("rm", RANKINGS), ("prm", STEPS)])
def test_worked_numbers_may_be_of_rankings_and_steps_of_any_length(name, case):
    found = Suite(name, values=[case]).run("known values")
    assert found.result == "passed", found.detail
    (field,) = case["gradients"]
    *rows, last = case["gradients"][field]
    for wrong in ({"loss": case["loss"] + 1e-3}, {"gradients": {field: [*rows, [*last[:-1], last[-1] + 1e-3]]}}):
        assert Suite(name, values=[{**case, **wrong}]).run("known values").result == "failed"


def test_another_installed_plugin_is_not_what_is_checked(monkeypatch):
    from zoo.contract.hookspecs import hookimpl

    class Wrapper:
        @hookimpl(wrapper=True)
        def loss(self):
            found = yield
            found.metrics["foreign"] = found.values.detach()
            return found

    monkeypatch.setattr(registry, "plugin_modules", lambda: ((("foreign@test", Wrapper()),), ()))
    assert Suite(Sound).run("metrics explained").result == "passed"


# -- exceptions ------------------------------------------------------------------------------------------------------


def test_a_known_exception_is_told_with_its_reason():
    suite = Suite(broken("learns"), exceptions={"learns": "it is upside down"})
    found = suite.run("learns")
    assert found.result == "exception" and found.detail.startswith("it is upside down (6 steps")


def test_an_exception_that_no_longer_is_one_fails():
    found = Suite(Sound, exceptions={"order-invariance": "looks at its neighbour"}).run("order invariance")
    assert found == Result(
        "order invariance",
        "failed",
        "It passes, although an exception is declared (looks at its neighbour): remove the exception.",
    )


def test_exceptions_may_stand_on_the_class_and_in_the_call():
    on_class = type("Known", (Sound,), {"conformance": {"exceptions": {"learns": "class"}}, "__module__": __name__})
    assert Suite(on_class).known.exceptions == {"learns": "class"}
    assert Suite(on_class, exceptions={"gradients": "call"}).known.exceptions == {"gradients": "call"}


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"exceptions": {"lerns": "x"}}, "no check 'lerns'. Did you mean 'learns'"),
        ({"exceptions": {"learns": " "}}, "the exception from 'learns' has no reason"),
        ({"exeptions": {}}, "no key 'exeptions'. Did you mean 'exceptions'"),
    ],
)
def test_what_means_nothing_is_refused_with_the_nearest(known, words):
    with pytest.raises(ZooError, match=f"(?i){words}"):
        conformance(Sound, **known)


# -- pytest and the command line -------------------------------------------------------------------------------------


def test_the_pytest_function_fails_skips_and_excuses():
    with pytest.raises(pytest.fail.Exception, match="change loss from"):
        conformance(broken("learns"))("learns")
    with pytest.raises(pytest.skip.Exception, match="no start values"):
        conformance(Sound, start={})("step-one identities")
    with pytest.raises(pytest.xfail.Exception, match="upside down"):
        conformance(broken("learns"), exceptions={"learns": "upside down"})("learns")


def test_the_page_explains_every_check_in_the_words_of_its_code():
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert rows[1:] == [[name, explanation(name)] for name in NAMES]


def test_the_page_shows_every_key_that_an_author_may_add():
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    names = {}
    exec(page.split("```python\n")[2].split("```")[0], names)
    assert set(names["Mine"].conformance) == {field.name for field in dataclasses.fields(Declared)}
    declared(names["Mine"].conformance, checks=NAMES)


@pytest.mark.parametrize("spelling", ["micro-batch invariance", "Micro-Batch-Invariance", "micro_batch_invariance"])
def test_a_check_may_be_written_with_dashes(spelling):
    assert find_check(spelling, NAMES) == "micro-batch invariance"


def test_a_check_leaves_the_random_numbers_and_the_environment_as_they_were():
    import os
    import random

    import torch

    before = torch.get_rng_state(), random.getstate(), dict(os.environ)
    Suite(Sound).run("killed and resumed")
    assert torch.equal(before[0], torch.get_rng_state()) and (random.getstate(), dict(os.environ)) == before[1:]


def test_the_command_prints_a_table_and_ends_with_status_1_when_a_check_fails():
    status, out, _ = cli("check", BROKEN / "sound.py:Sound", "--only", "learns", "--only", "known-values")
    assert status == 0 and out.rstrip().endswith("sound: 2 passed.")
    status, out, _ = cli("check", broken("learns"), "--only", "learns", "--only", "described")
    assert status == 1 and "1 passed, 1 failed" in out and "change loss from" in " ".join(out.split())


def test_the_command_prints_json():
    status, out, _ = cli("check", broken("options"), "--only", "options", "--json")
    content = json.loads(out)
    assert (status, content["algorithm"], content["passed"]) == (1, "options", False)
    assert content["checks"][0]["check"] == "options" and content["checks"][0]["result"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["no-such"], "Nothing that can be checked is called"), (["./gone.py:Gone"], "There is no file"),
     ([str(BROKEN / "sound.py"), "--only", "lerns"], "Did you mean 'learns'")],
)  # fmt: skip
def test_bad_input_ends_with_status_2(arguments, words):
    status, _, err = cli("check", *arguments)
    assert status == 2 and words in err


# -- real processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", BUNDLED)
def test_two_real_processes_give_what_one_gives(name, strategy, tmp_path, tiny_folder, monkeypatch):
    """The process invariance of the suite adds shares up by itself; here gloo does, through a whole run."""
    cls = registry.load_algorithm(name)[1]
    data = write_rows(tmp_path / "rows.jsonl", tiny_rows(cls.kinds()[0], 10))
    # Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
    options = {"lr": 1e-3, "optimizer": "adamw(eps=1e-5)", "epochs": 1, "model": str(tiny_folder), "data": data}
    options["score"] = "none"
    if cls.online():
        options |= {"reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2, "max_new_tokens": 6}
    one = trainer(tmp_path, tiny_folder)(name, **options)
    flags = float32_flags(**options, devices=2, strategy=strategy, accelerator="cpu", out=tmp_path / "two")
    done = run_command("train", "--algo", name, *flags, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "two").iterdir()
    two = Run(folder)
    assert differences(one, two) < 2e-5
    assert losses(two) == pytest.approx(losses(one), rel=1e-4, abs=1e-5)
