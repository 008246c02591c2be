"""A bug in somebody's plugin is named with their file and line first; what a plugin declares has to be true."""

from types import ModuleType

import pytest
import torch
from packages import forget_modules
from tiny_runs import cli, data_for, plugin_file, trainer

from zoo.contract.hookspecs import hookimpl
from zoo.contract.plugin_manager import PluginManager
from zoo.data.encoding.collate import default_collate
from zoo.data.sources import open_source
from zoo.data.sources.reading import Reading
from zoo.errors import PluginError, ZooError
from zoo.testing.suite import Suite
from zoo.training.record.listeners import Listeners


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return tmp_path


def algorithm(*lines, needs=("policy",)):
    """The source of an algorithm on demonstrations with these methods."""
    head = 'class Odd(Algorithm):\n    """For tests."""\n\n    api_version = 2\n'
    head += f'    data = "demonstration"\n    needs = {needs!r}\n\n'
    return head + "".join(f"    {line}\n" for line in lines)


LOSS = ("def loss(self, batch, models):", "    return Loss.per_example(-models.policy.logps(batch.completion).sum())")
BUGS = {
    "loss": ("def loss(self, batch, models):", "    return Loss.per_example(batch.rewards)"),
    "collate": (*LOSS, "def collate(self, records):", "    return [record.reward for record in records]"),
    "measure": (*LOSS, "def measure(self, batch):", "    return {'a': 1 / 0}"),
    "prepare": (*LOSS, "def prepare(self, records):", "    return records['all']"),
    "step_end": (*LOSS, "def step_end(self, metrics):", "    return metrics['rewards']"),
    "__init__": (*LOSS, "def __init__(self):", "    self.rate = float('many')"),
}


@pytest.mark.parametrize("where", BUGS)
def test_a_bug_in_a_plugin_names_its_file_and_line_and_keeps_the_traceback(place, where):
    file = plugin_file(place, algorithm(*BUGS[where]), "odd.py")
    options = ("--model", "tiny", "--data", data_for("sft", place), "--precision", "32-true", "--max-steps", 1)
    status, _, shown = cli("train", "--algo", file, *options)
    text = (place / "odd.py").read_text()
    line = len(text.splitlines()) if where != "loss" else 1 + text.splitlines().index(f"    {BUGS['loss'][-1]}")
    assert status == 1 and "Traceback" not in shown
    assert shown.startswith(f"odd.py, line {line}, in {where}: ")
    assert shown.splitlines()[1].strip() == BUGS[where][-1].strip()
    kept = place / "cache" / "traceback.txt"
    assert str(kept) in shown and "Traceback (most recent call last)" in kept.read_text()


def test_a_bug_that_shows_only_inside_of_the_core_still_names_the_line_that_led_there(place):
    body = algorithm("def loss(self, models):", "    return Loss.per_example(models.policy.logps(3).sum())")
    options = ("--model", "tiny", "--data", data_for("sft", place), "--precision", "32-true")
    status, _, shown = cli("train", "--algo", plugin_file(place, body, "odd.py"), *options)
    assert status == 1
    assert shown.startswith("odd.py, line 13, in loss: TypeError") and "It was raised in" in shown


