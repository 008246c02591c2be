"""Classes, functions and models in the place of names, calls beside `train`, frames and pictures; mistakes in words."""

import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
import transformers
from tiny_runs import broken_run, data_for, demonstrations, same_bytes, trainer, weights, write_rows

import zoo
from zoo.api import Algorithm, Loss
from zoo.contract.lent import digest_of
from zoo.errors import ZooError


class Raise(Algorithm):
    """Raises the given answers."""

    api_version = 2
    data = "demonstration"
    factor = 1.0

    def loss(self, batch, models):
        return Loss.per_example(-self.factor * models.policy.logps(batch.completion).sum())


def short(completions, records):
    return [-float(len(text)) for text in completions]


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return trainer(tmp_path, tiny_folder)


ONLINE = {"max_steps": 2, "batch_size": 4, "answers_per_prompt": 2, "max_new_tokens": 4, "score": "none"}


# -- classes, functions, models ------------------------------------------------------------------------------------


def test_a_class_is_an_algorithm(train, tmp_path):
    run = train(Raise, data=demonstrations(12), max_steps=2)
    assert run.config["algo"] == "python:Raise" and run.name == "raise-tiny-1"
    assert run.read_json("fingerprints.json")["began"]["algo"]["code"] == digest_of(Raise)
    again = tmp_path / "again.yaml"
    again.write_text((run.path / "run.yaml").read_text())
    with pytest.raises(ZooError, match="python:Raise stands for an object that a Python program gave"):
        zoo.train(config=again)


def test_the_class_of_a_registered_algorithm_is_its_name(train):
    from zoo_plugins.sft import SFT

    assert train(SFT, data=demonstrations(12), max_steps=1).config["algo"] == train("sft", max_steps=1).config["algo"]


def test_a_run_with_a_function_goes_on_with_the_same_one_only(train, tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Say {i}."} for i in range(12)])
    options = {**ONLINE, "algo": "grpo", "data": prompts, "reward": short, "max_steps": 2}
    whole = train(**options, name="whole", save_every=1)
    assert any(row.get("rollout/reward", 0) < 0 for row in whole.log_history)
    run = broken_run(train, 1, **options, save_every=1)
    with pytest.raises(ZooError, match=r"python:reward stands for an object(.|\n)*zoo.resume\(.*reward=…"):
        zoo.resume(run, quiet=True)
    with pytest.raises(ZooError, match=r"reward \(code\) was sha256"):
        zoo.resume(run, reward=lambda completions, records: [0.0 for _ in completions], quiet=True)
    with pytest.raises(ZooError, match="algo of the run is grpo"):
        zoo.resume(run, algo=Raise, reward=short, quiet=True)
    assert same_bytes(zoo.resume(run, reward=short, quiet=True), whole, "metrics.jsonl")


def test_a_run_with_a_class_and_a_model_goes_on_with_the_class(train, tiny_model, tiny_tokenizer):
    options = {"algo": Raise, "model": (tiny_model, tiny_tokenizer), "data": demonstrations(12), "max_steps": 3}
    whole, run = train(**options, name="whole", save_every=1), broken_run(train, 2, **options, save_every=1)
    again = zoo.resume(run, algo=Raise, data=demonstrations(12), quiet=True)
    assert same_bytes(again, whole, "metrics.jsonl")
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())


def test_a_lambda_is_the_same_wherever_it_stands_and_another_one_is_not():
    first = lambda completions, records: [1.0 for _ in completions]  # noqa: E731
    second = [lambda completions, records: [1.0 for _ in completions]][0]
    assert digest_of(first) == digest_of(second) != digest_of(lambda completions, records: [2.0 for _ in completions])

    class Other(Raise):
        factor = 2.0

    assert digest_of(Other) != digest_of(Raise) == digest_of(Raise)
    limit = 3
    bound = lambda completions, records: [limit for _ in completions]  # noqa: E731
    before = digest_of(bound)
    limit = 4
    assert digest_of(bound) != before, "what it closes over counts"


def test_a_model_in_the_place_of_its_folder_gives_the_same_run(train, tiny_folder, tmp_path):
    from_folder = train(max_steps=2)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    for given in ((model, tokenizer), model):
        run = train(max_steps=2, model=given)
        assert same_bytes(run, from_folder, "metrics.jsonl")
        assert all(torch.equal(value, weights(run)[name]) for name, value in weights(from_folder).items())
    start = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)), "a copy"
    assert (tmp_path / run.config["model"]).is_dir(), "so that the run can be resumed without the program"


# -- calls ---------------------------------------------------------------------------------------------------------


