"""A narrow terminal cuts no word: tables, what a dry run says, the bar of a run and its closing panel."""

import io
from pathlib import Path

import pytest
from made_runs import made
from rich.table import Table
from rich.text import Text
from terminal import in_terminal
from tiny_runs import cli, data_for

from zoo.terminal import Console, fitting
from zoo.training.record.report import closing_panel


def shown(width, *rows):
    table = Table("name", "lines", "what", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.print(fitting(table, console))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_table_that_fits_stays_a_table():
    row = ("first", "2", Text("some words to break"))
    assert shown(60, row) == ["name   lines  what", "first  2      some words to break"]
    assert shown(25, row) == ["name   lines  what", "first  2      some words", "              to break"]


def test_a_table_whose_words_do_not_fit_becomes_a_paragraph_for_each_row():
    long = ("a_name_of_some_length", "2\n3", Text("a_word_of_some_length and a short one"))
    assert shown(40, long, ("short", "", "one line")) == [
        "a_name_of_some_length",
        "  lines: 2 3",
        "  what: a_word_of_some_length and a",
        "  short one",
        "short  what: one line",
    ]
    assert "".join(line.strip() for line in shown(10, ("a_name_of_some_length", "", ""))) == "a_name_of_some_length"


LISTINGS = {
    "options": "train sft --data {data} --model {model} --max-steps 2 --dry-run --name a_name_that_is_quite_long",
    "rules": "data filter {data} --list",
    "evaluations": "eval --list",
}


@pytest.mark.parametrize("typed", LISTINGS.values(), ids=LISTINGS)
def test_a_narrow_listing_has_every_word_of_the_wide_one(typed, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_folder)
    data_for("sft", tmp_path)
    arguments = typed.format(data="sft-12.jsonl", model="model").split()
    texts = []
    for width in (200, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        status, text, _ = cli(*arguments)
        assert status == 0 and "…" not in text.replace("# and …", "")
        texts.append(text)
    wide, narrow = texts
    assert max(map(len, narrow.splitlines())) <= 60
    # The first line of the wide one has the headings. A word of it may have a bracket or comma that the other lacks.
    told = {word.strip("(),") for word in wide.partition("\n")[2].split()}
    assert told <= {word.strip("(),") for word in narrow.split()}


WATCHED = """
import time
from zoo.terminal import Console
from zoo.training.record.progress import Watch
with Watch(Console(), 1000) as watch:
    watch.count("Scoring a_score_with_a_long_name(before)", 7, 20)
    time.sleep(0.3)  # until it is drawn
    for step in (1, 2):
        watch.update(step, {"loss": 1.23456, "grad_norm": 2.5, "rollout/reward": 0.125, "kl": 0.5, "lr": 0.001})
"""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_line_of_a_run_fits_a_narrow_terminal(width):
    screen, written = in_terminal("-c", WATCHED, width=width)
    lines = [line for line in screen if line]
    assert len(lines) == 1 and "2/1000" in lines[0] and "loss 1.235" in lines[0] and "…" not in lines[0]
    assert b" 7/20" in written, "the label is cut, and not the count"


def test_the_closing_panel_has_whole_names_in_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "val/a_metric_with_a_rather_long_name"
    scores = {"before": {name: -1234.5678}, "after": {name: 1234.5678}}
    run = made(Path("runs/sft-1"), status="finished", steps=5, scores={}, **scores)
    for width in (80, 60, 50):
        file = io.StringIO()
        closing_panel(Console(file=file, width=width), run, run.summary)
        lines = file.getvalue().splitlines()
        assert max(map(len, lines)) <= width and "…" not in file.getvalue().replace("--algo …", "")
        for part in ("-1234.568", "1234.568", "+2469.136", f"zoo eval {run.typed}", f"--model {run.typed} --algo …"):
            assert any(part in line for line in lines), f"{part} at {width}"
    assert name in "".join(line.strip("│ ").split(" ")[0] for line in lines[:6]), "a name may go on in the next line"
