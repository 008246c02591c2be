"""The types of the contract: what plugins declare, what a type checker says of misuse, and what stands behind them."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from mypy import api as mypy

from zoo import scaffold
from zoo.api import Answer, Batch, Loss, PreferenceBatch, RankingBatch
from zoo.contract import roles
from zoo.contract.algorithm import DATA_KINDS
from zoo.contract.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS
from zoo.data.encoding.encode import default_collate
from zoo.errors import PluginError, ZooError
from zoo.judges.judge import Judge
from zoo.models.critic import Critic
from zoo.models.roles import Models, Policy, Reference
from zoo.models.scalar import ScalarPolicy
from zoo.rollout.writer import Writer
from zoo.testing import stand_ins
from zoo.training.online.rollouts import Rollouts
from zoo.training.step.hooks import check_loss, prepared_records
from zoo.values.records import ListedRecords
from zoo.values.types import TokenLogps

ROOT = Path(__file__).parent.parent
WRITTEN = [*sorted((ROOT / "plugins").glob("[!_]*.py")), ROOT / "tests/third_party/zoo-sums/zoo_sums/algorithm.py"]


def test_every_hook_of_a_plugin_says_what_it_takes_and_returns_and_nothing_is_any():
    for file in WRITTEN:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in (*ALGORITHM_HOOKS, *LISTENER_HOOKS):
                taken = {one.arg: one.annotation for one in node.args.args[1:]}
                for name, annotation in {**taken, "return": node.returns}.items():
                    assert annotation is not None, f"{file.name}, {node.name}: {name}"
                    assert "Any" not in ast.unparse(annotation), f"{file.name}, {node.name}: {name}"


# -- the type checker ----------------------------------------------------------------------------------------------

MISUSED = '''
from torch import Tensor

from zoo.api import Algorithm, Loss, Models, PreferenceBatch


class Wrong(Algorithm):
    """Misuses what it is handed."""

    api_version = 2
    data = "preference"

    def loss(self, batch: PreferenceBatch, models: Models) -> Loss:
        text: Tensor = models.policy.logps("an answer")  # not answers
        pair: Tensor = models.policy.logps(batch.chosen, batch.rejected)  # two, not one
        models.policy.logps(batch.chosen, temperatur=1.0)  # misspelt
        models.policy.logps(batch.chosen).total()  # no such method
        models.reference.divergence(batch.chosen, models.policy, kind="jsd")  # frozen
        models.policy.logps(batch.margin)  # numbers, not answers
        return Loss.per_example(models.policy.logps(batch.chosen))  # log-probs of tokens, not values
'''


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What mypy says of the package that `zoo new-plugin` writes for each kind, and of one that misuses the models."""
    folder = tmp_path_factory.mktemp("checked")
    (folder / "wrong.py").write_text(MISUSED, encoding="utf-8")
    for kind in DATA_KINDS:
        package = scaffold.new_plugin(f"mine-{kind}", kind, folder / kind)
        (folder / f"zoo_mine_{kind}.py").write_text((package / f"zoo_mine_{kind}.py").read_text(encoding="utf-8"))
    said, errors, _ = mypy.run([
        "--config-file", str(ROOT / "pyproject.toml"), "--disallow-untyped-defs", "--cache-dir",
        str(ROOT / ".mypy_cache"), "--no-error-summary", "--no-pretty", *map(str, sorted(folder.glob("*.py"))),
    ])  # fmt: skip
    assert not errors
    return said.splitlines()


def test_what_the_scaffold_writes_is_typed_and_clean(checked):
    assert [line for line in checked if "wrong.py" not in line] == []


def test_the_type_checker_sees_each_misuse_of_the_models(checked):
    expected = {i for i, line in enumerate(MISUSED.splitlines(), start=1) if "  # " in line}
    seen = {int(line.split(":")[1]) for line in checked if "wrong.py" in line and " error: " in line}
    assert seen == expected


# -- what stands behind the protocols ------------------------------------------------------------------------------

BEHIND = {
    roles.Scorer: [Policy, Reference],
    roles.Writer: [Policy],
    roles.Frozen: [Reference],
    roles.Critic: [Critic],
    roles.Judge: [Judge],
    roles.Models: [Models],
}


def taken_by(function):
    return [(p.name, p.kind, p.default) for p in list(inspect.signature(function).parameters.values())[1:]]


@pytest.mark.parametrize(("protocol", "cls"), [(a, b) for a, behind in BEHIND.items() for b in behind])
def test_the_classes_behind_the_protocols_take_the_same_arguments(protocol, cls):
    declared = {name: value for name, value in inspect.getmembers(protocol) if not name.startswith("_")}
    for name, value in declared.items():
        if inspect.isfunction(value):
            assert taken_by(getattr(cls, name)) == taken_by(value), f"{cls.__name__}.{name}"
        elif isinstance(value, property) and protocol is not roles.Models:
            assert isinstance(inspect.getattr_static(cls, name), property), f"{cls.__name__}.{name}"


def test_scores_are_those_of_a_policy_with_a_scalar_head_and_the_reward_that_of_a_rollout():
    for name in ("scores", "normalize"):
        assert taken_by(getattr(ScalarPolicy, name)) == taken_by(getattr(roles.Policy, name))
    assert taken_by(Rollouts._score) == taken_by(roles.Reward.__call__)
    for name in ("generate", "texts", "answer", "line_ends", "more_prompts"):
        assert taken_by(getattr(Writer, name)) == taken_by(getattr(roles.Writer, name)), name


