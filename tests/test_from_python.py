"""Data that a Python program gives: the same run as from a file, whatever holds the rows."""

import json
import math
from functools import partial
from unittest import mock

import datasets
import pytest
import torch
from tiny_runs import demonstrations, same_bytes, trainer, weights, write_rows

import zoo
from zoo.data.load import load
from zoo.data.sources.given import giving, plain
from zoo.errors import ZooError
from zoo.training.step.module import PostTraining

ROWS = demonstrations(24)


def generated():
    yield from ROWS


class Frame:
    """What is read of a polars frame."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        raise AssertionError("a frame iterates over its columns")

    def iter_rows(self, named):
        assert named
        return iter(self.rows)


def pandas_frame(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def polars_frame(rows):
    return pytest.importorskip("polars").DataFrame(rows)


SHAPES = {
    "list": lambda rows: rows,
    "generator function": lambda rows: lambda: iter(rows),
    "pandas": pandas_frame,
    "polars": polars_frame,
    "like polars": Frame,
    "Dataset": datasets.Dataset.from_list,
    "IterableDataset": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "mapping of splits": lambda rows: {"train": rows},
    "DatasetDict": lambda rows: datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}),
}


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return trainer(tmp_path, tiny_folder)


@pytest.fixture(scope="module")
def from_file(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("file")
    file = write_rows(folder / "rows.jsonl", ROWS)
    return trainer(folder, tiny_folder)(data=file, epochs=1, eval_fraction=0.2)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_run_from_anything_that_holds_the_rows(train, from_file, shape):
    run = train(data=SHAPES[shape](ROWS), epochs=1, eval_fraction=0.2)
    assert same_bytes(run, from_file, "metrics.jsonl")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(from_file).items())


def test_the_run_folder_says_what_it_was(train):
    run = train(data=ROWS, epochs=1)
    facts = run.read_json("data.json")["train"]
    assert facts["type"] == "list" and facts["columns"] == ["prompt", "completion"] and facts["rows"] == 24
    assert facts["fingerprint"].startswith("sha256:") and "A resume needs it again." in facts["notes"][0]
    assert run.config["data"] == "python:data" and "data='python:data'" in run.command
    again = train(data=lambda: iter(ROWS), epochs=1).read_json("data.json")["train"]
    assert again["type"] == "function" and again["fingerprint"] == facts["fingerprint"]
    assert train(data=ROWS[::-1], epochs=1).read_json("data.json")["train"]["fingerprint"] != facts["fingerprint"]


def test_a_mapping_of_splits_keeps_one_for_validation(train):
    run = train(data={"train": ROWS, "validation": demonstrations(6, seed=9)}, eval_fraction=0.1, epochs=1)
    assert run.read_json("data.json")["held_out"]["rows"] == 6
    with pytest.raises(ZooError, match="What python:data names has no split 'train'"):
        train(data={"test": ROWS})


def test_held_out_rows_and_the_first_rows_only(train):
    run = train(data=ROWS, eval_data=pandas_frame(demonstrations(6, seed=9)), limit=5, epochs=1)
    facts = run.read_json("data.json")
    assert facts["train"]["rows"] == 5 and facts["held_out"]["rows"] == 5
    assert facts["held_out"]["type"] == "pandas.DataFrame"


def test_rows_without_end_are_read_as_far_as_the_limit(train):
    def endless():
        while True:
            yield from ROWS

    assert train(data=endless, limit=30, epochs=1).read_json("data.json")["train"]["rows"] == 30


def test_a_missing_value_of_a_frame_is_none():
    pandas = pytest.importorskip("pandas")
    row = pandas.DataFrame([{"a": 1, "b": math.nan, "c": pandas.NA, "d": [1, {"e": pandas.NaT}]}]).to_dict("records")[0]
    assert plain(row) == {"a": 1, "b": None, "c": None, "d": [1, {"e": None}]}
    assert plain({"a": torch.tensor([1, 2]).numpy()}) == {"a": [1, 2]}


class Lazy:
    def collect(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (iter(ROWS), "data is a list_iterator, which is read only once"),
        (generated(), "data is a generator, which is read only once"),
        (Lazy(), "data is a test_from_python.Lazy, whose rows are not computed yet"),
        (7, "data is a int, which has no rows"),
        (b"rows", "data is a bytes, which has no rows"),
        ([], "holds no rows"),
        (["a", "b"], "is the text 'a', not an object"),
        (lambda: None, "The function <lambda> gives None, which has no rows"),
        (lambda: {"prompt": "a"}, "The function <lambda> gives a dict, which has no rows"),
        (lambda rows, *more, size=3: rows, "data is a function that needs arguments: rows[.]"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_refused_in_words(train, value, says):
    with pytest.raises(ZooError, match=says):
        train(data=value)


def knotted():
    row = {"prompt": "a", "completion": "b", "more": []}
    row["more"].append(row)
    return row


@pytest.mark.parametrize("shape", ["list", "generator function", "Dataset"])
@pytest.mark.parametrize(("bad", "code"), [
    ({"prompt": "\ud83d", "completion": "a"}, "E_JSON"), ({"prompt": "a\0b", "completion": "a"}, "E_JSON"),
    ({"prompt": "a", "completion": "a\0"}, "E_JSON"), ({"prompt": "a", "completion": "b", "x\0": 1}, "E_JSON"),
    (knotted(), "E_LIMIT"),
])  # fmt: skip
def test_rows_get_the_checks_that_lines_of_a_file_get(tmp_path, shape, bad, code):
    if shape == "Dataset" and ("x\0" in bad or "more" in bad or "\ud83d" in bad["prompt"]):
        pytest.skip("an arrow table has no such row")
    rows = [*demonstrations(150), bad]
    with giving({"data": SHAPES[shape](rows)}):
        report = load("python:data", "demonstration").report
    assert [(problem.code, problem.row) for problem in report.problems if problem.row == 151] == [(code, 151)]
    if code == "E_JSON":
        file = write_rows(tmp_path / "rows.jsonl", rows)
        of_file = load(file, "demonstration").report
        assert [problem.message for problem in of_file.problems] == [problem.message for problem in report.problems]


OTHERS = "python:data gives other rows each time that they are read"


@pytest.mark.parametrize("options", [{"epochs": 1}, {"stream": True, "max_steps": 3, "eval_fraction": 0}], ids=str)
def test_a_function_that_gives_other_rows_each_time_is_refused(train, options):
    calls = []

    def changing():
        calls.append(None)
        yield from ({**row, "completion": f"{row['completion']} {len(calls)}"} for row in ROWS)

    with pytest.raises(ZooError, match=OTHERS):
        train(data=changing, **options)


def test_a_function_that_gives_more_rows_each_time_is_refused():
    rows = list(ROWS)
    with giving({"data": lambda: iter(rows)}):
        load("python:data", "demonstration")
        load("python:data", "demonstration")
        rows.append(rows[0])
        with pytest.raises(ZooError, match=OTHERS):
            load("python:data", "demonstration")
    with giving({"data": lambda: iter(rows)}):
        assert len(load("python:data", "demonstration").records) == 25


def test_a_path_may_be_an_object_and_is_no_data_for_a_resume(train, broken, from_file, tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS)
    run = train(data=tmp_path / "rows.jsonl", epochs=1, eval_fraction=0.2)
    assert run.config["data"] == str(tmp_path / "rows.jsonl") and same_bytes(run, from_file, "metrics.jsonl")
    with pytest.raises(ZooError, match="data is 'rows.jsonl', and a resume takes rows from Python alone"):
        zoo.resume(broken, data="rows.jsonl")


def test_a_function_may_give_a_frame():
    with giving({"data": lambda: pandas_frame(ROWS)}):
        assert len(load("python:data", "demonstration").records) == 24


class Killed(Exception):
    pass


@pytest.fixture
def broken(train, tmp_path):
    real = PostTraining.training_step

    def dies(self, batch, index):
        if self.steps_done == 3:
            raise Killed
        return real(self, batch, index)

    with mock.patch.object(PostTraining, "training_step", dies), pytest.raises(Killed):
        train(data=ROWS, epochs=1, eval_fraction=0.2, save_every=1, name="broken")
    return tmp_path / "runs" / "broken"


def test_a_resume_with_the_same_rows_ends_with_the_same_bits(broken, from_file):
    run = zoo.resume(broken, data=pandas_frame(ROWS), quiet=True)
    assert same_bytes(run, from_file, "metrics.jsonl")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(from_file).items())


def test_a_resume_without_the_rows_or_with_others_is_refused(broken, train, tmp_path):
    with pytest.raises(ZooError, match="python:data stands for rows that a Python program gave") as refused:
        zoo.resume(broken, quiet=True)
    assert "data=…" in refused.value.hint
    with pytest.raises(ZooError, match=r"data \(train\) was sha256"):
        zoo.resume(broken, data=ROWS[1:], quiet=True)
    with pytest.raises(ZooError, match="eval_data of the run is None, and no rows from Python"):
        zoo.resume(broken, data=ROWS, eval_data=ROWS, quiet=True)


def test_its_configuration_needs_the_rows_too(train, from_file):
    run = train(data=ROWS, epochs=1)
    with pytest.raises(ZooError, match="only a program can give them again"):
        zoo.train(config=run.path / "run.yaml", quiet=True)
    assert json.loads(json.dumps(run.config))["data"] == "python:data"


# -- beside files ----------------------------------------------------------------------------------------------------

OTHER = demonstrations(12, seed=5)
MIXED = "0.75*python:mine + 0.25*other.jsonl"


@pytest.fixture
def mixed(train, tmp_path):
    """A run on rows beside a file, and the same on two files."""
    write_rows(tmp_path / "mine.jsonl", ROWS)
    write_rows(tmp_path / "other.jsonl", OTHER)
    return partial(train, epochs=1, eval_fraction=0.2, save_every=1)


def test_rows_by_name_are_a_part_of_a_mixture_as_a_file_of_them_is(mixed):
    files = mixed(data="0.75*mine.jsonl + 0.25*other.jsonl")
    rows = mixed(data=MIXED, sources={"mine": pandas_frame(ROWS)})
    assert same_bytes(rows, files, "metrics.jsonl") and "loss/mine" in rows.log_history[1]
    assert all(torch.equal(value, weights(rows)[name]) for name, value in weights(files).items())
    parts = rows.read_json("data.json")["train"]["parts"]
    assert rows.config["data"] == MIXED and parts["mine"]["type"] == "pandas.DataFrame" and "type" not in parts["other"]


def test_a_mixture_with_rows_goes_on_with_the_same_rows_only(mixed, tmp_path):
    whole = mixed(data=MIXED, sources={"mine": ROWS}, name="whole")
    real = PostTraining.training_step

    def dies(self, batch, index):
        if self.steps_done == 3:
            raise Killed
        return real(self, batch, index)

    with mock.patch.object(PostTraining, "training_step", dies), pytest.raises(Killed):
        mixed(data=MIXED, sources={"mine": ROWS}, name="broken")
    folder = tmp_path / "runs" / "broken"
    with pytest.raises(ZooError, match="python:mine stands for rows") as refused:
        zoo.resume(folder, quiet=True)
    assert "sources={'mine': …}" in refused.value.hint
    with pytest.raises(ZooError, match=r"mine.* was sha256"):
        zoo.resume(folder, sources={"mine": ROWS[1:]}, quiet=True)
    assert same_bytes(zoo.resume(folder, sources={"mine": ROWS}, quiet=True), whole, "metrics.jsonl")


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ({"other": ROWS}, "sources has 'other', which no data of the run mentions. Write python:other"),
        ({"mine": 3}, "mine is a int, which has no rows"), ([ROWS], "sources is a list, not rows by their names"),
        ({"my rows": ROWS}, "sources has the name 'my rows'"), ({"data": ROWS}, "sources has the name 'data'"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_mentioned_are_refused_in_words(mixed, sources, says):
    with pytest.raises(ZooError) as refused:
        mixed(data="other.jsonl", sources=sources)
    assert says in f"{refused.value.message} {refused.value.hint}"