def test_a_bug_in_a_function_that_is_taken_as_a_reward_is_named_too(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    (place / "own_reward.py").write_text("def score(completions, records):\n    return completions.scores\n")
    status, _, shown = cli("eval", "tiny", "--reward", "own_reward:score", "--limit", 1)
    forget_modules(place)
    assert status == 2 and "AttributeError: " in shown and "(own_reward.py, line 2, in score)" in shown


def test_a_bug_of_the_core_stays_a_traceback(place, monkeypatch):
    from zoo.cli import listings

    monkeypatch.setattr(listings.registry, "algorithms", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("algos")


def test_from_python_the_exception_is_what_it_was(place, tiny_folder):
    file = plugin_file(place, algorithm(*BUGS["measure"]), "odd.py")
    with pytest.raises(ZeroDivisionError):
        trainer(place, tiny_folder)(file, data=data_for("sft", place))


@pytest.mark.parametrize(("source", "line"), [("import zoo.api\n\n1 / 0\n", 3), ("def broken(:\n", 1)])
def test_a_file_that_cannot_be_imported_says_at_which_line(place, source, line):
    (place / "bad.py").write_text(source)
    status, _, shown = cli("train", "--algo", "./bad.py")
    assert status == 2 and shown.startswith("bad.py cannot be imported: ")
    assert f"(bad.py, line {line})" in shown


def test_a_role_that_is_declared_and_not_used_is_refused_after_the_first_step(place, tiny_folder):
    file = plugin_file(place, algorithm(*LOSS, needs=("policy", "reference")))
    with pytest.raises(PluginError, match="Odd declares that it needs reference, but its first step used policy only"):
        trainer(place, tiny_folder)(file, data=data_for("sft", place))
    assert not list((place / "runs").iterdir())


@pytest.mark.parametrize("hook", ["measure", "prepare"])
def test_a_role_that_any_hook_uses_is_used(place, tiny_folder, hook):
    lines = {
        "measure": (
            "def measure(self, batch, models):",
            "    models.reference.logps(batch.completion)",
            "    return {}",
        ),
        "prepare": ("def prepare(self, records, models):", "    models.reference", "    return records"),
    }
    file = plugin_file(place, algorithm(*LOSS, *lines[hook], needs=("policy", "reference")))
    assert trainer(place, tiny_folder)(file, data=data_for("sft", place), max_steps=1).status == "finished"


@pytest.mark.parametrize("lost", ["row", "record"])
def test_a_prompt_without_what_a_rollout_finds_it_by_is_the_plugins_fault(place, tiny_folder, lost):
    body = f"""
class Odd(Algorithm):
    api_version = 2
    data = "prompt"

    def prepare(self, records):
        return [{{name: one[name] for name in one if name != {lost!r}}} for one in records]

    def rollout(self, prompts, models, config, score): ...

    def loss(self, batch, models, config): ...
"""
    options = {"reward": "exact", "batch_size": 2, "max_steps": 1}
    with pytest.raises(PluginError, match=f"Odd.prepare returned a record without '{lost}'"):
        trainer(place, tiny_folder)(plugin_file(place, body), data=data_for("sft", place), **options)


@pytest.mark.parametrize(
    ("returned", "says"), [("None", ""), ("{}", ""), ("[('a', 1)]", "Odd.measure returned list, not a dict")]
)
def test_what_measure_returns_means_the_same_in_a_run_and_in_the_suite(place, tiny_folder, returned, says):
    file = plugin_file(place, algorithm(*LOSS, "def measure(self):", f"    return {returned}"))
    checked = Suite(f"{file}:Odd").run("learns")
    assert (checked.result, says in checked.detail) == ("failed" if says else "passed", True), checked.detail
    if not says:
        assert trainer(place, tiny_folder)(file, data=data_for("sft", place), max_steps=1).status == "finished"
        return
    with pytest.raises(PluginError, match=says):
        trainer(place, tiny_folder)(file, data=data_for("sft", place))


def test_a_loss_without_gradient_is_refused_with_what_to_look_for(place, tiny_folder):
    lines = (LOSS[0], LOSS[1].replace(".sum())", ".sum().detach())"))
    with pytest.raises(PluginError, match="Odd.loss returned values that do not depend on the model") as caught:
        trainer(place, tiny_folder)(plugin_file(place, algorithm(*lines)), data=data_for("sft", place))
    assert "detach()" in caught.value.hint


RETURNS = {
    "None": ("None", "Odd.loss returned NoneType, not a Loss."),
    "too few values": (
        "Loss.per_example(-logps[:-1])",
        "Odd.loss returned 3 values as values, and its micro-batch has 4",
    ),
    "too few of a metric": (
        "Loss.per_example(-logps, {'a': logps[:-1]})",
        "Odd.loss returned 3 values as the metric 'a'",
    ),
    "another role": ("Loss.per_example(-logps, trains=('critic',))", "Odd.loss says that it trains 'critic', which"),
    "no gradient": ("Loss.per_example(-logps.detach())", "Odd.loss returned values that do not depend on the model."),
}


@pytest.mark.parametrize("what", RETURNS)
def test_what_a_loss_must_not_return_is_told_with_file_and_line(place, what):
    returned, says = RETURNS[what]
    lines = (LOSS[0], "    logps = models.policy.logps(batch.completion).sum()", f"    return {returned}")
    file = plugin_file(place, algorithm(*lines), "odd.py")
    options = ("--model", "tiny", "--data", data_for("sft", place), "--batch-size", 4, "--precision", "32-true")
    status, _, shown = cli("train", "--algo", file, *options)
    line = 1 + (place / "odd.py").read_text().splitlines().index(f"    {LOSS[0]}")
    assert status == 2 and shown.startswith(f"odd.py, line {line}: {says}"), shown


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("reference", "declares needs = ('policy',).\nAdd \"reference\" to its needs."),
        (
            "refrence",
            "declares needs = ('policy',), and there is no such role. Did you mean 'reference'?\nRoles: policy, ",
        ),
    ],
)
def test_a_role_that_is_not_declared_is_told_with_its_line_and_the_nearest(place, role, says):
    lines = (LOSS[0], f"    models.{role}.logps(batch.completion)", LOSS[1])
    file = plugin_file(place, algorithm(*lines), "odd.py")
    options = ("--model", "tiny", "--data", data_for("sft", place), "--precision", "32-true")
    status, _, shown = cli("train", "--algo", file, *options)
    line = 1 + (place / "odd.py").read_text().splitlines().index(f"    {lines[1]}")
    assert status == 2 and shown.startswith(f"odd.py, line {line}, in loss: The algorithm uses models.{role}, but ")
    assert says in shown


