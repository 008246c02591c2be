"""Every row of the table of docs/grading.md is graded as it says."""

import importlib.util
import json
import re

import pytest
from documented import ROOT

from zoo.rewards import checkers
from zoo.rewards.checkers import numeric
from zoo.rewards.maths import maths
from zoo.rewards.reward import Reward

PAGE = (ROOT / "docs/grading.md").read_text(encoding="utf-8")
MISSING = "–"
ALLOWED = {"right": ("1", MISSING), "wrong": ("0", MISSING), "unclear": (MISSING,)}


def rows(name):
    """The rows of a table, with the text of each cell."""
    table = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)[1]
    cells = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return [[text(cell.strip()) for cell in row] for row in cells if "answer" not in row[0] + row[1]]


def text(cell):
    """What a cell shows: the content of its code span, with its lines."""
    span = re.fullmatch(r"(`+)( ?)(.*?)\2\1", cell)
    return (span[3] if span else cell).replace("⏎", "\n")


def shown(value):
    return MISSING if value is None or isinstance(value, str) else f"{value:g}"


NUMBERS = rows("graded numbers")


def test_there_are_more_than_a_hundred_pairs_right_and_wrong_and_unclear():
    assert len({(answer, reference) for answer, reference, *_ in NUMBERS}) == len(NUMBERS) > 100
    for verdict in ("right", "wrong", "unclear"):
        assert sum(row[2] == verdict for row in NUMBERS) > 20, verdict


def test_numeric_grades_every_row_as_the_table_says_and_never_against_its_verdict():
    found = numeric([row[0] for row in NUMBERS], [{"answer": row[1]} for row in NUMBERS])
    wrong = [
        (*row[:4], value) for row, value in zip(NUMBERS, found, strict=True) if shown(value) != row[3]
    ]  # fmt: skip
    assert not wrong
    assert not [row for row in NUMBERS if row[3] not in ALLOWED[row[2]]]


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is an extra")
def test_maths_grades_every_row_as_the_table_says():
    found = maths([row[0] for row in NUMBERS], [{"answer": row[1]} for row in NUMBERS])
    wrong = [(*row, value) for row, value in zip(NUMBERS, found, strict=True) if shown(value) != row[4]]
    assert not wrong
    assert not [row for row in NUMBERS if row[4] not in ALLOWED[row[2]]]


def test_code_grades_every_program_as_the_table_says():
    records = json.loads(re.search(r"<!-- records -->\n```json\n(.*?)```", PAGE, re.DOTALL)[1])
    programs = rows("graded programs")
    reward = Reward("code(unsafe=yes)", {}, say=lambda line: None)
    found = reward.score([answer for _, answer, _ in programs], [records[name] for name, *_ in programs])
    wrong = [(*row, value) for row, value in zip(programs, found, strict=True) if shown(value) != row[2]]
    assert not wrong


@pytest.mark.parametrize("installed", [True, False])
def test_an_expression_names_maths_and_how_to_install_it_where_it_is_not(installed, monkeypatch):
    monkeypatch.setattr(checkers, "is_missing", lambda module: not installed)
    for answer, reference, who in ((r"\boxed{2\sqrt{3}}", "3", "answer"), ("3", r"2\sqrt{3}", "reference answer")):
        (reason,) = numeric([answer], [{"answer": reference}])
        assert reason.startswith(f"the {who} is an expression; the reward maths reads these")
        assert ('pip install "math-verify>=0.8"' in reason) == (not installed)


def test_an_answer_that_may_equal_an_unread_reference_is_not_wrong():
    found = numeric(["4", "5", "unknown"], [{"answer": ["4", "3 to 5"]}] * 3)
    assert [found[0], found[2]] == [1.0, 0.0] and found[1].startswith("the reference answer is a range")


@pytest.mark.parametrize("text", ["V\ufffd", "\x07ۿ", "ś\ufffd\x02", "E", "\ufffdtwo"])
def test_what_is_no_text_is_wrong_and_not_missing(text):
    """A model that has learned nothing writes such answers."""
    assert numeric([text], [{"answer": "42"}]) == [0.0]


def test_lines_of_a_calculation_are_not_one_expression():
    """As the world chains writes them; a cut answer is wrong, not missing."""
    answers = ["+3 10\n*2 9\nso 2", "+3 10\n*2", "+3 10\n*2 9", "12\n- 3\n"]
    assert numeric(answers, [{"answer": "2"}] * 4) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "text",
    ["1,111," * 9000, "1 " * 9000, "$1 " * 9000, "9^" * 9000, "5 to " * 9000, "1" * 9000, "three " * 9000,
     "5 " + "two " * 9000, "5 " + "fortytwo " * 9000, "x = 3, " * 9000, "5 (" * 9000, "f(" * 9000,
     "5 apples and " * 9000, "5\n" * 9000,
     "1,00," * 9000],
    ids=lambda text: text[:9],
)  # fmt: skip
def test_reading_takes_no_longer_than_a_text_is_long(text):
    """Minutes and hours, were the time not proportional to the length."""
    numeric([text], [{"answer": "1"}])