def test_dir_shows_what_there_is_and_loads_no_torch():
    code = "import sys, zoo; print(*dir(zoo)); zoo.load_run; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(out[0].split()) == set(zoo.__all__) and out[1] == "False"
    with pytest.raises(AttributeError) as missing:
        _ = zoo.trian
    assert missing.value.name == "trian" and missing.value.obj is zoo, "from which Python proposes a name"
    assert all(callable(getattr(zoo, name)) for name in zoo.__all__ if name != "__version__")


def test_a_run_is_evaluated_compared_and_chatted_with(train, tmp_path):
    first, second = train(max_steps=1, name="a"), train(max_steps=2, name="b")
    assert zoo.load_run("last").name == "b" and zoo.load_run(first.path).path == first.path
    rows = data_for("sft", tmp_path)
    (score,) = zoo.evaluate(second, f"heldout_loss(data={rows}, split=train)", quiet=True).values()
    assert score.n > 0 and score.low < score.value
    compared = zoo.compare(first, second)
    assert list(compared.frame.index) == ["a", "b"] and "loss" in compared.frame and "<table" in compared._repr_html_()
    chat = zoo.chat(second, temperature=0, max_new_tokens=3)
    with pytest.raises(ZooError, match="A question is a text, not a int"):
        chat(5)
    assert isinstance(chat("Hello."), str) and [one["role"] for one in chat.messages] == ["user", "assistant"]


def test_classes_rows_and_a_model_are_compared_and_tuned(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(24)]
    held_out = [{"prompt": f"Tell {i}.", "completion": f"It is {i}."} for i in range(4)]
    options = {
        "model": (tiny_model, tiny_tokenizer), "data": rows, "eval_data": held_out, "out": "both", "tokens": 200,
        "batch_size": 4, "max_length": 64, "answer_tokens": 4, "quiet": True,
    }  # fmt: skip
    compared = zoo.compare(algos=["sft", Raise], **options)
    assert list(compared.frame.index) == ["start", "sft", "Raise"]
    assert [run["algo"] for run in compared["runs"]] == ["sft", "Raise"]
    before = {path: path.stat().st_mtime_ns for path in Path("both").glob("*/metrics.jsonl")}
    again = zoo.compare(algos=["sft", Raise], **options)
    assert again["runs"] == compared["runs"] and len(before) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}, "finished runs are reused"
    sweep = {"mine.lr": [1e-5, 1e-3], "plain.lr": [1e-5, 1e-3]}
    labels = {"mine": Raise, "plain": "sft"}
    tuned = zoo.compare(algos=labels, **{**options, "out": "tuned"}, sweep=sweep, tune_by="length")
    found = tuned["tuning"]["entrants"]
    assert [len(one["settings"]) for one in found.values()] == [2, 2] and list(found) == ["mine", "plain"]
    best = float(found["mine"]["best"]["lr"])
    assert zoo.load_run("tuned/mine-seed0").config["lr"] == best


def test_the_frame_has_a_row_for_each_step_and_validations_as_columns(train):
    run = train(rows=24, max_steps=3, eval_every=1, eval_fraction=0.2)
    frame = run.metrics
    assert list(frame.index) == [0, 1, 2, 3] and {"loss", "val/loss"} <= set(frame.columns)
    assert frame.iloc[-1][["loss", "val/loss"]].notna().all() and frame.loc[1:, "loss"].notna().all()


def test_a_plot_is_the_report_s_own_svg(train, tmp_path):
    run = train(rows=24, max_steps=3, eval_every=1, eval_fraction=0.2)
    picture = run.plot("loss", "val/loss")
    assert picture._repr_svg_().startswith("<svg") and picture.svg.count('class="title"') == 2
    assert "svg" not in repr(picture) and picture.save(tmp_path / "loss.svg").read_text() == picture.svg
    other = train(max_steps=2, name="other")
    assert "other" in zoo.plot([run, other], "loss").svg
    with pytest.raises(ZooError, match="Did you mean 'loss'"):
        run.plot("los")
    page = run._repr_html_()
    assert "<table" in page and "<svg" in page and run.name in page and "<script" not in page


# -- mistakes ------------------------------------------------------------------------------------------------------


def once(completions):
    return [1.0 for _ in completions]


def three(completions, records):
    return [1.0, 2.0, 3.0]