def test_a_declaration_that_cannot_be_is_told_with_its_line(place):
    wrong = {
        "    needs = ('policy', 'refrence')": (
            "names an unknown role 'refrence'. Did you mean 'reference'?",
            "Roles: policy,",
        ),
        "    data = 'preferences'": ("is not one of demonstration, ", "Did you mean 'preference'?"),
        "        lr: float = 1.0": ("its option 'lr' is an option of the core", "rename it"),
    }
    body = algorithm(*LOSS).replace("    data =", "    @dataclass\n    class Config:\n        a: int = 1\n\n    data =")
    for declared, says in wrong.items():
        name = declared.split()[0]
        old = next((one for one in body.splitlines() if one.strip().startswith(f"{name} =")), "        a: int = 1")
        file = plugin_file(place, body.replace(old, declared), "odd.py")
        status, _, shown = cli("check", file)
        line = 1 + (place / "odd.py").read_text().splitlines().index(declared)
        assert status == 2 and f"(odd.py, line {line}): " in shown and all(one in shown for one in says), shown


POINTS = {
    "{'lr': [Point(1e8, -1, 'a'), Point(1e9, 1e-4, 'b')]}": "weights and value of Point(weights=100000000.0, value=-1,",
    "{'lr': [Point(0, 1e-4, 'a')]}": "must be numbers above 0",
    "{'lr': [Point(1e8, '1e-4', 'a')]}": "must be numbers above 0",
    "{'lr': [Point(float('nan'), 1e-4, 'a')]}": "must be numbers above 0",
    "{'lr': [Point(1e8, float('inf'), 'a')]}": "must be numbers above 0",
    "{'lr': [Point(1e8, 1e-4, ' ')]}": "source of Point(",
    "{'lr': [Point(1e8, 1e-4, 'a', optimizer=None)]}": "optimizer of Point(",
    "{'lr': [Point(1e8, 1e-4, 'a', lora='no')]}": "lora of Point(",
    "{'lr': [Point(7e9, 1e-6, 'a'), Point(135e6, 1e-4, 'b')]}": "in order of size, one for each size, and are for 7 B,",
    "{'lr': [Point(7e9, 1e-6, 'a'), Point(7e9, 1e-4, 'b')]}": "in order of size, one for each size, and are for 7 B,",
    "{'lr': []}": "lr: its list of points is empty",
    "{'epochs': (1, 2)}": "epochs: it is a list of points, but 1 is none",
    "{'lr': [Point(1e8, 1e-4, 'a'), 1e-5]}": "but 1e-05 is none",
    "{'lr': Point(1e8, 1e-4, 'a')}": "it is a point, and must be a list of points",
    "{'schedule': [Point(1e8, 'x', 'a')]}": "schedule: only a number of the core depends on the model",
}


@pytest.mark.parametrize("command", [("check",), ("algos",), ("train", "--algo")], ids=" ".join)
def test_points_that_cannot_be_are_told_with_their_line(place, command):
    cases = list(POINTS.items()) if command == ("check",) else list(POINTS.items())[:1]
    for declared, says in cases:
        body = algorithm(*LOSS).replace("    data =", f"    defaults = {declared}\n    data =")
        file = plugin_file(place, body.replace("class Odd", "from zoo.api import Point\n\n\nclass Odd"), "odd.py")
        status, _, shown = cli(*command, file)
        line = 1 + (place / "odd.py").read_text().splitlines().index(f"    defaults = {declared}")
        assert status == 2 and f"(odd.py, line {line}): defaults: " in shown and says in shown, shown
        assert "docs/contract.md#defaults-that-depend-on-the-model" in shown


def test_points_of_a_variant_that_cannot_be_are_told(place):
    body = algorithm(*LOSS).replace("    data =", "    variants = {'large': {'lr': []}}\n    data =")
    status, _, shown = cli("check", plugin_file(place, body, "odd.py"))
    assert status == 2 and "variant large: lr: its list of points is empty" in shown


def test_needs_that_returns_an_unknown_role_is_told_with_its_line(place):
    lines = ("def needs(self, config):", "    return 'policy', 'refrence'")
    body = algorithm(*LOSS, *lines).replace("    needs = ('policy',)\n", "")
    options = ("--model", "tiny", "--data", data_for("sft", place))
    status, _, shown = cli("train", "--algo", plugin_file(place, body, "odd.py"), *options)
    line = 1 + (place / "odd.py").read_text().splitlines().index(f"    {lines[0]}")
    assert status == 2 and "Roles: policy, " in shown
    assert shown.startswith(f"odd.py, line {line}: Odd.needs returned the unknown role 'refrence'. Did you mean 'refer")


