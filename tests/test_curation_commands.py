"""`zoo data dedup`, `filter` and `contamination` as they are typed, and what they say to mistakes."""

import json
import sys
from pathlib import Path

import pytest
from tiny_runs import cli

from zoo.cli.data import DataCommand
from zoo.data.curation.rules import RULES, SETS

ROWS = [
    {"prompt": "Name a primary colour.", "completion": "Red.", "id": 1},
    {"prompt": "Name a primary colour.", "completion": "Red.", "id": 2},
    {"prompt": "Say hello in German.", "completion": "N/A", "id": 3},
    {
        "prompt": "A man walks his dog along the narrow river every morning before work. Why?",
        "completion": "For air.",
        "id": 4,
    },
    {"prompt": "Say nothing.", "completion": "", "id": 5},
]
EVALUATION = [{"prompt": "Once more: a man walks his dog along the narrow river every morning before work, says who?"}]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    write(tmp_path / "rows.jsonl", ROWS)
    write(tmp_path / "test.jsonl", EVALUATION)
    return tmp_path


def good(*arguments):
    status, out, err = cli("data", *arguments)
    assert status == 0, out + err
    return out


def bad(*arguments):
    status, out, err = cli("data", *arguments)
    assert status == 2 and "Traceback" not in err, out + err
    return " ".join((out + err).split())


def ids(file):
    return [json.loads(line)["id"] for line in open(file, encoding="utf-8")]


# -- what they do ----------------------------------------------------------------------------------------------------


def test_the_plain_command_still_shows_a_source(place):
    assert "5 rows read, 4 kept" in good("rows.jsonl", "--model", "tiny")
    assert "5 rows read, 4 kept" in good("--model", "tiny", "rows.jsonl", "--examples", "0")
    write(place / "dedup", ROWS)
    (place / "dedup").rename(place / "dedup.jsonl")
    assert "5 rows read" in good("./dedup.jsonl", "--model", "tiny")


def test_dedup_writes_the_kept_rows_and_a_report_that_adds_up(place):
    text = good("dedup", "rows.jsonl")
    assert ids("deduplicated.jsonl") == [1, 3, 4]
    report = json.loads((place / "deduplicated.report.json").read_text())
    assert report["rows"] == 5 == report["kept"] + report["removed"]
    assert {name: entry["rows"] for name, entry in report["removed_by_reason"].items()} == {
        "the same": [2],
        "E_EMPTY_RESPONSE": [5],
    }
    assert report["removed_by_reason"]["the same"]["examples"][0]["why"] == "as rows.jsonl:1"
    assert report["source"] == "rows.jsonl" and report["fingerprint"].startswith("sha256:")
    assert "5 rows read, 3 kept, 2 removed" in text and "rows.jsonl:2" in text and "Name a primary colour." in text


def test_json_is_the_report_and_nothing_else(place):
    assert json.loads(good("dedup", "rows.jsonl", "--json"))["removed"] == 2
    assert json.loads(good("filter", "rows.jsonl", "--json"))["removed_by_reason"]["no_answer"]["rows"] == [3]
    found = json.loads(good("contamination", "rows.jsonl", "--eval", "test.jsonl", "--json"))
    assert found["evaluation"] == [
        {
            "source": "test.jsonl", "items": 1, "checked": 1, "too_short_or_common": 0, "found": 1, "share": 1.0,
            "found_rows": {"1": 1},
        }
    ]  # fmt: skip
    assert {rule["name"] for rule in json.loads(good("filter", "--list", "--json"))} > {"words", "echo", "perplexity"}


def test_filter_takes_rules_by_name(place):
    good("filter", "rows.jsonl", "--rules", "no_answer,words(least=2)")
    assert ids("filtered.jsonl") == [4]
    settings = json.loads((place / "filtered.report.json").read_text())["settings"]
    assert settings["rules"]["words"]["least"] == 2


