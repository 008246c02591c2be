"""Progress as a person sees it: what stands on the screen of a terminal, and what a pipe gets."""

import json
import re
import subprocess
import sys

import pytest
from terminal import in_terminal, screen_of

COUNTING = """
from zoo.terminal import Console
from zoo.training.record.progress import counter
show = counter(Console(), "Scoring gold(samples=512) (before)")
for done in range(10, 60, 10):
    show(done, 50)
print("then")
"""


def test_the_screen_is_what_a_terminal_would_show():
    assert screen_of("one\r\ntwo", 80) == ["one", "two"]
    assert screen_of("longer\rone", 80) == ["oneger"]
    assert screen_of("longer\r\x1b[2Kone", 80) == ["one"]
    assert screen_of("abcd", 3) == ["abc", "d"]
    assert screen_of("one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2K\x1b[1mthree", 80) == ["three", ""]


def test_a_count_stays_on_one_line_of_a_terminal():
    assert in_terminal("-c", COUNTING)[0] == ["Scoring gold(samples=512) (before) 50/50", "then", ""]


@pytest.mark.parametrize("width, shown", [(20, "Scoring gold( 50/50"), (6, " 50/…")])
def test_what_does_not_fit_is_cut_and_not_wrapped(width, shown):
    assert in_terminal("-c", COUNTING, width=width)[0] == [shown, "then", ""]


@pytest.mark.parametrize("where", ["pipe", "dumb"])
def test_what_cannot_rewrite_a_line_gets_whole_ones(where):
    if where == "dumb":
        shown = in_terminal("-c", COUNTING, TERM="dumb")[1].decode().replace("\r\n", "\n")
    else:
        shown = subprocess.run([sys.executable, "-c", COUNTING], capture_output=True, text=True, check=True).stdout
    assert shown == "Scoring gold(samples=512) (before) 50/50\nthen\n"


CURATING = """
import sys
from zoo.cli import curation_job
from zoo.cli.main import main
curation_job.SECONDS_IN_PLACE = 0.0
sys.argv = ["zoo", "data", "dedup", "rows.jsonl", "--dry-run"]
main()
"""


def test_a_verb_of_curation_clears_its_count_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {k}?", "completion": f"A number: {k}"} for k in range(1200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows[:5]]))
    seen, written = in_terminal("-c", CURATING)
    assert b"1,000 rows read, 0 removed" in written
    assert seen[0] == "rows.jsonl: 1,205 rows read, 1,200 kept, 5 removed"
    assert not any(re.search(r"read, \d+ removed", line) for line in seen[1:])
