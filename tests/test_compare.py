"""zoo compare: equal compute, the same measures for all, going on after a stop, and finished runs beside each other."""

import csv
import json
import re
import shutil
import statistics
import warnings
from types import SimpleNamespace

import numpy
import pytest
import torch
from made_runs import made
from test_report import check
from tiny_runs import cli, forked, plugin_file, preferences, trainer, write_rows

from zoo.comparison import measures, runner
from zoo.comparison.budget import Planner, Steps
from zoo.comparison.entrants import default_folder, read_settings
from zoo.comparison.finished import compare_runs
from zoo.comparison.measures import HeldOut, load_held_out, measure
from zoo.contract import registry
from zoo.data.encoding.encode import encode
from zoo.data.encoding.template import ChatTemplate
from zoo.data.work import Prompts, prompt_hash
from zoo.errors import TrainingStopped, ZooError
from zoo.evals import Eval, Subject, mean_score
from zoo.evals.divergence import answer_divergences
from zoo.models.roles import Policy
from zoo.runs import Run, find_runs
from zoo.statistics import mean_and_spread
from zoo.training.datasets import load_data
from zoo.values.types import Answer

EXACT = ["--precision", "32-true", "--batch-size", "4", "--lr", "1e-2", "--answer-tokens", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    """Pairs to train on, others to measure on, and the flags that name them."""
    folder = tmp_path_factory.mktemp("compare")
    data = write_rows(folder / "pairs.jsonl", preferences(16))
    held_out = write_rows(folder / "held.jsonl", preferences(6, seed=9))
    flags = ["--model", str(tiny_folder), "--data", data, "--eval-data", held_out, *EXACT]
    return SimpleNamespace(folder=folder, data=data, held_out=held_out, flags=flags, model=str(tiny_folder))


@pytest.fixture
def length(monkeypatch):
    """An evaluation that costs nothing: how long a model's answers are, in characters."""
    from zoo.contract.hookspecs import hookimpl
    from zoo.evals.answers import answer_texts
    from zoo.rollout.engine import Sampling

    def run(subject):
        prompts = [f"red {i}" for i in range(4)]
        texts = answer_texts(subject, prompts, Sampling(max_new_tokens=8, temperature=0.0))
        samples = [
            {"prompt": prompt, "answer": text, "score": float(len(text))}
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return mean_score("length", [sample["score"] for sample in samples], samples=samples)

    module = SimpleNamespace(
        __name__="length", evals=hookimpl(lambda: {"length": Eval("Characters of an answer.", run)})
    )
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((("length", module),), ()))


def compare(*arguments, status=0):
    """What `zoo compare … --json` prints, with stderr beside."""
    found, out, err = cli("compare", *arguments, "--json")
    assert found == status, out + err
    return json.loads(out)


@pytest.fixture(scope="module")
def finished(place):
    """A comparison of two algorithms with two seeds: (its folder, its results, its arguments)."""
    folder = place.folder / "finished"
    arguments = ["--algos", "dpo,sft", "--seeds", "2", "--max-steps", "3", "--out", str(folder), *place.flags]
    return SimpleNamespace(folder=folder, found=compare(*arguments), arguments=arguments)


# -- equal compute ---------------------------------------------------------------------------------------------------


def language_model_algorithms():
    kinds = {"demonstration", "preference", "feedback"}
    loaded = [(entry.name, registry.load_algorithm(entry.name)[1]) for entry in registry.algorithms()]
    return [name for name, cls in loaded if cls.head == "lm" and kinds & set(cls.kinds()) and not cls.online()]


@pytest.mark.parametrize("algo", language_model_algorithms())
def test_the_counted_tokens_are_those_that_the_policy_is_really_trained_on(
    algo, place, tmp_path, tiny_tokenizer, monkeypatch
):
    trained, score = [], Policy._score

    def spy(self, answers, **options):
        if torch.is_grad_enabled():
            trained.append(sum(len(answer) for answer in answers))
        return score(self, answers, **options)

    settings = read_settings(algo, 1, None, [], {"model": place.model, "data": place.data, "batch_size": 4})
    resolved = settings.resolve(settings.entrants[0], max_steps=3, eval_fraction=0.0)
    planner = Planner(resolved, settings.entrants[0].cls, ChatTemplate(tiny_tokenizer, "auto"))
    steps = planner.steps(resolved)
    assert steps.note == planner.note == ""
    monkeypatch.setattr(Policy, "_score", spy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(tmp_path, place.model)(algo, data=place.data, max_steps=3)
    assert sum(trained) == steps.tokens[-1] > 0


@pytest.mark.long
def test_every_run_stops_at_the_step_nearest_to_the_budget(finished):
    found = finished.found
    tokens = {row["run"]: row["measures"]["trained_tokens"] for row in found["runs"]}
    steps = {row["run"]: row["steps"] for row in found["runs"]}
    assert found["budget"] in tokens.values(), "the shortest one sets it"
    for run, count in tokens.items():
        assert abs(count - found["budget"]) <= count / steps[run], "no more than a step away"
    assert "the number of sft, which trains on the fewest tokens" in found["definition"]


@pytest.mark.parametrize(("budget", "expected"), [(1, 1), (14, 1), (16, 2), (25, 2), (26, 3), (999, 3)])
def test_nearest_step(budget, expected):
    assert Steps([10, 20, 30], 3, 1).nearest(budget) == expected


def test_a_larger_budget_takes_more_passes_over_the_data(place, tmp_path):
    arguments = ["--algos", "sft,dpo", "--tokens", "5000", "--out", str(tmp_path / "c"), *place.flags, "--dry-run"]
    status, out, err = cli("compare", *arguments)
    assert status == 0, err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("sft", "dpo"))}
    for row in rows.values():
        assert float(row[3]) > 1, "passes"
        assert abs(int(row[4].replace(",", "")) - 5000) < 400
    assert "nearest to 5,000 of them: as --tokens asks" in " ".join(out.split())
    assert not (tmp_path / "c").exists(), "a dry run writes nothing"