def test_perplexity_is_that_of_the_answer_under_the_model(place):
    from zoo.data.encoding.encode import encode
    from zoo.evals.answers import score_all
    from zoo.evals.subject import load_subject

    good("filter", "rows.jsonl", "--rules", "perplexity(keep=0.5)", "--model", "tiny")
    subject = load_subject("tiny", "runs", print)
    records = [{**row, "row": row["id"]} for row in ROWS[:4]]
    encoded = encode(records, "demonstration", subject.template)
    scored = score_all(subject, [record["completion"] for record in encoded.records])
    order = sorted(range(4), key=lambda k: -float(scored[k].mean()))
    assert ids("filtered.jsonl") == sorted(k + 1 for k in order[:2])
    for data, kind in (
        ("texts.jsonl", [{"text": "one two three"}]),
        ("pairs.jsonl", [{"prompt": "a", "chosen": "b c", "rejected": "d"}]),
    ):
        write(place / data, kind)
        text = good("filter", data, "--rules", "perplexity(most=1e30)", "--model", "tiny", "--force")
        assert "1 row read, 1 kept" in text and "Perplexity of 1 row:" in text


def test_contamination_tells_and_removes_only_when_asked(place):
    text = good("contamination", "rows.jsonl", "--eval", "test.jsonl")
    assert "test.jsonl: 1 of 1 item (100.0%) are in the data" in text
    assert "a man walks his dog along the narrow river every morning before work" in text
    assert not (place / "uncontaminated.jsonl").exists()
    good("contamination", "rows.jsonl", "--eval", "test.jsonl", "--remove", "--force")
    assert ids("uncontaminated.jsonl") == [1, 2, 3]


def test_a_dry_run_writes_nothing(place):
    before = sorted(path.name for path in place.iterdir())
    for arguments in (["dedup"], ["filter"], ["contamination", "--eval", "test.jsonl", "--remove"]):
        assert "Nothing was written" in good(*arguments, "rows.jsonl", "--dry-run")
    assert sorted(path.name for path in place.iterdir()) == before


def test_other_sources_are_read_and_written_as_json_lines(place):
    good("dedup", "starter", "--kind", "preference", "--limit", "20", "--out", "deep/starter.jsonl")
    assert (place / "deep/starter.jsonl").read_text().count("\n") == 20
    (place / "rows.csv").write_text("question,reply\na,b\na,b\n")
    good("dedup", "rows.csv", "--columns", "prompt=question,completion=reply")
    assert (place / "deduplicated.jsonl").read_text() == '{"question": "a", "reply": "b"}\n'


# -- files are safe --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(place):
    good("dedup", "rows.jsonl")
    before = (place / "deduplicated.jsonl").read_bytes()
    assert "exists already" in bad("dedup", "rows.jsonl", "--near", "0.1")
    (place / "deduplicated.jsonl").unlink()
    assert "deduplicated.report.json exists already" in bad("dedup", "rows.jsonl")
    good("dedup", "rows.jsonl", "--force")
    assert (place / "deduplicated.jsonl").read_bytes() == before


def test_the_source_is_never_the_target(place):
    before = (place / "rows.jsonl").read_bytes()
    assert "is the source itself" in bad("dedup", "rows.jsonl", "--out", "./rows.jsonl", "--force")
    assert "lies in the source" in bad("dedup", ".", "--out", "clean.jsonl", "--force")
    assert (place / "rows.jsonl").read_bytes() == before


def test_when_every_row_is_removed_nothing_is_written_and_the_reasons_are_shown(place):
    text = bad("filter", "rows.jsonl", "--rules", "words(least=1000)")
    assert "Every row of rows.jsonl was removed" in text and "less than 1000" in text
    assert not (place / "filtered.jsonl").exists() and not list(place.glob(".tmp*"))