# -- batches and log-probs -----------------------------------------------------------------------------------------


def answer(*completion):
    return Answer.of([1, 2], list(completion))


def test_a_batch_has_the_class_of_its_data_kind_and_keeps_it():
    records = [{"row": i, "chosen": answer(3), "rejected": answer(4)} for i in range(3)]
    batch = default_collate(records)
    assert type(batch) is PreferenceBatch and type(batch.select([1]).to("cpu")) is PreferenceBatch
    assert batch.margin is None and batch.p_chosen is None
    with pytest.raises(AttributeError, match="no field 'margins'.*Did you mean"):
        batch.margins  # noqa: B018
    with_margin = default_collate([{**record, "margin": 0.5} for record in records])
    assert with_margin.margin.tolist() == [0.5] * 3
    ranking = default_collate([{"row": 1, "completions": [answer(3), answer(4)], "ranks": [1, 2]}])
    assert type(ranking) is RankingBatch
    assert type(default_collate([{"row": 1, "completion": answer(3), "label": True}])).__name__ == "FeedbackBatch"
    assert type(default_collate([{"row": 1, "prompt": [1]}])) is Batch


def test_entropy_that_was_not_asked_for_is_an_error_that_says_so():
    logps = TokenLogps(torch.zeros(1, 2), torch.ones(1, 2).bool())
    with pytest.raises(ZooError, match="no 'entropy'") as caught:
        logps.entropy  # noqa: B018
    assert "entropy=True" in caught.value.hint


# -- what a loss returns -------------------------------------------------------------------------------------------


def pairs(count=3):
    batch, _ = stand_ins(policy={"chosen": torch.zeros(count), "rejected": torch.zeros(count)})
    return batch


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (Loss.per_example(torch.zeros(2)), "2 values as values, and its micro-batch has 3 examples with 6 answers"),
        (Loss.per_example(torch.zeros(3), {"m": torch.zeros(2)}), "2 values as the metric 'm'"),
        (Loss.per_example(torch.zeros(3), {"m": torch.tensor(1.0)}), "a single number as the metric 'm'"),
        (Loss.per_example(torch.zeros(3), {"m": (torch.zeros(3), torch.ones(1))}), "1 value as the metric 'm'"),
        (Loss.per_example(torch.zeros(3), trains=("critik",)), "trains 'critik'.* Did you mean 'critic'"),
        (None, "returned NoneType, not a Loss"),
    ],
)
def test_a_loss_that_is_not_one_value_for_each_example_is_refused_with_both_numbers(loss, says):
    with pytest.raises(PluginError, match=says):
        check_loss(loss, pairs(), ["policy", "critic"], "Mine")


def test_values_of_examples_and_of_answers_are_taken():
    for length in (3, 6):
        loss = Loss.per_example(torch.zeros(length), {"m": torch.full((length,), torch.nan)})
        assert check_loss(loss, pairs(), ["policy"], "Mine") is loss


def test_trains_takes_names_and_no_single_text():
    assert Loss.per_example(torch.zeros(1), trains=["critic"]).trains == ("critic",)
    assert Loss.per_token(torch.zeros(1, 1), torch.ones(1, 1), trains=("policy",)).trains == ("policy",)
    with pytest.raises(ValueError, match=r"write trains=\('critic',\)"):
        Loss.weighted(torch.zeros(1), torch.ones(1), trains="critic")


# -- records -------------------------------------------------------------------------------------------------------


def test_records_are_read_by_number_by_slice_and_by_column():
    records = ListedRecords([{"row": 1, "label": True, "margin": 0.5}, {"row": 2, "label": False}])
    assert len(records) == 2 and records[1]["row"] == 2 and [one["row"] for one in records] == [1, 2]
    assert isinstance(records[:1], ListedRecords) and list(records[::-1])[0]["row"] == 2
    assert records.column("label").dtype == bool and records.column("label").sum() == 1
    margin = records.column("margin")
    assert margin[0] == 0.5 and margin[1] != margin[1]
    absent = records.column("nothing")
    assert (absent != absent).all() and len(absent) == 2
    assert ListedRecords([{"name": "a"}, {}]).column("name").tolist() == ["a", None]


def test_records_are_mapped_and_filtered_in_their_order():
    records = ListedRecords([{"row": n} for n in range(4)])
    assert [one["row"] for one in records.filter(lambda one: one["row"] % 2).map(lambda one: {"row": -one["row"]})] == [
        -1, -3,
    ]  # fmt: skip


@pytest.mark.parametrize("found", [None, "text", {"row": 1}, [], iter(())])
def test_prepare_that_gives_no_records_is_refused(found):
    with pytest.raises(PluginError, match=r"list.prepare returned (NoneType|str|dict|nothing to train on)"):
        prepared_records(found, [])


def test_prepare_may_give_an_iterable():
    assert [one["row"] for one in prepared_records(({"row": n} for n in range(3)), [])] == [0, 1, 2]


def test_a_role_is_found_by_its_name_too():
    models = Models(policy="the policy")
    assert models["policy"] == "the policy" and models.used == {"policy"}
    with pytest.raises(ZooError, match="uses models.opponent, .*there is no such role"):
        models["opponent"]