SCREEN = 40
"""Lines; the longest message lists the formats of data."""
MISTAKES = {
    "algorithm that is not there": ({"algo": "dpoo"}, "Did you mean 'dpo'"),
    "class that is none": ({"algo": dict}, "algo is the class dict, and not an algorithm"),
    "object of a class": ({"algo": Raise()}, "Give the class: algo=Raise"),
    "number as algorithm": ({"algo": 3}, "algo is a int"),
    "class without a loss": ({"algo": type("Empty", (Algorithm,), {"api_version": 2, "data": "text"})}, "loss"),
    "option that is not there": ({"algo": "dpo", "betta": 1}, "betta"),
    "option of the wrong type": ({"lr": "much"}, "lr"),
    "list for a number": ({"max_steps": [1]}, "max_steps"),
    "option out of range": ({"lr": -1.0}, "0 or more"),
    "model that is not there": ({"model": "./nothere"}, "There is no model"),
    "module as model": ({"model": torch.nn.Linear(2, 2)}, "model is a Linear, and not a model of transformers"),
    "model without tokenizer": ({"model": "unnamed"}, "Give both: model=(model, tokenizer)"),
    "number as tokenizer": ({"model": "with 3"}, "The second of model is a int"),
    "data that is not there": ({"data": "nothere.jsonl"}, "nothere.jsonl"),
    "number as data": ({"data": 3}, "data is a int"),
    "rows without a prompt": ({"data": [{"a": 1}]}, "a"),
    "no rows": ({"data": []}, "python:data"),
    "number as reward": ({"algo": "grpo", "reward": 3}, "reward is a int, and neither a text nor a function"),
    "functions as reward": ({"algo": "grpo", "reward": [short]}, "reward is a list"),
    "reward that takes one argument": ({"algo": "grpo", "reward": once}, "takes 1 arguments"),
    "reward that miscounts": ({"algo": "grpo", "reward": three, "max_steps": 6, "epochs": 1}, "gave 3 values for"),
    "reward for rows with answers": ({"algo": "sft", "reward": short}, "reward"),
    "tokenizer as an option": ({"tokenizer": 1}, "tokenizer"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_a_zoo_error_of_one_screen(train, tiny_model, case, tmp_path):
    options, says = MISTAKES[case]
    if options.get("model") in ("unnamed", "with 3"):
        tiny_model.config._name_or_path = ""
        options = {"model": tiny_model if options["model"] == "unnamed" else (tiny_model, 3)}
    if options.get("algo") == "grpo":
        rows = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Say {i}."} for i in range(12)])
        options = {**ONLINE, **options, "data": rows}
    with pytest.raises(ZooError) as caught:
        train(**{"max_steps": 1, "data": demonstrations(12), **options})
    assert says in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert len(shown.splitlines()) <= SCREEN and shown.count("  File ") <= 3, shown


CALLS = {
    "load": (lambda: zoo.load("nothere/at/all"), "nothere"),
    "load_run": (lambda: zoo.load_run("nothere"), "No run is called 'nothere'"),
    "resume": (lambda: zoo.resume("nothere"), "No run is called 'nothere'"),
    "evaluate": (lambda: zoo.evaluate("nothere/at/all"), "nothere"),
    "an evaluation": (lambda: zoo.evaluate("x", "heldout_los"), "Did you mean 'heldout_loss'"),
    "chat": (lambda: zoo.chat("nothere/at/all"), "nothere"),
    "plot": (lambda: zoo.plot("nothere", "loss"), "No run is called 'nothere'"),
    "columns": (
        lambda: zoo.train("sft", data={"prompt": ["a"], "completion": ["b"]}),
        "is a dict of columns (prompt, c",
    ),
    "compare nothing": (lambda: zoo.compare(), "algo"),
    "compare runs": (lambda: zoo.compare("nothere", "nothere"), "No run is called 'nothere'"),
    "compare rows": (lambda: zoo.compare(algos=["sft"], data=3), "data is a"),
    "compare runs with a sweep": (lambda: zoo.compare("a", "b", sweep={}), "Finished runs are compared as they are"),
    "compare no algorithm": (lambda: zoo.compare(algos=["sft", int], data="x"), "algo is the class int, and not an"),
    "compare two of a name": (lambda: zoo.compare(algos={"a": Raise, "b": type("Raise", (Raise,), {})}), "Two classes"),
    "compare with a source": (lambda: zoo.compare(algos=["sft"], sources={"a": [{}]}), "sources has 'a'"),
    "tune nothing": (lambda: zoo.compare(algos=["sft"], tune_by="length"), "tune_by and tune_seeds are for sweep"),
}


@pytest.mark.parametrize("case", CALLS)
def test_so_is_a_mistake_in_another_call(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, says = CALLS[case]
    with pytest.raises(ZooError) as caught:
        call()
    assert says in str(caught.value)
    assert len(traceback.format_exception(caught.value)) <= SCREEN


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_run_in_order(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my-model").symlink_to(tiny_folder)
    text = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    train, names = zoo.train, {"__name__": "page"}
    small = {"batch_size": 8, "max_new_tokens": 4, "score": "none", "quiet": True}
    monkeypatch.setattr(zoo, "train", lambda *given, **options: train(*given, **{**small, **options}), raising=False)
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(compile(code, "python.md", "exec"), names)
    assert names["online"].config["reward"] == "python:reward" and names["second"].config["algo"] == "python:Raise"
    assert Path("loss.svg").is_file()
