"""Reports: what stands in them, that they open with the network off, and that text of models cannot harm a reader."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_runs import made, warnings_of
from tiny_runs import demonstrations, trainer, write_rows

from zoo.evals import Score
from zoo.evals.kept_scores import write_score
from zoo.numbers import amount
from zoo.report import pages
from zoo.report.plots import bars
from zoo.report.plots import lines as plots
from zoo.report.plots.axes import HEIGHT, LEFT, WIDTH, number, ticks
from zoo.report.run_page import content, write_run_page
from zoo.terminal import Console, JsonLines
from zoo.training.record.report import closing_panel, write_cases
from zoo.training.step.token_losses import keep
from zoo.values.types import Answer

HOSTILE = (
    "<script>alert(1)</script><img src=http://x.example/a onerror=alert(2)> {{ 7*7 }} \x1b[31m \u202egnp.exe & \"'"
)


class Checker(HTMLParser):
    """Collects every tag, and everything that a browser would load."""

    LOADED = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background", "formaction"}
    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self):
        super().__init__()
        self.tags, self.loaded, self.open, self.text, self.handlers = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in self.LOADED]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def check(page):
    """A page is whole, loads nothing and runs nothing; gives the parser."""
    parser = Checker()
    parser.feed(page)
    assert parser.open == [], "a tag was left open"
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(parser.tags)
    beside = re.compile(r"([\w.-]+/)?report\.html|report-data/[a-z0-9-]+\.csv")
    assert parser.handlers == [] and not [value for value in parser.loaded if not beside.fullmatch(value)]
    style = re.sub(r"\s", "", "".join(re.findall(r"<style>(.*?)</style>", page, flags=re.S)))
    assert "url(" not in style and "@import" not in style
    return parser


@pytest.fixture
def run(tmp_path, tiny_folder):
    rows = [{"prompt": f"red {i}", "completion": f"blue {i}"} for i in range(24)] + [{"prompt": "x", "completion": ""}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    train = trainer(tmp_path, tiny_folder)
    return train("sft", data=data, max_steps=5, lr=1e-2, eval_fraction=0.2, score="heldout_loss")


def test_a_finished_run_has_a_report_with_everything(run):
    page = (run.path / "report.html").read_text(encoding="utf-8")
    parser = check(page)
    text = " ".join(" ".join(parser.text).split())
    for part in ("Before and after", "heldout_loss", "val/loss", "Curves", "grad_norm", "Configuration", "Environment"):
        assert part in text
    assert "dropped for E_" in text and "rows.jsonl" in text, "what was dropped, and why"
    assert "keyword argument" in text and "default" in text, "where options came from"
    assert len(page) < 150_000


def test_the_curves_are_those_of_the_metrics(run):
    plot = next(plot for plot in content(run)["plots"]["Training"] if plot.title == "loss")
    assert set(plot.names) == {"held-out", "training"} and list(plot.svgs) == ["step", "tokens"]
    loss = plot.svg
    rows = [row for row in run.log_history if "loss" in row]
    for row in rows:
        assert f"training: {number(row['loss'])} at step {row['step']}" in loss
    assert loss.count("held-out: ") == len([row for row in run.log_history if "val/loss" in row])


def test_the_closing_panel_names_the_report(tmp_path, tiny_folder, monkeypatch):
    from tiny_runs import cli, data_for

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    data = data_for("sft", tmp_path)
    status, out, _ = cli(
        "train", "--algo", "sft", "--model", "tiny", "--data", data, "--max-steps", "1", "--name", "mine"
    )
    assert status == 0 and "runs/mine/report.html" in out


def test_text_of_models_and_data_is_shown_and_never_run(run):
    for when, answer in (("before", HOSTILE), ("after", HOSTILE * 200)):
        sample = {"prompt": [{"role": "user", "content": HOSTILE}], "answer": answer, "score": 0.5}
        write_score(run, when, Score(HOSTILE, 0.5, 1, 0, 1, samples=[sample]))
    summary = run.summary
    summary["model"] = summary["after"]["val/loss</td>"] = summary["before"]["val/loss</td>"] = 1.0
    run.write_json("summary.json", summary)
    (run.path / "command.txt").write_text("zoo train --data '<script>x</script>'\n")
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "<svg onload=x>": 1.0, "$x^{": 2.0}) + "\n")
    page = write_run_page(run).read_text(encoding="utf-8")
    text = "".join(check(page).text)
    assert "<script>alert(1)</script>" in text and "{{ 7*7 }}" in text, "it can be read as it is"
    assert "\x1b" not in page and "\u202e" not in page
    assert "more characters" in text


def test_half_a_character_does_not_stop_a_report(tmp_path):
    path = pages.write(tmp_path / "page.html", pages.render("base.html", title="a \ud800 b \x00"))
    assert "a � b �" in path.read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_does_not_cost_the_run(tmp_path, tiny_folder, monkeypatch):
    from zoo.report import run_page

    def broken(run):
        raise OSError("no space")

    monkeypatch.setattr(run_page, "write_run_page", broken)
    run = trainer(tmp_path, tiny_folder)("sft", max_steps=1)
    assert run.status == "finished" and not (run.path / "report.html").exists()


def test_held_out_metrics_are_kept_case_by_case_at_the_start_and_at_the_end(tmp_path, tiny_folder):
    run = trainer(tmp_path, tiny_folder)("dpo", rows=20, max_steps=3, lr=1e-2, eval_fraction=0.4, eval_every=2)
    kept = run.read_json("heldout.json")
    validations = [row for row in run.log_history if "val/loss" in row]
    assert [row["step"] for row in validations] == [0, 2, 3]
    for when, row in (("first", validations[0]), ("last", validations[-1])):
        assert kept[when]["step"] == row["step"]
        for name in ("rewards/margins", "rewards/accuracies", "logps/chosen"):
            values = kept[when]["values"][name]
            assert len(values) == 8 and sum(values) / 8 == pytest.approx(row[f"val/{name}"], rel=1e-3, abs=1e-6)
    margins = next(row for row in content(run)["changes"] if row["name"] == "val/rewards/margins")
    assert margins["n"] == 8 and margins["low"] < margins["after"] < margins["high"]


@pytest.mark.parametrize("options", [{}, {"micro_tokens": 20}, {"layout": "padded"}], ids=str)
def test_the_report_shows_what_each_token_of_three_held_out_answers_cost(tmp_path, tiny_folder, options):
    """The mean over all their tokens is the held-out loss, where the three are all that is held out."""
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(3, seed=9))
    run = trainer(tmp_path, tiny_folder)("sft", eval_data=held_out, max_steps=3, lr=1e-2, **options)
    kept, validations = run.read_json("token-losses.json"), [row for row in run.log_history if "val/loss" in row]
    for when, row in (("first", validations[0]), ("last", validations[-1])):
        assert (kept[when]["step"], len(kept[when]["answers"])) == (row["step"], 3)
        costs = [cost for answer in kept[when]["answers"] for _, cost in answer["tokens"] if cost is not None]
        assert sum(costs) / len(costs) == pytest.approx(row["val/loss"], rel=1e-3)
    given = [json.loads(line) for line in Path(held_out).read_text(encoding="utf-8").splitlines()]
    texts = ["".join(text for text, _ in answer["tokens"]) for answer in kept["first"]["answers"]]
    assert all(row["completion"] in text for row, text in zip(given, texts, strict=True))
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert page.count('style="background:rgb(214 90 30 / ') == len(costs) * 2


def test_no_tokens_are_shown_where_a_loss_is_of_more_than_one_answer(tmp_path, tiny_folder):
    run = trainer(tmp_path, tiny_folder)("dpo", rows=20, max_steps=1, eval_fraction=0.4)
    assert run.read_json("token-losses.json") == {}
    assert "Token by token" not in (run.path / "report.html").read_text(encoding="utf-8")


def test_the_tokens_of_one_character_are_shown_together(tmp_path):
    pieces = {1: b"a", 2: b"\xc3", 3: b"\xa9", 4: b"!"}
    template = SimpleNamespace(
        tokenizer=SimpleNamespace(decode=lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace"))
    )
    run = made(tmp_path)
    keep(run, template, 0, [(Answer.of([1], [1, 2, 3, 4]), [0.5, 1.0, 0.25, None])])
    assert run.read_json("token-losses.json")["first"]["answers"] == [
        {"prompt": "a", "tokens": [["a", 0.5], ["é", 1.25], ["!", None]]}
    ]


def test_values_that_are_no_numbers_are_kept_as_missing(tmp_path):
    run = made(tmp_path)
    write_cases(run, 0, {"a": [1.23456, None]})
    write_cases(run, 3, {"a": [2.0, None]})
    assert run.read_json("heldout.json") == {
        "first": {"step": 0, "values": {"a": [1.235, None]}}, "last": {"step": 3, "values": {"a": [2.0, None]}},
    }  # fmt: skip


# -- what a reader should not overlook -----------------------------------------------------------------------------


def test_a_sound_run_gives_no_warning(tmp_path):
    rows = [{"step": step, "val/loss": loss} for step, loss in ((0, 2.0), (1, 1.5), (2, 1.51))]
    run = made(tmp_path, metrics=rows, before={"val/logps/chosen": -9.0}, after={"val/logps/chosen": -8.0})
    assert warnings_of(run) == []


def test_what_went_wrong_is_said_in_sentences(tmp_path):
    rows = [{"step": step, "val/loss": loss} for step, loss in ((0, 2.0), (5, 1.0), (9, 1.4))]
    answers = {"before": "one two", "after": "one two three four five"}
    samples = [{"eval": "e", "prompt": "p", "when": w, "answer": a, "score": 1.0} for w, a in answers.items()]
    facts = {"n": 900, "higher_is_better": True}
    scores = {
        "before": {
            "e": {"value": 0.5, "low": 0.48, "high": 0.52, **facts},
            "f": {"value": 0.5, "low": 0.3, "high": 0.7, **facts},
        },
        "after": {
            "e": {"value": 0.4, "low": 0.38, "high": 0.42, **facts},
            "f": {"value": 0.4, "low": 0.2, "high": 0.6, **facts},
        },
    }
    run = made(
        tmp_path, metrics=rows, samples=samples, scores=scores, skipped_steps=2,
        guards={"loss_spike": {"warn": 1, "rollback": 2}},
        before={"val/logps/chosen": -40.0}, after={"val/logps/chosen": -55.0},
        data={"train": {"rows": 10, "dropped": 1, "encoded": {"dropped": 2}}},
    )  # fmt: skip
    found = " ".join(warnings_of(run))
    for part in (
        "e fell from 0.500 to 0.400", "2.5 times as long", "log π fell from -40.0 to -55.0",
        "lowest at step 5 (1.000) and ended at 1.400", "2 steps were skipped", "loss_spike objected to 1 step;",
        "loss_spike rolled the run back in 2 steps;", "train: 3 of 10 rows were dropped",
    ):  # fmt: skip
        assert part in found
    assert "f fell" not in found, "it may be chance"


@pytest.mark.parametrize(("count", "warned"), [(1, True), (2, True), (9, True), (10, False), (0, False)])
def test_few_held_out_records_are_told(tmp_path, count, warned):
    data = {"held_out": {"encoded": {"records": count}}}
    found = warnings_of(made(tmp_path, data=data, before={"val/loss": 2.0}, after={"val/loss": 1.0}))
    assert [text[:13] for text in found] == (["val/… is over"] if warned else [])
    assert not warned or amount(count, "held-out record") + "," in found[0]
    assert not warnings_of(made(tmp_path, data=data, before={}, after={})), "nothing was computed on them"


def test_a_run_ends_with_the_first_warnings_of_its_report(tmp_path, capsys):
    step = {"step": 3, "rollout/reward_std": 0.0, "rollout/flat_groups": 1.0, "rollout/cut": 0.9}
    run = made(tmp_path, metrics=[step], status="finished", steps=3, before={}, after={}, scores={})
    (run.path / "run.yaml").write_text("algo: grpo\nmodel: tiny\ndata: rows\nmax_steps: null\nepochs: 1.0\n")
    closing_panel(Console(width=2000), run, run.summary)
    assert "caution" not in capsys.readouterr().out
    write_run_page(run)
    assert warnings_of(run)[-1].startswith("Fewer than 10 steps")
    closing_panel(Console(width=2000), run, run.summary)
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines() if "caution" in line]
    assert lines == [f"caution {text}" for text in (*warnings_of(run)[:3], "1 more in the report")]
    closing_panel(JsonLines(), run, run.summary)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["message"] for row in rows if row["event"] == "warning"] == warnings_of(run)


# -- plots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 7, [-2, 0, 2, 4, 6]), (0, 4e-6, [0, 1e-6, 2e-6, 3e-6, 4e-6])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 5.0), (1, 5.0)], [(0, 0.0), (1, 0.0)], [(0, 1e-300), (1, 1e300)]])
def test_flat_and_extreme_curves_stay_inside_the_picture(points):
    svg = plots.curves("loss", {"training": points}).svg
    places = [tuple(map(float, place.split(","))) for place in re.search(r'points="([^"]*)"', svg)[1].split()]
    assert len(places) == len(points)
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_values_that_are_no_numbers_are_left_out():
    nothing = float("nan"), float("inf"), None
    plot = plots.curves("loss", {"a": [(i, value) for i, value in enumerate(nothing)], "b": [(0, 1.0), (1, 2.0)]})
    assert "nan" not in plot.svg.lower() and "inf" not in plot.svg.lower() and list(plot.names) == ["b"]
    assert plot.rows == [("b", 0, 1.0), ("b", 1, 2.0)]
    assert plots.curves("loss", {"a": [(0, None)]}) is None
    assert plots.dots("score", {"a": [None], "b": []}, "score") is None
    assert plots.scatter("score", {"a": [(None, 1.0), (1.0, None)]}, "x", "y") is None
    assert bars.histogram("score", {"a": [float("nan")]}, "x") is None
    assert bars.shares("score", {"a": (0, 0)}, "x") is None and bars.reliability("score", []) is None


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    points = [(i, float(i % 7)) for i in range(10_000)]
    assert len(plots.curves("loss", {"training": points[:4000]}).rows) == 4000
    plot = plots.curves("loss", {"training": points})
    assert len(plot.svg) < 20_000 and len(plot.rows) == 4000, "the numbers are thinned less than the picture"
    assert "at step 0" in plot.svg and "at step 9,999" in plot.svg


def test_dots_show_every_seed_their_mean_and_the_start():
    svg = plots.dots("score", {"first": [0.1, 0.3], "second": [0.4]}, "score", start=0.2).svg
    assert svg.count("<circle") == 3 and "first: mean 0.2" in svg and svg.count('class="start"') == 1


def test_more_is_further_right_and_further_up():
    svg = plots.scatter("both", {"a": [(1.0, 10.0)], "b": [(2.0, 30.0)]}, "kl", "score").svg
    (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg))
    assert x2 > x1 and y2 < y1