def test_an_algorithm_that_needs_a_real_model_is_counted_by_its_batches(place, tmp_path, tiny_tokenizer):
    body = (
        "class Deep(Algorithm):\n    api_version = 2\n    data = 'demonstration'\n"
        "    def loss(self, batch, models):\n        models.policy.model.config\n"
    )
    file = plugin_file(tmp_path, body, "deep.py")
    settings = read_settings(file, 1, None, [], {"model": place.model, "data": place.data, "batch_size": 4})
    resolved = settings.resolve(settings.entrants[0], eval_fraction=0.0)
    planner = Planner(resolved, settings.entrants[0].cls, ChatTemplate(tiny_tokenizer, "auto"))
    steps = planner.steps(resolved)
    assert "cannot be counted" in steps.note
    assert steps.tokens[-1] == sum(len(record["completion"]) for record in planner.records)


# -- what is measured ------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(tiny_model):
    """A model that is not the tiny one any more, in no direction in particular."""
    import copy

    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for i, parameter in enumerate(other.parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return other


def answers(count=5):
    generator = torch.Generator().manual_seed(1)
    sizes = [(3 + i, 2 * i + 1) for i in range(count)]
    draws = [torch.randint(0, 200, (p + c,), generator=generator).tolist() for p, c in sizes]
    return [Answer.of(ids[:p], ids[p:]) for ids, (p, _) in zip(draws, sizes, strict=True)]


def full_logps(model, answer):
    """log-softmax at every position that predicts a token of the completion, [C, V], by one plain forward."""
    ids = torch.cat([answer.prompt, answer.completion])[None]
    with torch.no_grad():
        return model(ids).logits[0, len(answer.prompt) - 1 : -1].log_softmax(-1)


def test_the_divergence_is_the_exact_sum_over_the_vocabulary_at_each_token(tiny_model, moved):
    given = answers()
    found = answer_divergences(moved, tiny_model, given)
    for answer, value in zip(given, found, strict=True):
        new, old = full_logps(moved, answer), full_logps(tiny_model, answer)
        assert value == pytest.approx(
            float(torch.nn.functional.kl_div(old, new, log_target=True, reduction="sum")), abs=1e-4
        )
    assert answer_divergences(tiny_model, tiny_model, given) == [0.0] * len(given)


def test_preference_accuracy_is_the_gain_since_the_start(tiny_model, moved, tiny_tokenizer):
    template = ChatTemplate(tiny_tokenizer, "auto")
    rows = [{**row, "row": i} for i, row in enumerate(preferences(8), 1)]
    pairs = encode(rows, "preference", template).records
    held_out = HeldOut([], pairs)
    start = measure(Subject(tiny_model, tiny_tokenizer, template), held_out, {}, 4)
    found = measure(Subject(moved, tiny_tokenizer, template), held_out, {}, 4, (tiny_model, start.pair_logps))

    def logp(model, answer):
        each = full_logps(model, answer).gather(-1, answer.completion[:, None]).squeeze(-1)[answer.mask]
        return float(each.sum()), float(each.mean())

    gained, likelier = [], []
    for pair in pairs:
        (new_c, mean_c), (new_r, mean_r) = logp(moved, pair["chosen"]), logp(moved, pair["rejected"])
        old_c, old_r = logp(tiny_model, pair["chosen"])[0], logp(tiny_model, pair["rejected"])[0]
        gained.append(new_c - old_c > new_r - old_r)
        likelier.append(mean_c > mean_r)
    assert 0 < sum(gained) < len(pairs), "the test would not see a constant"
    assert found.scores["preference_accuracy"].value == pytest.approx(sum(gained) / len(pairs))
    assert found.scores["plain_accuracy"].value == pytest.approx(sum(likelier) / len(pairs))
    assert "preference_accuracy" not in start.scores, "the start has gained nothing on itself"


def test_the_start_has_no_divergence_and_answers_are_counted_in_tokens(finished):
    found = finished.found
    assert "kl" not in found["start"] and "plain_accuracy" in found["start"]
    for row in found["runs"]:
        assert row["measures"]["kl"] > 0
        assert 0 < row["measures"]["answer_tokens"] <= 8, "the limit that was asked for"
        assert row["intervals"]["plain_accuracy"][2] == 6, "pairs"


def test_rows_that_are_trained_on_are_left_out_of_the_measures(place, tiny_tokenizer):
    settings = read_settings(
        "dpo", 1, None, [], {"model": place.model, "data": place.data, "eval_data": place.held_out}
    )
    core, template = settings.resolve(settings.entrants[0]).core, ChatTemplate(tiny_tokenizer, "auto")
    none = Prompts(numpy.zeros(0, dtype=numpy.uint64))
    everything = load_held_out(core, template, registry.manager(), none, None)
    first = Prompts(numpy.array([prompt_hash(everything.prompts[0])], dtype=numpy.uint64))
    rest = load_held_out(core, template, registry.manager(), first, None)
    assert len(rest.prompts) == len(everything.prompts) - 1 and len(rest.pairs) == len(everything.pairs) - 1
    assert rest.notes[0] == f"Left out because training sees them: 1 of {len(everything.prompts)} held-out prompts."
    assert len(load_held_out(core, template, registry.manager(), none, 2).pairs) == 2
    assert rest.fingerprint() != everything.fingerprint()


def test_which_rows_are_held_out_does_not_depend_on_the_seed(place, tmp_path, tiny_tokenizer):
    data = write_rows(tmp_path / "rows.jsonl", preferences(30))
    template = ChatTemplate(tiny_tokenizer, "auto")

    def held_out(seed):
        given = {"model": place.model, "data": data, "eval_fraction": 0.2}
        settings = read_settings("dpo", 1, None, [], given)
        core = settings.resolve(settings.entrants[0], seed=seed).core
        found = load_data(core, ("preference",), template, registry.manager(), lambda text: None)
        return [record["row"] for record in found.held_out.records]

    assert held_out(0) == held_out(1) != []


# -- results ---------------------------------------------------------------------------------------------------------


def test_the_table_has_the_mean_and_the_spread_over_seeds(finished):
    found = finished.found
    assert [entrant["label"] for entrant in found["algorithms"]] == ["dpo", "sft"]
    for entrant in found["algorithms"]:
        values = [row["measures"]["kl"] for row in found["runs"] if row["label"] == entrant["label"]]
        assert len(values) == 2 and values[0] != values[1], "seeds differ"
        assert entrant["measures"]["kl"]["mean"] == pytest.approx(statistics.mean(values))
        assert entrant["measures"]["kl"]["std"] == pytest.approx(statistics.stdev(values))
    assert all(row["measures"]["cpu_seconds"] > 0 for row in found["runs"])
    lines = (finished.folder / "runs.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("label,algo,seed,run,steps")
    assert json.loads((finished.folder / "compare.json").read_text())["runs"] == found["runs"]


def test_what_is_printed_is_the_table_with_its_words(finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = cli("compare", *finished.arguments)
    assert status == 0, err
    for part in (
        "start",
        "dpo",
        "sft",
        "preference",
        "±",
        "sample standard deviation over 2 seeds",
        "report.html",
    ):
        assert part in out
    monkeypatch.setenv("COLUMNS", "80")
    narrow = cli("compare", *finished.arguments)[1]
    assert "…" not in narrow and "preference" in narrow and "CPU" in narrow, "no heading is cut in a narrow terminal"
    assert "0.5 is chance" in " ".join(out.split()), "the columns are explained"


def test_the_report_of_a_comparison_is_whole_and_loads_nothing(finished):
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    parser = check(page)
    text = " ".join(" ".join(parser.text).split())
    for part in ("Equal compute means", "dpo", "sft", "preference_accuracy", "± ", "runs.csv", "zoo compare --algos"):
        assert part in text
    links = [link for link in parser.loaded if link]
    assert sum(link.endswith("report.html") for link in links) == 4 and all(
        (finished.folder / link).is_file() for link in links
    )
    assert page.count("<figure>") >= 4 and len(page) < 150_000


def test_a_held_out_score_is_compared_prompt_by_prompt_and_shown_with_answers(place, tmp_path, length):
    folder = tmp_path / "c"
    flags = ["--algos", "dpo,sft", "--max-steps", "3", "--score", "length", "--out", str(folder), *place.flags]
    found = compare(*flags)
    assert found["evals"] == ["length"]
    pairs = {(row["from"], row["to"]): row for row in found["differences"]}
    assert set(pairs) == {("start", "dpo"), ("start", "sft"), ("dpo", "sft")}
    for label in ("dpo", "sft"):
        change = next(e for e in found["algorithms"] if e["label"] == label)["measures"]["length"]["mean"]
        change -= found["start"]["length"]["value"]
        assert pairs["start", label]["change"] == pytest.approx(change)
        assert pairs["start", label]["low"] <= change <= pairs["start", label]["high"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    check(page)
    assert "Answers to the same prompts" in page and "length against kl" in page
    run = Run(folder / "dpo-seed0")
    assert {"length", "plain_accuracy"} <= set(run.summary["before"]), "a measured run shows its scores everywhere"
    assert "Answers before and after" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_what_became_worse_is_told_by_what_better_means_for_the_score(higher_is_better, place, tmp_path, monkeypatch):
    """The second time an evaluation is made its value is 1 higher: the start is measured first."""
    from zoo.contract.hookspecs import hookimpl

    made = []

    def run(subject):
        made.append(None)
        values = [len(made) - 1 + i / 10 for i in range(4)]
        samples = [{"prompt": f"red {i}", "answer": "", "score": value} for i, value in enumerate(values)]
        return mean_score("risen", values, samples=samples, higher_is_better=higher_is_better)

    module = SimpleNamespace(__name__="risen", evals=hookimpl(lambda: {"risen": Eval("It rises.", run)}))
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((("risen", module),), ()))
    folder = tmp_path / "c"
    found = compare("--algos", "sft", "--max-steps", "1", "--score", "risen", "--out", str(folder), *place.flags)
    (row,) = found["differences"]
    assert (row["change"], row["better"]) == (pytest.approx(1.0), higher_is_better)
    assert ("sft is worse than the start: risen +1.000." in found["warnings"]) == (not higher_is_better)
    assert found["measures"]["risen"].endswith("Less is better.") == (not higher_is_better)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f'<td class="n {"up" if higher_is_better else "down"}">+1' in page


def test_the_table_is_there_for_spreadsheets_and_for_papers(finished):
    with (finished.folder / "table.csv").open() as stream:
        rows = {row[""]: row for row in csv.DictReader(stream)}
    found = json.loads((finished.folder / "compare.json").read_text())
    for entrant in found["algorithms"]:
        of_it = entrant["measures"]["plain_accuracy"]
        assert float(rows[entrant["label"]]["plain_accuracy mean"]) == of_it["mean"]
        assert float(rows[entrant["label"]]["plain_accuracy sd"]) == of_it["std"]
    text = (finished.folder / "table.tex").read_text()
    lines = text.splitlines()
    assert lines[1].startswith("\\begin{tabular}{lrr") and lines[2] == "\\toprule" and lines[-1] == "\\end{tabular}"
    cells = len(lines[3].split(" & "))
    assert all(len(line.split(" & ")) == cells for line in lines if " & " in line)
    assert "plain\\_accuracy" in text and "$\\pm$" in text and "start & " in text
    assert text.count(" \\\\\n") == 2 + len(found["algorithms"])


def test_differences_of_a_score_are_corrected_for_their_number(place, tmp_path, monkeypatch):
    """Three differences; the largest p-value counts once, the smallest three times."""
    from zoo.comparison import results
    from zoo.evals.changes import Change

    shifts = {("start", "dpo"): 0.25, ("start", "sft"): 0.22, ("dpo", "sft"): -0.03}

    def change(first, second):
        value = shifts[first, second]
        return Change(value, value - 0.196, value + 0.196, 9, True)

    monkeypatch.setattr(results, "change", change)
    monkeypatch.setattr(results, "averaged", lambda scores: scores[0])
    monkeypatch.setattr(results, "with_cases", lambda run, when: lambda score: "start")
    monkeypatch.setattr(results, "_measured", lambda run, name: run)
    score = mean_score("x", [0.0, 1.0])
    runs = [(SimpleNamespace(entrant=SimpleNamespace(label=label)), label) for label in ("dpo", "sft")]
    rows = {(row["from"], row["to"]): row for row in results._differences(["dpo", "sft"], runs, None, {"x": score})}
    # Deviations of 0.1: the two-sided p-values of 2.5, 2.2 and 0.3 deviations are 0.01242, 0.02781 and 0.76418.
    assert rows["start", "dpo"]["chance"] == pytest.approx(3 * 0.01242, abs=1e-4)
    assert rows["start", "sft"]["chance"] == pytest.approx(2 * 0.02781, abs=1e-4)
    assert rows["dpo", "sft"]["chance"] == pytest.approx(0.76418, abs=1e-4)
    assert [row["better"] for row in rows.values()] == [True, None, None]


def test_the_spread_is_that_of_a_sample():
    assert mean_and_spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(statistics.stdev([1, 2, 6])))
    assert mean_and_spread([2.0]) == (2.0, None)


# -- going on --------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_done_again(finished, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(runner, "execute", never)
    monkeypatch.setattr(measures, "measure", never)
    again = compare(*finished.arguments)
    assert again["runs"] == finished.found["runs"] and again["start"] == finished.found["start"]


@pytest.mark.long
def test_other_options_make_other_runs_beside_the_old_ones(place, tmp_path):
    folder = tmp_path / "c"
    arguments = ["--algos", "sft", "--out", str(folder), *place.flags]
    compare(*arguments, "--max-steps", "1")
    found = compare(*arguments, "--max-steps", "2")
    assert [row["run"] for row in found["runs"]] == ["sft-seed0-2"]
    assert len(find_runs(str(folder))) == 2
    write_rows(tmp_path / "other.jsonl", preferences(16, seed=3))
    arguments[arguments.index(place.data)] = str(tmp_path / "data.jsonl")
    for source in (place.data, tmp_path / "other.jsonl"):
        shutil.copy(source, tmp_path / "data.jsonl")
        found = compare(*arguments, "--max-steps", "1")
    assert [row["run"] for row in found["runs"]] == ["sft-seed0-4"], "other rows under the same name are other data"


INTERRUPTED = """
import os, pathlib, signal

class Interrupted(Algorithm):
    api_version = 2
    data = "demonstration"
    def loss(self, batch, models, step):
        flag = pathlib.Path({flag!r})
        # Counting runs the loss without a model.
        if step == 1 and hasattr(models.policy, "model") and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGINT)
        return Loss.per_example(-models.policy.logps(batch.completion).mean())
"""


def test_a_stopped_comparison_goes_on_with_the_same_command(place, tmp_path):
    file = plugin_file(tmp_path, INTERRUPTED.format(flag=str(tmp_path / "flag")), "interrupted.py")
    folder = tmp_path / "c"
    arguments = ["compare", "--algos", f"sft,{file}", "--max-steps", "4", "--out", str(folder), *place.flags]
    # A signal that came before or after the run heeds it would end the process of the tests.
    (done,) = forked((arguments, {}), cwd=tmp_path)
    message = " ".join(done.stderr.split())
    assert done.returncode == 130, done.stdout + done.stderr
    assert "Stopped by ctrl-C after step 2" in message and f"kept in {folder}" in message
    assert "Continue with: zoo compare --algos" in message
    stopped = Run(folder / "interrupted-seed0")
    assert stopped.status == "stopped"
    found = compare(*arguments[1:])
    assert [row["run"] for row in found["runs"]] == ["sft-seed0", "interrupted-seed0"]
    assert stopped.status == "finished" and len(find_runs(str(folder))) == 2


def test_ctrl_c_while_measuring_says_how_to_go_on(place, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(measures, "measure", interrupted)
    status, _, err = cli("compare", "--algos", "sft", "--max-steps", "1", "--out", str(tmp_path / "c"), *place.flags)
    assert status == 130 and "Stopped while measuring" in err and "Continue with: zoo compare" in err


def test_an_algorithm_that_fails_does_not_cost_the_others(place, tmp_path):
    body = (
        "class Bad(Algorithm):\n    api_version = 2\n    data = 'demonstration'\n"
        "    def loss(self, batch, models):\n"
        "        return Loss.per_example(models.policy.logps(batch.completion).mean() * float('nan'))\n"
    )
    file = plugin_file(tmp_path, body)
    arguments = ["--algos", f"{file},sft", "--max-steps", "4", "--out", str(tmp_path / "c"), *place.flags]
    found = compare(*arguments, status=1)
    assert [row["run"] for row in found["runs"]] == ["sft-seed0"]
    assert found["failed"][0]["run"] == "bad-seed0" and "no finite number" in found["failed"][0]["error"]
    assert "bad-seed0" in (tmp_path / "c" / "report.html").read_text()


def test_a_run_that_every_algorithm_fails_is_an_error(place, tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise TrainingStopped("Memory ran out.", "Less.")

    monkeypatch.setattr(runner, "execute", failing)
    status, _, err = cli("compare", "--algos", "sft", "--max-steps", "1", "--out", str(tmp_path / "c"), *place.flags)
    assert status == 2 and "No run of the comparison finished" in err and "Memory ran out" in err


@pytest.mark.long
def test_the_start_is_measured_and_the_reference_scored_once_for_all(place, tmp_path, monkeypatch):
    from zoo.models.reference_cache import ReferenceCache

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    starts, kept = [], []
    once, put = measures.measure, ReferenceCache.put

    def counting(subject, held_out, evals, limit, start=None, progress=None):
        starts.append(start is None)
        return once(subject, held_out, evals, limit, start, progress)

    def remembering(self, values):
        kept.extend(values)
        return put(self, values)

    monkeypatch.setattr(measures, "measure", counting)
    monkeypatch.setattr(ReferenceCache, "put", remembering)
    arguments = ["--algos", "first=dpo,second=dpo", "--seeds", "2", "--set", "second.beta=0.5", "--max-steps", "4"]
    compare(*arguments, "--out", str(tmp_path / "c"), *place.flags)
    assert starts.count(True) == 1 and starts.count(False) == 4
    assert len(kept) == len(set(kept)) > 0, "no answer is scored twice"


# -- options ---------------------------------------------------------------------------------------------------------


def test_options_come_from_the_file_the_command_line_and_set(tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text("algos: [mild=dpo, sft]\nseeds: 2\nlr: 1e-3\nmax_steps: 7\nmild: {beta: 0.3, lr: 1e-4}\n")
    settings = read_settings(None, None, str(file), ["mild.beta=0.9"], {"max_steps": "5"})
    mild, sft = settings.entrants
    assert (mild.label, mild.algo, settings.seeds) == ("mild", "dpo", [0, 1])
    first, second = settings.resolve(mild), settings.resolve(sft)
    assert (first.algorithm.beta, first.core.lr, first.core.max_steps) == (0.9, 1e-4, 5)
    assert (second.core.lr, second.core.max_steps) == (1e-3, 5)
    assert first.origin["beta"] == "--set" and first.origin["lr"] == str(file)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--algos", "dpoo"], ["No algorithm is called 'dpoo'", "Did you mean 'dpo'"]),
        (["--algos", "dpo,dpo"], ["'dpo' is twice", "dpo=dpo,other=dpo"]),
        (["--algos", "model=dpo"], ["'model' has another meaning here", "my-model=dpo"]),
        (["--algos", "start=dpo"], ["'start' has another meaning here"]),
        (["--algos", "dpo", "--set", "dpo.bata=1"], ["Unknown option 'bata'", "Did you mean 'beta'"]),
        (["--algos", "dpo", "--set", "dpp.beta=1"], ["names none of the compared", "Did you mean 'dpo'"]),
        (["--algos", "dpo", "--set", "beta=1"], ["names none of the compared", "--set dpo.option=value"]),
        (["--algos", "dpo", "--set", "dpo.beta"], ["names none of the compared"]),
        (["--algos", "dpo", "--set", "dpo.beta=high"], ["'beta' (--set)", "must be float"]),
        (["--algos", "dpo", "--set", "dpo.seed=4"], ["'seed' (--set dpo.seed=4) is set by the comparison"]),
        (
            ["--algos", "dpo", "--devices", "2"],
            ["'devices' (--devices): a comparison trains", "--workers N", "zoo train"],
        ),
        (["--algos", "dpo", "--set", "dpo.strategy=fsdp"], ["'strategy' (--set dpo.strategy=fsdp): a comparison"]),
        (["--algos", "dpo", "--set", "dpo.model=x"], ["must be the same for all", "--model"]),
        (["--algos", "dpo", "--seeds", "0"], ["--seeds 0"]),
        (["--algos", "dpo", "--seeds", "100"], ["--seeds 100 may mean 100 seeds, or the seed 100", "--seeds 100, "]),
        (["--algos", "dpo", "--tokens", "0"], ["--tokens must be at least 1, not 0"]),
        (["--algos", "dpo", "--score", "instruction"], ["No evaluation is called 'instruction'", "instructions"]),
        ([], ["There is nothing to compare", "--algos"]),
        (["runs/one", "--algos", "dpo"], ["not both"]),
        (["runs/one", "runs/two", "--seeds", "3"], ["--seeds, --model, --data would have no effect", "--algos"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_explained(arguments, parts, place, tmp_path):
    status, out, err = cli("compare", *arguments, "--model", place.model, "--data", place.data, "--out", str(tmp_path))
    message = " ".join(err.split())
    assert status == 2 and "Traceback" not in message, out + err
    for part in parts:
        assert part in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("written", "meant"), [("2", [0, 1]), ("[4]", [4]), ("[4, 0]", [4, 0]), ("'4,0'", [4, 0])])
def test_seeds_are_spelled_alike_in_the_file_and_on_the_command_line(tmp_path, written, meant):
    file = tmp_path / "compare.yaml"
    file.write_text(f"algos: [dpo]\nseeds: {written}\n")
    assert read_settings(None, None, str(file), [], {}).seeds == meant
    assert read_settings(None, "7,", str(file), [], {}).seeds == [7]


def test_the_plan_has_a_run_for_each_seed_that_is_named(place, tmp_path):
    out = tmp_path / "c"
    arguments = ["--algos", "dpo,sft", "--seeds", "3,8", "--max-steps", "2", "--out", str(out), *place.flags]
    typed = cli("compare", *arguments, "--dry-run")
    status, shown, err = typed
    shown = " ".join(shown.split())
    assert status == 0, err
    assert "4 runs in" in shown and re.search(r" dpo \d+ 4 .* sft \d+ 4 ", shown), shown
    for words in (["dpo", "sft"], ["dpo,sft"]):  # algorithms as words, as `zoo train dpo` takes one
        assert cli("compare", *words, *arguments[2:], "--dry-run") == typed


@pytest.mark.parametrize("words", [["dpo", "kot"], ["kot", "dpo"], ["dpo,kot"], ["dpo@post-training-zoo", "kot"]])
def test_a_mistyped_word_beside_an_algorithm_is_looked_for_among_algorithms(words):
    status, _, err = cli("compare", *words, "--seeds", "3", "--dry-run")
    assert status == 2 and "'kot'" in err and "kto" in err and "Finished runs" not in err


def test_a_word_that_is_a_run_and_an_algorithm_is_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "dpo"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text("algo: dpo\n")
    status, _, err = cli("compare", "dpo", "sft", "--seeds", "3", "--dry-run")
    assert status == 2 and "Finished runs are compared as they are" in err


def test_mistakes_in_the_file_are_explained(tmp_path):
    file = tmp_path / "compare.yaml"
    for text, message in (
        ("dpp: {beta: 1}", "has options for 'dpp', which is not compared. Did you mean 'dpo'"),
        ("batchsize: 4", "Unknown option 'batchsize' in .*Did you mean 'batch_size'"),
        ("seed: 4", "'seed' .* is set by the comparison"),
        ("num_nodes: 2", "'num_nodes' .*: a comparison trains its runs and measures them in one process"),
        ("dpo: {score: none}", "'score' .* must be the same for all"),
        ("seeds: many", "--seeds many"),
    ):
        file.write_text(f"algos: [dpo]\n{text}\n")
        with pytest.raises(ZooError, match=message):
            read_settings(None, None, str(file), [], {})


def test_a_reward_model_cannot_be_compared_with_language_models(place, tmp_path):
    body = (
        "class Scorer(Algorithm):\n    api_version = 2\n"
        "    data, head = 'preference', 'scalar'\n    def loss(self, batch, models):\n"
        "        pass\n"
    )
    status, _, err = cli("compare", "--algos", f"dpo,{plugin_file(tmp_path, body, 'scorer.py')}", *place.flags)
    assert status == 2 and "scorer trains a reward model, which writes no answers" in err


def test_without_held_out_rows_nothing_can_be_measured(place, tmp_path):
    flags = ["--algos", "sft", "--max-steps", "1", "--model", place.model, "--data", place.data]
    status, _, err = cli("compare", *flags, "--out", str(tmp_path / "c"))
    assert status == 2 and "is held out, so nothing can be measured" in err and "--eval-data" in err
    assert not (tmp_path / "c").exists()


def test_data_without_pairs_is_compared_on_its_prompts(place, tmp_path):
    rows = [{"prompt": f"red {i}", "completion": f"blue {i}"} for i in range(24)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    flags = ["--algos", "sft", "--max-steps", "1", "--model", place.model, "--data", data, *EXACT]
    found = compare(*flags, "--eval-fraction", "0.2", "--out", str(tmp_path / "c"))
    assert "kl" in found["measures"] and "preference_accuracy" not in found["measures"]
    assert any("Nothing is measured on pairs" in note for note in found["notes"])


# -- in worlds -------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_a_world_of_few_prompts_is_measured_though_all_of_them_are_trained_on(here):
    data, model = "world:gold(rows=64, noise=0.25)", "world:gold(steps=1)"
    flags = ["--max-steps", "1", "--cases", "6", "--answer-tokens", "6", "--score", "gold(samples=12)"]
    found = compare("--algos", "dpo,grpo", "--data", data, "--model", model, *flags)
    assert {"gold(samples=12)", "kl", "preference_accuracy"} <= found["measures"].keys()
    assert "All 4 held-out pairs have prompts that are trained on: the source has no others." in found["notes"]
    assert "All prompts" not in str(found["notes"]) and [row["steps"] for row in found["runs"]] == [1, 1]
    # dpo trains on both answers of each of its 64 pairs, grpo on as many of its own: the table has what it was.
    folder = here / "comparisons" / "world-gold-rows-64-noise-0.25-world-gold-steps-1"
    planned, measured = (row["measures"]["trained_tokens"] for row in found["runs"])
    assert planned > measured == Run(folder / "grpo-seed0").summary["num_tokens"]


def test_held_out_rows_that_somebody_named_are_left_out_where_they_are_trained_on(place, tmp_path):
    flags = ["--model", place.model, "--data", place.data, "--eval-data", place.data, "--dry-run"]
    status, _, err = cli("compare", "--algos", "sft", "--out", str(tmp_path / "c"), *flags)
    assert status == 2 and "Left out because training sees them: 16 of 16 held-out pairs" in err


def test_what_writes_its_own_answers_is_planned_by_the_length_of_the_starts(here):
    flags = ["--data", "world:arithmetic(rows=64)", "--model", "world:arithmetic(steps=1)"]
    status, out, err = cli("compare", "--algos", "sft,grpo", *flags, "--max-steps", "3", "--dry-run")
    assert status == 0, err
    text = " ".join(out.split())
    length = float(re.search(r"grpo: its tokens are an estimate, with ([\d.]+) tokens per answer", text)[1])
    budget = re.search(r"nearest to ([\d,]+) of them: the number of (\w+), which trains", text)
    assert 1 <= length <= 3 and int(budget[1].replace(",", "")) > 0 and budget[2] == "sft"
    steps, tokens = re.search(r"grpo (\d+) 512 [\d.]+ ([\d,]+)", text).groups()
    # A prompt of a + b = has four tokens and the turn's mark; 64 prompts have 16 answers each, a step 512.
    per_step = int(tokens.replace(",", "")) / int(steps)
    assert 512 * (2 + length) < per_step < 512 * (8 + length)
    assert "No evaluation is known" not in text


def test_the_folder_of_a_comparison_is_named_after_its_data_and_its_start():
    def folder(data, model):
        return default_folder(None, SimpleNamespace(data=data, model=model))

    gold = folder("world:gold(rows=400, noise=0.25)", "world:gold")
    assert gold == "comparisons/world-gold-rows-400-noise-0.25"
    assert folder("world:gold", "world:gold") != folder("world:facts", "world:facts")
    assert folder("rows/pairs.jsonl", "HuggingFaceTB/SmolLM2-135M") == "comparisons/pairs-smollm2-135m"
    assert folder("starter", "smollm2-135m") == "comparisons/starter-smollm2-135m"
    assert len(folder("world:gold(" + "x" * 300, "runs/a")) < 100


def test_what_cannot_be_counted_is_refused(place, tmp_path):
    body = """
from zoo.api import Batch


class Silent(Algorithm):
    api_version = 2
    data = "demonstration"
    needs = ("policy",)

    def collate(self, records):
        return Batch(row=torch.tensor([record["row"] for record in records]))

    def loss(self, batch, models):
        return Loss.per_example(torch.zeros(len(batch), requires_grad=True))
"""
    status, _, err = cli("compare", "--algos", f"sft,{plugin_file(tmp_path, body, 'silent.py')}", *place.flags)
    assert status == 2 and "The trained tokens of silent cannot be counted" in err


# -- finished runs ---------------------------------------------------------------------------------------------------


def test_finished_runs_show_only_the_options_that_differ_and_the_differences(finished):
    runs = [Run(finished.folder / name) for name in ("dpo-seed0", "dpo-seed1")]
    found = compare_runs(runs)
    assert found["options"] == {"seed": [0, 1]} and found["same_data"]
    metrics = {row["name"]: row for row in found["metrics"]}
    last = [[row["val/loss"] for row in run.log_history if "val/loss" in row][-1] for run in runs]
    assert metrics["val/loss"]["values"] == last
    assert metrics["val/loss"]["deltas"] == [None, pytest.approx(last[1] - last[0])]
    scores = {row["name"]: row for row in found["scores"]}
    assert scores["plain_accuracy"]["values"][0]["n"] == 6
    options = compare_runs([runs[0], Run(finished.folder / "sft-seed0")])["options"]
    assert options["algo"] == ["dpo", "sft"] and "beta" not in options, "defaults of one algorithm say nothing"


def test_metrics_of_different_algorithms_are_not_subtracted(tmp_path):
    scores = {"held": mean_score("held", [0.0, 1.0, 1.0]).as_json()}
    rows = {"loss": 0.6, "val/loss": 0.5, "lr": 1e-5, "step": 1}
    runs = [
        made(tmp_path / algo, algo=algo, metrics=[rows], timing={"seconds": 2.0}, scores={"after": scores})
        for algo in ("dpo", "sft")
    ]
    found = compare_runs(runs)
    deltas = {row["name"]: row["deltas"][1] for row in found["metrics"]}
    assert deltas == {"loss": None, "val/loss": None, "lr": 0.0, "seconds": 0.0}
    assert found["scores"][0]["differences"][1]["change"] == 0.0
    assert "a loss and metrics of its own" in cli("compare", *(str(run.path) for run in runs))[1]
    assert {row["deltas"][1] for row in compare_runs([runs[0], runs[0]])["metrics"]} == {0.0}


def test_finished_runs_on_the_command_line(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    names = [str(finished.folder / name) for name in ("dpo-seed0", "dpo-seed1")]
    status, out, err = cli("compare", *names, "--out", str(tmp_path / "page"))
    assert status == 0, err
    assert re.search(r"seed\s+0\s+1", out) and "val/loss" in out and "batch_size" not in out
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    check(page)
    assert "Options that differ" in page and "dpo-seed1" in page and page.count("<figure>") > 3
    assert compare(*names) == compare_runs([Run(finished.folder / name) for name in ("dpo-seed0", "dpo-seed1")])
    for flags in (["--lr", "1e-3"], ["--set", "dpo.beta=1"], ["--tokens", "9"], ["--cases", "4"], ["--no-lora"],
                  ["--answer-tokens", "9"], ["--dry-run"]):  # fmt: skip
        status, _, err = cli("compare", *names, *flags)
        assert status == 2 and f"{flags[0].replace('--no-', '--')} would have no effect" in " ".join(err.split())
    status, _, err = cli("compare", names[0])
    assert status == 2 and "One run cannot be compared" in err
    status, _, err = cli("compare", names[0], "nothing")
    assert status == 2 and "No run is called 'nothing'" in err


def test_the_file_of_the_docs_is_read(tmp_path):
    from test_docs import block

    file = tmp_path / "compare.yaml"
    file.write_text(block("docs/compare.md", "compare.yaml"))
    settings = read_settings(None, None, str(file), [], {})
    mild, kto = settings.entrants
    assert settings.seeds == [0, 1, 2] and settings.resolve(mild).algorithm.beta == 0.5
    assert settings.resolve(kto).core.lr == 2e-6 and settings.resolve(kto).core.data == "starter"
