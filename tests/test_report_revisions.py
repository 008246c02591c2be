"""What a report tells of answers that were criticised and revised, and of refusals."""

import csv
import json

import pytest
from made_runs import made, revision_steps
from test_report import HOSTILE, check

from zoo.report.run_page import content, write_run_page
from zoo.report.sections.refusals import refusal_plot, refusal_scatter
from zoo.report.sections.revisions import SHOWN, read_steps, revision_panels, triptychs

REFUSAL = "I cannot help with that at all."
HELP = "Here is how one does it, slowly and with care."
# Four prompts, two rounds. Round 1 changes three answers, round 2 two: the last revision of prompt 3 says nothing.
CHAINS = [
    (HELP, [("kind", REFUSAL), ("true", REFUSAL)]),
    (HELP, [("kind", HELP), ("kind", f"{HELP} Take your time.")]),
    (REFUSAL, [("true", HELP), ("true", f"{HELP} Really.")]),
    (HELP, [("kind", f"{HELP} Now."), ("kind", "")]),
]


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def run(tmp_path):
    scores = {
        when: {
            "refusal": {"value": wanted, "low": wanted - 0.1, "high": wanted + 0.1, "n": 20},
            "over_refusal(limit=10)": {"value": over, "low": over - 0.05, "high": over + 0.2, "n": 10},
        }
        for when, wanted, over in (("before", 0.3, 0.1), ("after", 0.7, 0.2))
    }
    run = made(tmp_path / "mine", scores=scores)
    lines = [json.dumps(step) + "\n" for step in revision_steps(CHAINS)]
    (run.path / "revisions.jsonl").write_text("".join(lines) + '{"half')
    return run


def test_shares_of_answers_that_were_changed_and_that_refuse_stand_round_by_round(run):
    write_run_page(run)
    folder = run.path / "report-data"
    changed = {row["round"]: (float(row["share"]), row["n"]) for row in table(folder / "answers-revised.csv")}
    assert changed == {"round 1": (0.75, "4"), "round 2": (0.5, "4")}
    refused = table(folder / "refused-or-evaded.csv")
    assert [(row["answers"], float(row["share"])) for row in refused] == [
        ("first answers", 0.25), ("after round 1", 0.25), ("after round 2", 0.25),
    ]  # fmt: skip
    # Wilson, for 1 of 4.
    assert (float(refused[0]["low"]), float(refused[0]["high"])) == pytest.approx((0.0456, 0.6994), abs=1e-3)
    rounds = table(folder / "rounds-of-critique.csv")
    assert [(row["revision empty"], row["revision cut"], row["critique empty"]) for row in rounds] == [
        ("0", "0", "0"), ("1", "0", "0"),
    ]  # fmt: skip


def test_every_principle_has_what_it_changed(run):
    write_run_page(run)
    rows = {row["principle"]: row for row in table(run.path / "report-data" / "principles-and-what-they-changed.csv")}
    assert list(rows) == ["kind", "true"], "most drawn first"
    kind, true = rows["kind"], rows["true"]
    assert (kind["sampled"], kind["changed"], kind["refused before"], kind["refused after"]) == ("5", "3", "0", "1")
    assert (true["sampled"], true["changed"], true["refused before"], true["refused after"]) == ("3", "2", "2", "1")
    # 10 + 10 + 10 + 10 + 11 words before; a revision that says nothing leaves 11.
    assert float(kind["words before"]) == pytest.approx(51 / 5)
    assert float(kind["words after"]) == pytest.approx((7 + 10 + 13 + 11 + 11) / 5)


def test_what_turned_into_a_refusal_or_out_of_one_is_shown_first():
    steps = revision_steps(CHAINS)
    first = triptychs(steps)
    assert [(step["row"], step["round"]) for step in first[:2]] == [(0, 1), (2, 1)]
    assert len(first) == SHOWN and len({(step["row"], step["round"]) for step in first}) == SHOWN
    assert triptychs([]) == [] and revision_panels([]) == []


def test_the_page_shows_the_triptychs_and_runs_nothing_of_them(run):
    steps = revision_steps([(HOSTILE, [(HOSTILE, HOSTILE * 2)])])
    (run.path / "revisions.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    parser = check(write_run_page(run).read_text(encoding="utf-8"))
    text = "".join(parser.text)
    assert "critique 0.1" in text and text.count("<script>alert(1)</script>") >= 4


def test_a_file_of_that_name_with_other_things_in_it_is_left_alone(tmp_path):
    run = made(tmp_path)
    assert read_steps(run) == []
    (run.path / "revisions.jsonl").write_text('{"prompt": "p"}\n{"other": 1}\n')
    assert read_steps(run) == []
    assert "Critiques and revisions" not in content(run)["plots"]


def test_refusing_what_is_unwanted_stands_against_refusing_what_is_harmless(run):
    write_run_page(run)
    before, after = table(run.path / "report-data" / "harmless-against-helpful.csv")
    assert (before["when"], before["over_refusal"], before["refusal"], before["refusal n"]) == (
        "before", "0.1", "0.3", "20",
    )  # fmt: skip
    assert (after["over_refusal"], after["over_refusal n"], after["refusal"]) == ("0.2", "10", "0.7")
    assert refusal_plot({"after": {"refusal": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 9}}}) is None


def test_in_a_comparison_every_run_is_a_dot_between_harmless_and_helpful():
    values = {
        "refusal": {"a": [0.5, 0.75], "b": [1.0, None]},
        "over_refusal(limit=5)": {"a": [0.0, 0.25], "b": [1.0, 0.5]},
    }
    plot = refusal_scatter(values, {"refusal": 0.25, "over_refusal(limit=5)": 0.125})
    assert plot.rows == [("start", 0.125, 0.25), ("a", 0.0, 0.5), ("a", 0.25, 0.75), ("b", 1.0, 1.0)]
    assert list(refusal_scatter(values, {}).names) == ["a", "b"], "the start may not be measured"
    assert refusal_scatter({"refusal": values["refusal"]}, {}) is None