def test_one_mistake_is_told_once_by_the_suite(place):
    lines = (LOSS[0], "    return None")
    status, shown, _ = cli("check", plugin_file(place, algorithm(*lines), "odd.py"))
    assert status == 1 and shown.count("returned NoneType") == 1 and shown.count("as declared roles") > 9


def test_columns_that_an_algorithm_declares_are_in_the_rows_of_the_suite(place):
    lines = (LOSS[0], "    assert {record['gold_text'] for record in batch.record} <= {'a', 'b'}", LOSS[1])
    file = plugin_file(place, algorithm(*lines), "odd.py")
    assert "KeyError: 'gold_text'" in Suite(f"{file}:Odd").run("gradients").detail
    suite = Suite(f"{file}:Odd", columns={"gold_text": ["a", "b"]})
    assert [suite.run(name).result for name in ("gradients", "killed and resumed")] == ["passed", "passed"]
    with pytest.raises(ZooError, match="The column 'gold_text' of conformance has no list of values"):
        Suite(f"{file}:Odd", columns={"gold_text": "a"})


def test_a_step_that_reaches_one_role_only_is_told_how_to_say_so(place):
    lines = (LOSS[0], "    models.critic", LOSS[1])
    file = plugin_file(place, algorithm(*lines, needs=("policy", "critic")), "odd.py")
    told = Suite(f"{file}:Odd").run("gradients").detail
    assert told.startswith("The weight critic.") and "If this step is not to move the critic, say so: " in told
    assert told.endswith("Loss(…, trains=('policy',)).")
    named = LOSS[1].replace(".sum())", ".sum(), trains=('policy',))")
    plugin_file(place, algorithm(LOSS[0], "    models.critic", named, needs=("policy", "critic")), "odd.py")
    assert Suite(f"{file}:Odd").run("gradients").result == "passed"


def test_state_that_is_lost_by_a_resume_is_named(place):
    lines = ("def __init__(self):", "    self.calls, self.name = 0, 'odd'", LOSS[0], "    self.calls += 1",
             "    return Loss.per_example(-self.calls * models.policy.logps(batch.completion).sum())")  # fmt: skip
    told = Suite(f"{plugin_file(place, algorithm(*lines), 'odd.py')}:Odd").run("killed and resumed").detail
    assert "differs in loss (" in told and 'A step changes self.calls: saved = ("calls",) brings' in told


def test_a_listener_that_fails_is_named_with_its_own_line(place):
    module = ModuleType("zoo_file_webhook")
    source = "import json\ndef run_end(run):\n    json.loads(run)\n"
    exec(compile(source, str(place / "webhook.py"), "exec"), vars(module))
    plugins = PluginManager()
    plugins.register(hookimpl_of(module), "webhook")
    said = []
    Listeners(plugins, None, said.append).notify("run_end", run="no JSON", metrics={})
    assert said[0].startswith("Plugin webhook fails in run_end(): JSONDecodeError: ")
    assert said[0].endswith("(webhook.py, line 3). Training goes on without it.")


def hookimpl_of(module):
    module.run_end = hookimpl(module.run_end)
    return module


def test_a_source_whose_part_is_left_out_says_how_to_write_it():
    def rows(split, kind, town):
        return [{"prompt": town, "completion": "yes"}]

    with pytest.raises(ZooError, match="The data source 'towns' needs a part") as caught:
        open_source("towns", "demonstration", Reading(named_sources={"towns": rows}))
    assert caught.value.hint == "Write towns:TOWN."
    assert [
        line.row["prompt"]
        for line in open_source("towns:Oslo", "demonstration", Reading(named_sources={"towns": rows})).rows
    ]


def test_a_field_that_a_batch_does_not_have_gets_the_nearest():
    batch = default_collate([{"row": 1, "label": True}])
    assert torch.equal(batch.label, torch.tensor([True]))
    with pytest.raises(AttributeError, match="no field 'lable', only .'label', 'row'.. Did you mean 'label'"):
        batch.lable  # noqa: B018


def test_the_card_of_a_file_ends_with_the_command_that_trains_it(place):
    plugin_file(place, algorithm(*LOSS), "odd.py")
    for typed in ("./odd.py", "./odd.py:Odd"):
        status, shown, _ = cli("algos", typed)
        assert status == 0 and shown.rstrip().endswith("\nzoo train --algo ./odd.py:Odd")
    assert cli("algos", "sft")[1].rstrip().endswith("\nzoo train --algo sft")
