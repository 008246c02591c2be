"""A richer kind becomes a poorer one, with a note; nothing is made up."""

from __future__ import annotations

import pytest

from zoo.data.convert import CONVERSIONS, convert, kinds_that_serve
from zoo.data.formats import detect
from zoo.data.formats.shape import Sample
from zoo.data.kinds import KINDS
from zoo.errors import ZooError

PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 1.0, "p_chosen": 0.9, "id": "x", "row": 4}
RANKING = {"prompt": "Q", "completions": ["A", "B", "C", "A"], "ranks": [2, 1, 2, 3], "id": "x", "row": 4}
EXAMPLES = {
    "demonstration": {"prompt": "Q", "completion": "A", "id": "x", "row": 4},
    "preference": PAIR,
    "feedback": {"prompt": "Q", "completion": "A", "label": True, "id": "x", "row": 4},
    "ranking": RANKING,
    "stepwise": {"prompt": "Q", "steps": ["one"], "labels": [1], "id": "x", "row": 4},
}


def test_the_same_kind_is_handed_back_without_a_note():
    records = [PAIR]
    assert convert(records, "preference", "preference") == (records, "")


def test_a_pair_becomes_two_labelled_answers():
    records, note = convert([PAIR], "preference", "feedback")
    assert records == [{"prompt": "Q", "completion": "A", "label": True, "id": "x", "row": 4},
                       {"prompt": "Q", "completion": "B", "label": False, "id": "x", "row": 4}]
    assert "1 pair became 2 labelled answers" in note


def test_a_pair_becomes_a_demonstration_of_the_chosen_answer():
    assert convert([PAIR], "preference", "demonstration")[0] == [EXAMPLES["demonstration"]]


def test_a_pair_becomes_a_ranking_of_two():
    records, _ = convert([PAIR], "preference", "ranking")
    assert records == [{"prompt": "Q", "completions": ["A", "B"], "ranks": [1, 2], "id": "x", "row": 4}]


def test_a_ranking_becomes_all_pairs_of_unequal_ranks_without_pairs_of_equal_texts():
    records, note = convert([RANKING], "ranking", "preference")
    assert [(record["chosen"], record["rejected"]) for record in records] == [
        ("B", "A"), ("B", "C"), ("B", "A"), ("C", "A")]
    assert all(record["row"] == 4 and record["id"] == "x" and "ranks" not in record for record in records)
    assert "4 pairs" in note


def test_a_ranking_becomes_one_pair_of_best_and_worst_on_request():
    records, _ = convert([RANKING], "ranking", "preference", pairs="best-worst")
    assert [(record["chosen"], record["rejected"]) for record in records] == [("B", "A")]
    with pytest.raises(ZooError, match="'adjacent' pairs"):
        convert([RANKING], "ranking", "preference", pairs="adjacent")


def test_a_ranking_becomes_a_demonstration_of_its_best_answer():
    assert convert([RANKING], "ranking", "demonstration")[0][0]["completion"] == "B"


def test_only_desirable_answers_become_demonstrations_and_the_note_counts_the_others():
    bad = {**EXAMPLES["feedback"], "label": False, "row": 5}
    records, note = convert([EXAMPLES["feedback"], bad], "feedback", "demonstration")
    assert records == [EXAMPLES["demonstration"]]
    assert "1 of 2" in note and "1 are unused" in note


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_with_a_prompt_becomes_prompts_that_keep_row_and_columns(kind):
    assert convert([EXAMPLES[kind]], kind, "prompt")[0] == [{"prompt": "Q", "id": "x", "row": 4}]


def test_a_prompt_with_several_answers_is_used_once_whether_text_or_one_user_turn():
    turn = [{"role": "user", "content": "Q"}]
    records, note = convert([PAIR, {**PAIR, "prompt": turn}, {**PAIR, "prompt": "R"}], "preference", "prompt")
    assert [record["prompt"] for record in records] == ["Q", "R"]
    assert "2 prompts of 3 records" in note


@pytest.mark.parametrize(("source", "wanted", "reason"), [
    ("feedback", "preference", "not which of two answers"),
    ("ranking", "feedback", "not whether it is good"),
    ("prompt", "demonstration", "it has no completion"),
    ("demonstration", "preference", "no chosen and no rejected"),
    ("text", "prompt", "it has no prompt"),
])
def test_an_impossible_conversion_says_what_it_is_what_is_needed_why_and_what_would_do(source, wanted,
                                                                                       reason):
    with pytest.raises(ZooError) as caught:
        convert([], source, wanted)
    assert f"'{source}'" in caught.value.message and f"'{wanted}'" in caught.value.message
    assert reason in caught.value.message
    assert all(kind in caught.value.hint for kind in kinds_that_serve(wanted))


def test_a_refusal_points_at_another_column_that_may_hold_what_is_missing():
    with pytest.raises(ZooError) as caught:
        convert([{"prompt": "Q", "response": "A", "row": 1}], "prompt", "demonstration")
    assert "--columns completion=response" in caught.value.hint


def test_a_refusal_names_the_column_that_is_missing_and_not_the_one_that_is_there():
    with pytest.raises(ZooError, match="it has no rejected") as caught:
        convert([{"prompt": "Q", "chosen": "A", "row": 1}], "prompt", "preference")
    assert "no chosen" not in caught.value.message and "--columns" not in caught.value.hint


def test_columns_that_are_there_with_other_values_are_not_called_missing():
    with pytest.raises(ZooError, match="the values of steps and labels do not fit this kind") as caught:
        convert([{"prompt": "Q", "steps": [], "labels": [], "row": 1}], "prompt", "stepwise")
    assert "--format stepwise" in caught.value.hint


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(ZooError, match="Did you mean 'preference'"):
        convert([], "preferences", "prompt")


def test_conversions_never_go_to_a_kind_that_they_would_have_to_invent_fields_for():
    made = {("feedback", "demonstration"), ("preference", "feedback")}  # a label is read or implied
    for source, wanted in CONVERSIONS:
        assert source in KINDS and wanted in KINDS and source != wanted
        assert len(KINDS[source].required) >= len(KINDS[wanted].required) or (source, wanted) in made


@pytest.mark.parametrize(
    ("columns", "hint"),
    [(["rejected_response"], "--columns rejected=rejected_response"), (["note", "loser"], "--columns rejected=loser"),
     (["topic"], "--columns chosen=topic"), (["id", "better_answer"], "--columns chosen=better_answer"),
     (["dispreferred"], "--columns rejected=dispreferred")],
)  # fmt: skip
def test_no_hint_takes_the_worse_answer_for_the_better_one(columns, hint):
    record = {"row": 1, "prompt": "Hi", "completion": "Ho", **dict.fromkeys(columns, "No")}
    with pytest.raises(ZooError) as refused:
        convert([record], "demonstration", "preference")
    assert refused.value.hint.endswith(hint)


def test_no_hint_takes_the_worse_answer_for_a_completion():
    with pytest.raises(ZooError) as refused:
        detect(Sample([{"question": "Hi", "rejected_response": "No"}]), "rows.jsonl")
    assert "--columns prompt=question,completion=COMPLETION" in refused.value.hint
