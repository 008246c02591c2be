"""Loading: rows in are rows kept plus rows dropped, by reason, with row numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo.bundled import harmless, starter
from zoo.data.load import load, source_kind
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError


def pair(number, **changes):
    return {"prompt": f"Q{number}", "chosen": f"A{number} and more", "rejected": f"B{number}", **changes}


@pytest.fixture
def write(tmp_path):
    """Write rows (or raw lines) to a JSON Lines file; returns its path as a string."""
    def _write(rows, name="data.jsonl"):
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
        return str(tmp_path / name)
    return _write


def test_good_rows_are_all_kept_in_order_with_their_numbers(write):
    data = load(write([pair(1), pair(2)]), "preference")
    assert (data.kind, data.source_kind, data.format) == ("preference", "preference", "preference")
    assert data.records == [{**pair(1), "row": 1}, {**pair(2), "row": 2}] and len(data) == 2
    assert (data.report.rows, data.report.kept, data.report.dropped) == (2, 2, 0)
    assert data.fingerprint.startswith("sha256:")


def test_bad_rows_are_dropped_and_counted_by_reason_with_their_numbers(write):
    rows = [pair(number) for number in range(1, 13)]
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[7]["rejected"] = "  "
    data = load(write(rows), "preference")
    assert [record["row"] for record in data.records] == [1, 2, 4, 5, 6, 7, 9, 10, 11, 12]
    assert [(problem.row, problem.code, problem.field) for problem in data.report.problems] == [
        (3, "E_IDENTICAL_PAIR", "chosen"), (8, "E_EMPTY_RESPONSE", "rejected")]
    lines = "\n".join(data.report.lines())
    assert "12 rows read, 10 kept, 2 dropped" in lines
    assert "1 dropped: E_IDENTICAL_PAIR, the two answers are the same (row 3)" in lines
    stored = data.report.as_json()
    assert stored["dropped_by_reason"]["E_EMPTY_RESPONSE"] == {"count": 1, "rows": [8]}
    assert (stored["rows"], stored["kept"], stored["dropped"], stored["records"]) == (12, 10, 2, 10)
    assert json.loads(json.dumps(stored)) == stored


def test_one_bad_row_of_a_small_file_is_dropped_and_reported(write):
    data = load(write([pair(1), pair(2, rejected="")]), "preference")
    assert [record["row"] for record in data.records] == [1]
    assert data.report.dropped == 1


def test_more_than_a_fifth_of_bad_rows_is_an_error_that_shows_the_first(write):
    path = write([pair(1), pair(2, rejected=""), pair(3, chosen=3), pair(4)])
    with pytest.raises(ZooError) as caught:
        load(path, "preference")
    assert "2 of 4 rows cannot be used" in caught.value.message
    assert f"{path}:2 [E_EMPTY_RESPONSE] rejected: is empty" in caught.value.message
    assert f"{path}:3 [E_TYPE] chosen: is the number 3" in caught.value.message
    assert "--columns" in caught.value.hint


def test_a_fifth_of_bad_rows_is_still_allowed(write):
    rows = [pair(number, **({"rejected": ""} if number <= 2 else {})) for number in range(1, 11)]
    assert len(load(write(rows), "preference")) == 8


def test_how_many_pairs_have_a_margin_is_said(write):
    notes = load(write([pair(1), pair(2, margin=0.5), pair(3, rating="better")]), "preference").report.notes
    assert "2 of the 3 pairs have a margin." in notes
    assert not any("margin" in note for note in load(write([pair(1), pair(2)]), "preference").report.notes)


def test_strict_allows_no_bad_row_but_allows_duplicates(write):
    with pytest.raises(ZooError, match="--strict allows none"):
        rows = [pair(1, rejected=""), *(pair(number) for number in range(2, 200))]
        load(write(rows), "preference", Reading(strict=True))
    assert len(load(write([pair(1), pair(1)]), "preference", Reading(strict=True))) == 2


def test_a_file_of_which_nothing_can_be_used_is_an_error(write):
    with pytest.raises(ZooError, match="none of the 1 row can be used"):
        load(write([pair(1, rejected="")]), "preference")


BROKEN = {
    b'{"prompt": "a", "completion":': "broken JSON at column 30: Expecting value (the line ends too early)",
    b'{"prompt": "a" "completion": "b"}': "broken JSON at column 16: Expecting ',' delimiter",
    b'{"prompt": "caf\xe9"}': "is not valid UTF-8 at byte 16",
    b'{"prompt": "a\x00b"}': "NUL character at column 14",
    b'{"prompt": "a\\u0000b"}': "holds a NUL character",
    b'{"prompt": "\\ud83d"}': "lone surrogate \\ud83d",
    b'["a", "b"]': "is a list of 2, not an object in braces",
    b'"a"': "is the text 'a', not an object in braces",
    b"[" * 100_000: "more than 64 deep",
    b"null": "is null, not an object in braces",
    b'{"prompt": 1' + b"0" * 5000 + b"}": "line: holds a number of more than 4,300 digits",
}


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_of_a_small_file_is_an_error_with_file_line_and_reason(write, line):
    path = write([{"prompt": "a", "completion": "b"}, line, {"prompt": "c", "completion": "d"}])
    with pytest.raises(ZooError) as caught:
        load(path, "demonstration")
    assert f"{path}:2 [E_JSON] line: " in caught.value.message
    assert BROKEN[line] in caught.value.message


def test_a_broken_line_among_hundreds_is_dropped_and_reported(write):
    rows = [pair(number) for number in range(150)]
    data = load(write([*rows[:60], b'{"prompt": ', *rows[60:]]), "preference")
    assert len(data) == 150
    assert [(problem.row, problem.code) for problem in data.report.problems] == [(61, "E_JSON")]


def test_a_file_of_broken_lines_only_is_an_error(write):
    with pytest.raises(ZooError, match="none of the 2 rows"):
        load(write([b"prompt: a", b"prompt: b"]), "demonstration")


def test_whole_surrogate_pairs_and_other_escapes_are_fine(write):
    data = load(write([b'{"prompt": "\\ud83d\\ude00 \\u00e9", "completion": "\\\\u0000"}']), "demonstration")
    assert data.records[0]["prompt"] == "😀 é" and data.records[0]["completion"] == "\\u0000"


def test_a_key_that_occurs_twice_is_a_warning(write):
    data = load(write([b'{"prompt": "a", "prompt": "b", "completion": "c"}']), "demonstration")
    assert data.records[0]["prompt"] == "b"
    assert [problem[:3] for problem in data.report.problems] == [(1, "W_DUPLICATE_KEY", "prompt")]


def test_duplicates_are_kept_and_counted(write):
    data = load(write([pair(1), pair(2), pair(1), pair(1)]), "preference")
    assert len(data) == 4 and data.report.duplicates == 2
    assert [problem[:2] for problem in data.report.problems] == [(3, "W_DUPLICATE"), (4, "W_DUPLICATE")]
    assert "is the same as row 1" in data.report.problems[0].message


def test_turns_after_the_last_answer_are_counted_and_the_row_is_kept(write):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    data = load(write([{"messages": turns}, {"messages": [*turns, turns[0]]}]), "demonstration")
    assert len(data) == 2
    assert ("W_TRAILING_TURNS", 2) in [(problem.code, problem.row) for problem in data.report.problems]
    assert all(set(record) == {"prompt", "completion", "row"} for record in data.records)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ZooError, match="holds no rows"):
        load(str(tmp_path / "a.jsonl"), "prompt")


def test_the_limit_is_the_number_of_rows_read(write):
    path = write([pair(number) for number in range(10)])
    data = load(path, "feedback", Reading(limit=3))
    assert data.report.rows == 3 and len(data) == 6
    assert data.fingerprint == load(path, "preference").fingerprint
    with pytest.raises(ZooError, match="limit of 0"):
        load(path, "preference", Reading(limit=0))


def test_a_conversion_is_noted_with_the_balance_of_labels(write):
    data = load(write([pair(1), pair(2)]), "feedback")
    assert (data.kind, data.source_kind, data.report.records) == ("feedback", "preference", 4)
    notes = " ".join(data.report.notes)
    assert "2 pairs became 4 labelled answers" in notes and "2 desirable, 2 undesirable" in notes


def test_labels_that_are_all_equal_are_noted(write):
    rows = [{"prompt": f"Q{number}", "completion": "A", "label": "true"} for number in range(3)]
    assert "All are equal" in " ".join(load(write(rows), "feedback").report.notes)


def test_a_conversion_that_leaves_nothing_is_an_error(write):
    with pytest.raises(ZooError, match="Nothing is left"):
        load(write([{"prompt": "Q", "completion": "A", "label": False}]), "demonstration")


def test_the_share_of_longer_chosen_answers_is_noted(write):
    rows = [pair(1), pair(2), pair(3), pair(4, chosen="x")]
    assert "longer one in 75% of the pairs" in " ".join(load(write(rows), "preference").report.notes)


def test_an_impossible_conversion_names_the_source(write):
    path = write([{"prompt": "Q", "completion": "A", "label": True}])
    with pytest.raises(ZooError) as caught:
        load(path, "preference")
    assert path in caught.value.message and "not which of two answers" in caught.value.message


def test_columns_are_mapped_before_the_format_is_told(write):
    path = write([{"question": "Q", "reply": "A", "id": 1}])
    data = load(path, "demonstration", Reading(columns={"prompt": "question", "completion": "reply"}))
    assert data.records == [{"prompt": "Q", "completion": "A", "id": 1, "row": 1}]
    assert "other columns kept: id" in " ".join(data.report.notes)
    with pytest.raises(ZooError, match="no column 'replay'. Did you mean 'reply'"):
        load(path, "demonstration", Reading(columns={"completion": "replay"}))
    with pytest.raises(ZooError, match="no column 'question=x'") as refused:
        load(path, "demonstration", Reading(columns={"question": "question=x"}))
    assert "The order is" not in refused.value.message


def test_a_format_can_be_named_where_two_fit(write):
    path = write([{"prompt": "Q", "completion": "C", "chosen": "A", "rejected": "B"}])
    with pytest.raises(ZooError, match="2 ways"):
        load(path, "demonstration")
    assert load(path, "demonstration", Reading(format="prompt-completion")).records[0]["completion"] == "C"
    assert load(path, "demonstration", Reading(format="preference")).records[0]["completion"] == "A"


def test_problems_in_a_folder_name_the_file_and_its_own_row(write, tmp_path):
    write([pair(1), pair(2)], "a.jsonl")
    write([pair(3), pair(4, rejected="")], "b.jsonl")
    data = load(str(tmp_path), "preference")
    assert [record["row"] for record in data.records] == [1, 2, 3]
    assert data.report.first_errors() == [f"  {tmp_path / 'b.jsonl'}:2 [E_EMPTY_RESPONSE] rejected: is empty"]


def test_a_named_source_is_loaded_with_its_own_row_numbers():
    def source(split, kind):
        return [{"prompt": [{"role": "user", "content": "Q"}], "instructions": [{"check": "no_commas"}],
                 "row": 7}]

    data = load("starter@heldout", "prompt", Reading(named_sources={"starter": source}))
    assert data.name == "starter@heldout"
    assert data.records[0]["row"] == 7 and data.records[0]["instructions"] == [{"check": "no_commas"}]


@pytest.mark.parametrize(
    ("kinds", "format", "asked", "kind"),
    [(("preference", "ranking"), None, "preference", "preference"),
     (("preference", "ranking"), "ranking", "ranking", "ranking"),
     (("demonstration",), "ranking", "ranking", "demonstration")],
)  # fmt: skip
def test_a_named_source_is_asked_for_the_kind_of_the_format_where_one_is_named(kinds, format, asked, kind):
    """`zoo train --algo rm --format ranking`: the starter set gives pairs to what learns from both."""
    data = load("starter", kinds, Reading(format=format, limit=5, named_sources={"starter": starter.records}))
    assert (data.source_kind, data.kind, len(data)) == (asked, kind, 5)
    if kind == "ranking":
        assert max(len(record["completions"]) for record in data.records) > 2


def test_the_first_twenty_errors_are_shown_and_the_rest_counted(write):
    with pytest.raises(ZooError) as caught:
        load(write([pair(number, rejected="") for number in range(30)] + [pair(99)]), "preference")
    assert caught.value.message.count("[E_EMPTY_RESPONSE]") == 20 and "and 10 more" in caught.value.message


def test_thousands_of_rows_with_long_lists_of_problems_are_loaded(write):
    rows = [pair(number % 500) for number in range(5000)]
    data = load(write(rows), "preference")
    assert len(data) == 5000 and data.report.duplicates == 4500
    assert len(data.report.problems) == 4500 and len(data.report.as_json()["problems"]) == 1000


def test_loading_a_jsonl_file_imports_neither_torch_nor_the_table_libraries(write):
    program = (f"import sys; from zoo.data.load import load; load({write([pair(1)])!r}, 'preference'); "
               "print([name for name in ('torch', 'datasets', 'pyarrow') if name in sys.modules])")
    output = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}"],
                            capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stderr


def test_the_kind_of_a_named_source_is_the_first_that_it_has():
    named = {"starter": starter.records, "harmless": harmless.records}
    assert source_kind("starter", Reading(named_sources=named)) == "demonstration"
    assert source_kind("harmless", Reading(named_sources=named)) == "prompt"
    with pytest.raises(ZooError, match="'harmless' have no answers"):
        source_kind("harmless", Reading("tset", named_sources=named))
