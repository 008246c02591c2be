"""What a source holds out itself: it may have no such split; whatever else is wrong with it ends the run."""

import json

import datasets
import pytest
from tiny_runs import demonstrations

from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import NoSuchSplit, ZooError
from zoo.options.config import TrainConfig
from zoo.training.datasets import load_data

BAD = [{"prompt": "x", "completion": ""}] * 5


def no_split():
    raise NoSuchSplit("mine has no split 'heldout'.", "Write mine.")


def broken():
    raise ZooError("mine cannot reach its rows.", "Log in.")


class Source:
    """The source `mine`, which answers as it is told when it is asked for held-out rows."""

    def __init__(self, held_out):
        self.held_out = held_out

    @hookimpl
    def sources(self):
        return {"mine": lambda split, kind: demonstrations(24) if split == "train" else self.held_out()}


@pytest.fixture
def loaded(tiny_tokenizer):
    def loaded(held_out, **options):
        plugins = registry.manager()
        plugins.register(Source(held_out))
        said = []
        core = TrainConfig(**{"data": "mine", **options})
        return load_data(core, ("demonstration",), ChatTemplate(tiny_tokenizer), plugins, said.append), said

    return loaded


def test_held_out_rows_of_its_own(loaded):
    data, said = loaded(lambda: demonstrations(7, seed=9))
    assert len(data.train) == 24 and len(data.held_out) == 7
    assert said[-1] == "Held out for validation: 7 records."


def test_a_source_without_such_a_split_is_trained_on_without_validation(loaded):
    data, said = loaded(no_split)
    assert data.held_out is None
    assert said[-1] == "Nothing is held out (mine has no split 'heldout'): no validation."


def one_bad_of_four():
    return BAD[:1] + demonstrations(3)


ALWAYS = [(lambda: BAD, "5 rows"), (broken, "cannot reach its rows"), (lambda: [], "holds no rows")]


@pytest.mark.parametrize(
    ("held_out", "reason", "strict"),
    [*((*case, strict) for case in ALWAYS for strict in (False, True)), (one_bad_of_four, "1 of 4", True)],
)
def test_held_out_rows_that_cannot_be_used_end_the_run_with_their_reason(loaded, held_out, reason, strict):
    with pytest.raises(ZooError, match=reason) as refused:
        loaded(held_out, strict=strict)
    assert refused.value.message.startswith("The held-out rows that mine brings cannot be used: ")
    assert "--eval-fraction 0" in refused.value.hint
    assert loaded(held_out, strict=strict, eval_fraction=0.0)[0].held_out is None


def test_one_bad_held_out_row_is_left_out_where_strict_is_not_asked_for(loaded):
    assert len(loaded(one_bad_of_four)[0].held_out) == 3


def test_a_split_that_is_named_is_not_its_own_validation(loaded):
    """`mine@heldout` names rows to train on; of these a share is held out."""
    data, _ = loaded(lambda: demonstrations(40, seed=9), data="mine@heldout", eval_fraction=0.2)
    assert len(data.train) + len(data.held_out) == 40


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("train", "heldout", "validation"), 7),
        (("train", "validation", "test"), 7),
        (("train", "dev"), 7),
        (("train", "test"), 2),  # a share of the 24: the test split is for the end
        (("rows",), 2),
    ],
)
def test_a_folder_keeps_a_split_for_validation(loaded, tmp_path, names, kept):
    for name in names:
        rows = demonstrations(24) if name == names[0] else demonstrations(7 if name == names[1] else 5, seed=9)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, _ = loaded(None, data=str(tmp_path), eval_fraction=0.1)
    assert len(data.held_out) == kept
    assert len(data.train) == (24 if kept == 7 else 22)


@pytest.mark.parametrize("option", [{"keep_best": True}, {"keep_top": 2}, {"patience": 1}], ids=str)
def test_what_chooses_by_validation_is_refused_without_any(loaded, option):
    flag = f"--{next(iter(option)).replace('_', '-')}"
    with pytest.raises(ZooError, match=f"no split 'heldout'\\), so there is no validation for {flag}"):
        loaded(no_split, **option)
    assert loaded(lambda: demonstrations(7, seed=9), **option)[0].held_out


def test_a_saved_data_set_keeps_a_split_for_validation(loaded, tmp_path):
    splits = {"train": demonstrations(24), "validation": demonstrations(7, seed=9)}
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(
        tmp_path / "saved"
    )
    data, _ = loaded(None, data=str(tmp_path / "saved"))
    assert len(data.train) == 24 and len(data.held_out) == 7


def test_another_split_of_a_folder_is_read_for_itself(loaded, tmp_path):
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demonstrations(24)))
    data, _ = loaded(None, data=str(tmp_path), split="heldout", eval_fraction=0.1)
    assert len(data.train) == 22 and len(data.held_out) == 2
