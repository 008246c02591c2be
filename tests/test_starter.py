"""The starter set as it ships: true verdicts, disjoint topics, usable pairs, prompts that can be made "
"again."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import pytest
import torch
from starter_set.examples import few_shot
from starter_set.prompts import contradiction, prompts, topics
from starter_set.repair import repaired, trimmed, whole_sentences
from starter_set.sampling import Nucleus
from starter_set.wordings import COMPATIBLE, WORDINGS

from zoo.bundled import starter
from zoo.bundled.starter import KINDS, SPLITS, records, rows
from zoo.errors import ZooError
from zoo.rewards.instructions import CHECKERS, followed
from zoo.rewards.prose import words


@pytest.fixture(scope="module", params=SPLITS)
def split(request):
    return request.param


def test_the_split_has_its_size():
    assert len(rows("train")) >= 560
    assert len(rows("heldout")) == 120


def test_the_files_are_small():
    sizes = [len((files("zoo.bundled.starter") / f"{split}.jsonl").read_bytes()) for split in SPLITS]
    assert sum(sizes) < 900_000


def test_every_stored_verdict_is_what_the_checkers_say(split):
    for row in rows(split):
        for answer in row["answers"]:
            assert followed(answer["text"], row["instructions"]) == answer["followed"], row["id"]


def test_prompts_are_those_that_the_seed_makes(split):
    made = {prompt.id: prompt for prompt in prompts(split)}
    for row in rows(split):
        prompt = made[row["id"]]
        assert row["prompt"] == [{"role": "user", "content": prompt.text}]
        assert (row["topic"], row["instructions"]) == (prompt.topic, list(prompt.instructions))
    assert [prompt.text for prompt in prompts(split)] == [prompt.text for prompt in made.values()]


def test_no_prompt_comes_twice():
    asked = [row["prompt"][0]["content"] for split in SPLITS for row in rows(split)]
    assert len(set(asked)) == len(asked)


def test_heldout_topics_are_not_trained_on():
    train, heldout = set(topics("train")), set(topics("heldout"))
    assert len(train) >= 140 and len(heldout) >= 40
    assert not train & heldout
    assert not {row["topic"] for row in rows("train")} & {row["topic"] for row in rows("heldout")}


def test_every_checker_is_asked_for_about_equally_often(split):
    asked = Counter(instruction["check"] for row in rows(split) for instruction in row["instructions"])
    assert set(asked) == set(CHECKERS)
    assert max(asked.values()) <= 1.7 * min(asked.values())


def test_every_checker_has_at_least_four_wordings():
    assert set(WORDINGS) == set(CHECKERS)
    assert all(len(set(wordings)) >= 4 for wordings in WORDINGS.values())


def test_two_instructions_of_a_prompt_never_contradict_each_other(split):
    for row in rows(split):
        assert 1 <= len(row["instructions"]) <= 2
        assert not contradiction(tuple(row["instructions"])), row["id"]


def test_contradictions_are_recognised():
    assert contradiction(({"check": "all_lowercase"}, {"check": "all_uppercase"}))
    assert contradiction(({"check": "no_digits"}, {"check": "no_digits"}))
    in_short = {"check": "start_with", "phrase": "In short"}
    assert contradiction((in_short, {"check": "avoid_words", "words": ["in"]}))
    assert contradiction(({"check": "max_sentences", "n": 2}, {"check": "min_words", "n": 50}))
    assert not contradiction(({"check": "no_commas"}, {"check": "all_lowercase"}))
    assert {name for first in COMPATIBLE for name in (first, *COMPATIBLE[first])} <= set(CHECKERS)


def test_a_preference_is_a_passing_answer_over_a_failing_one(split):
    found = records(split, "preference")
    assert len(found) >= 0.95 * len(rows(split))
    for record in found:
        chosen, rejected = (record[side][0]["content"] for side in ("chosen", "rejected"))
        assert all(followed(chosen, record["instructions"])), record["id"]
        assert not all(followed(rejected, record["instructions"])), record["id"]


def test_a_demonstration_follows_everything_and_nearly_every_row_has_one(split):
    found = records(split, "demonstration")
    assert len(found) >= {"train": len(rows("train")), "heldout": 115}[split]
    for record in found:
        assert all(followed(record["completion"][0]["content"], record["instructions"])), record["id"]


def test_feedback_is_one_answer_to_each_prompt_with_its_verdict_and_three_of_four_are_good(split):
    found = records(split, "feedback")
    assert len(found) == len({record["id"] for record in found}) == len(rows(split))
    assert 0.7 < sum(record["label"] for record in found) / len(found) < 0.8
    for record in found:
        verdict = all(followed(record["completion"][0]["content"], record["instructions"]))
        assert record["label"] is verdict, record["id"]


def test_steps_are_right_until_an_instruction_is_broken_that_nothing_mends(split):
    found = records(split, "stepwise")
    assert {tuple(sorted(set(record["labels"]))) for record in found} == {(-1,), (-1, 1), (1,)}
    for record in found:
        assert len(record["steps"]) == len(record["labels"]) > 1
        assert record["labels"] == sorted(record["labels"], reverse=True), "a broken instruction was mended"
    flawed = sum(record["labels"][-1] == -1 for record in found) / len(found)
    assert 0.4 < flawed < 0.6


def test_a_comma_in_the_second_sentence_makes_it_and_the_third_wrong_steps():
    row = {
        "id": "x", "topic": "t", "row": 1, "prompt": [],
        "instructions": [{"check": "no_commas"}, {"check": "ends_with_question"}],
        "answers": [{"text": "Tea is hot. Milk, though, is cold. Is it?", "followed": [False, True]}],
    }  # fmt: skip
    (record,) = starter._records(row, "stepwise")
    assert record["steps"] == ["Tea is hot.", "Milk, though, is cold.", "Is it?"] and record["labels"] == [1, -1, -1]
    row["instructions"] = [{"check": "ends_with_question"}]
    assert not list(starter._records(row, "stepwise")), "a question may still come"


def test_records_keep_what_a_reward_reads(split):
    for kind in KINDS:
        for record in records(split, kind):
            assert {"prompt", "instructions", "id", "topic", "row"} <= set(record)
    assert [record["row"] for record in records(split, "prompt")] == list(range(1, len(rows(split)) + 1))


def test_answers_are_distinct_and_at_most_four():
    for row in [row for split in SPLITS for row in rows(split)]:
        texts = [answer["text"] for answer in row["answers"]]
        assert len(set(texts)) == len(texts) and len(texts) <= 4, row["id"]
        assert {answer["origin"] for answer in row["answers"]} <= {"sample", "few-shot", "repaired"}
        assert all(text == text.strip() and text for text in texts), row["id"]


def test_length_does_not_tell_passing_from_failing():
    answers = [answer for row in rows("train") for answer in row["answers"]]
    lengths = {
        verdict: [len(words(one["text"])) for one in answers if all(one["followed"]) is verdict]
        for verdict in (True, False)
    }
    means = [sum(found) / len(found) for found in lengths.values()]
    assert max(means) < 1.5 * min(means)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ZooError, match="Did you mean 'heldout'"):
        rows("heldut")
    with pytest.raises(ZooError, match="Did you mean 'preference'"):
        records("train", "preferences")


PLAIN = (
    "A red kite hung there, in a shop. A boy bought it with 3 coins. The wind took it far away. "
    "In the evening he brought it home and smiled. They flew together after that. And so it went on"
)


def test_a_repair_keeps_whole_sentences_and_follows_everything():
    done = 0
    for prompt in prompts("train"):
        answer = repaired(PLAIN, prompt)
        if answer is None:
            continue
        done += 1
        assert all(followed(answer, prompt.instructions)), prompt.id
        assert "went on" not in answer.lower(), "the cut-off last sentence is kept"
    assert done > 300


def test_sentences_for_repair_leave_list_marks_headings_and_stumps_behind():
    text = "Steps:\n1. **Mix** the flour with water.\n- Bake it for an hour.\n[Your name]\nThen you can ea"
    assert whole_sentences(text) == ["Mix the flour with water.", "Bake it for an hour."]


def test_trimming_stops_at_the_last_full_sentence():
    assert trimmed("Tea is hot. Drink it. And th") == "Tea is hot. Drink it."
    assert trimmed("Tea is hot and th") is None
    assert trimmed("It is hot. Ask Dr. Smith about") == "It is hot."


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.9, 0.03, 0.02]])
    kept = Nucleus(temperature=1.0, top_p=0.75)(torch.empty(2, 0), probabilities.log())
    assert (kept > float("-inf")).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert torch.allclose(kept[0, :2], probabilities.log()[0, :2])
    narrow = Nucleus(temperature=0.5, top_p=0.95, width=2)(torch.empty(2, 0), probabilities.log())
    assert (narrow > float("-inf")).sum(dim=-1).tolist() == [2, 1]


def test_few_shot_examples_obey_the_prompt():
    for prompt in prompts("heldout"):
        *examples, last = few_shot(prompt)
        assert last["role"] == "user" and prompt.text in last["content"]
        for answer in examples[1::2]:
            assert all(followed(answer["content"], prompt.instructions)), prompt.id