def test_a_name_that_cannot_be_written_is_told_before_the_reading(place):
    assert "one JSON object per line" in bad("dedup", "rows.jsonl", "--out", "clean.csv")
    (place / "folder.jsonl").mkdir()
    assert "is a folder" in bad("dedup", "rows.jsonl", "--out", "folder.jsonl")
    assert "cannot be written" in bad("dedup", "rows.jsonl", "--out", "rows.jsonl/clean.jsonl")


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dedupe", "rows.jsonl"], "Did you mean 'dedup'"),
        (["dedup"], "Missing argument"),
        (["dedup", "rwos.jsonl"], "Did you mean 'rows.jsonl'"),
        (["dedup", "rows.jsonl", "--near", "80"], "not a share"),
        (["dedup", "rows.jsonl", "--near", "0"], "not a share"),
        (["dedup", "rows.jsonl", "--near", "nan"], "not a share"),
        (["dedup", "rows.jsonl", "--columns", "prompt=nothing"], "no column 'nothing'"),
        (["dedup", "rows.jsonl", "--kind", "prefrence"], "Did you mean 'preference'"),
        (["dedup", "rows.jsonl", "--strict"], "--strict allows none"),
        (["filter"], "No data is given"),
        (["filter", "rows.jsonl", "--rules", "gohper"], "Did you mean 'gopher'"),
        (["filter", "rows.jsonl", "--rules", "perplexity(most=9)", "--model", "nowhere/model"], "nowhere/model"),
        (["contamination", "rows.jsonl"], "Missing option"),
        (["contamination", "rows.jsonl", "--eval", "tset.jsonl"], "Did you mean 'test.jsonl'"),
        (["contamination", "rows.jsonl", "--eval", "test.jsonl", "--on", "answer"], "no answer of its own"),
    ],
)
def test_mistakes_are_told_with_what_to_type(place, arguments, message):
    assert message in bad(*arguments)
    assert not list(place.glob("*.report.json")) and not list(place.glob(".tmp*"))


def test_near_without_datasketch_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    assert "datasketch>=1.6" in bad("dedup", "rows.jsonl", "--near", "0.8")
    good("dedup", "rows.jsonl")


def test_an_evaluation_of_short_texts_cannot_be_looked_for(place):
    write(place / "short.jsonl", [{"prompt": "What is two and two?"}])
    assert "--shortest 5" in bad("contamination", "rows.jsonl", "--eval", "short.jsonl")
    good("contamination", "rows.jsonl", "--eval", "short.jsonl", "--shortest", "5")


def test_a_dirty_file_can_be_cleaned_and_a_damaged_one_is_refused(place):
    write(place / "dirty.jsonl", [*ROWS[:1], *({"prompt": f"q{k}", "completion": ""} for k in range(5))])
    assert "6 rows read, 1 kept, 5 removed" in good("filter", "dirty.jsonl")
    (place / "broken.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"prompt": \n')
    assert "cannot be read" in bad("filter", "broken.jsonl", "--out", "other.jsonl")
    assert not (place / "other.jsonl").exists()


# -- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["dedup", "filter", "contamination"])
def test_every_verb_has_a_page_and_is_named_on_that_of_data(place, verb):
    assert f"Examples:\n  zoo data {verb} " in good(verb, "--help")
    assert f"\n  {verb} " in good("--help")


def test_the_page_lists_every_rule_with_its_limits():
    page = (Path(__file__).parent.parent / "docs" / "curation.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:6]] for line in page.splitlines() if line.startswith("| `")]
    expected = [
        [
            rule.name,
            ", ".join(name for name, names in SETS.items() if rule.name in names),
            *("" if limit is None else f"{limit:g}" for limit in (rule.limits.least, rule.limits.most)),
            rule.limits.on,
        ]
        for rule in RULES.values()
    ]
    assert rows == expected


def test_every_option_of_a_verb_has_a_help_text():
    for verb in DataCommand("data").verbs().values():
        assert all((parameter.help or "").endswith(".") for parameter in verb.params if parameter.name != "help")
