"""Sums, chains and the quiz: right answers are right, labels of steps say what they claim, verifiers choose by them."""

import itertools
import random

import pytest
import torch

from zoo.bundled.laboratory import arithmetic, chain_choice, chains, quiz
from zoo.bundled.laboratory.plugin import sources
from zoo.bundled.laboratory.words import make_tokenizer
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import load
from zoo.data.loader import Order
from zoo.data.sources.reading import Reading
from zoo.evals import Subject
from zoo.rewards.checkers import exact, numeric


def evaluated(prompt):
    """The value of a chain, from its text."""
    start, *operations = prompt.split()
    value = int(start)
    for operation in operations:
        value = eval(f"({value}) {operation[0]} {operation[1:]}") % 11
    return value


def test_sums_are_right_modulo_23_and_their_splits_part_all_529():
    rows = {split: list(arithmetic.rows(split, "demonstration", 400)) for split in ("train", "heldout")}
    for row in itertools.chain(*rows.values()):
        a, b = (int(word) for word in row["prompt"].split() if word.isdigit())
        assert int(row["answer"]) == (a + b) % 23 and row["completion"] == row["answer"]
    asked = [{row["prompt"] for row in part} for part in rows.values()]
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 529


def test_noise_is_the_share_of_wrong_results():
    rows = list(arithmetic.rows("train", "demonstration", 4000, noise=0.45))
    assert sum(row["completion"] != row["answer"] for row in rows) / 4000 == pytest.approx(0.45, abs=0.03)
    pairs = list(arithmetic.rows("train", "preference", 1000, noise=0.3))
    assert sum(row["rejected"] == row["answer"] for row in pairs) / 1000 == pytest.approx(0.3, abs=0.05)


def test_a_chain_says_its_steps_and_a_verifier_reads_its_last_number():
    for row in chains.rows("train", "demonstration", 50, slips=0.0, thinking=0.5):
        assert int(row["answer"]) == evaluated(row["prompt"])
        assert numeric([row["completion"]], [row]) == [1.0]
        lines = row["completion"].split("\n")
        assert len(lines) in (1, 6) and lines[-1] == f"so {row['answer']}"
        assert [line.split()[0] for line in lines[:-1]] == row["prompt"].split()[1:][: len(lines) - 1]


def test_labels_of_steps_are_those_of_the_first_slip_of_the_outcome_or_of_what_can_still_be_reached():
    rows = chains.rows("train", "stepwise", 300)
    slipped = 0
    for row in rows:
        value, fine = int(row["prompt"].split()[0]), True
        for step, label in zip(row["steps"], row["labels"], strict=True):
            operation, said = step.split()
            fine = fine and int(said) == chains.after(value, operation)
            value = int(said)
            assert label == (1 if fine else -1)
        slipped += not fine
    # 1 − 0.8⁵ of the solutions have a slip.
    assert slipped / 300 == pytest.approx(1 - 0.8**5, abs=0.09)
    for row in chains.rows("train", "stepwise", 50, labels="outcome"):
        right = int(row["steps"][-1].split()[1]) == int(row["answer"])
        assert row["labels"] == [0, 0, 0, 0, 1 if right else -1]
    tried = chains.rows("train", "stepwise", 300, labels="completions", tries=8)
    for true, row in zip(rows, tried, strict=True):
        # From the last step nothing is left to be tried.
        assert (row["labels"][-1] == 1) == (int(row["steps"][-1].split()[1]) == int(row["answer"]))
        # Labels of another sort are of the same solutions.
        assert (row["prompt"], row["steps"]) == (true["prompt"], true["steps"])


def test_what_a_quiz_asks_is_answered_as_often_as_its_chances_say():
    assert all(sum(chances) == pytest.approx(1) for chances in quiz.CHANCES)
    rows = quiz.rows("train", "demonstration", 256 * 40)
    first = [row["completion"] for row in rows if row["prompt"] == "q7"]
    assert len(first) == 40
    likeliest = sum(max(chances) for chances in quiz.CHANCES) / 256
    best = {f"q{i}": "ABCD"[max(range(4), key=chances.__getitem__)] for i, chances in enumerate(quiz.CHANCES)}
    assert sum(row["completion"] == best[row["prompt"]] for row in rows) / len(rows) == pytest.approx(
        likeliest, abs=0.02
    )
    assert exact([rows[0]["completion"]], [rows[0]]) == [1.0]


def test_every_kind_loads_by_name():
    for part, kinds in {
        "arithmetic": ("text", "demonstration", "preference", "feedback", "prompt"),
        "chains": ("text", "demonstration", "prompt", "stepwise"),
        "quiz": ("text", "demonstration", "preference", "prompt"),
    }.items():
        for kind in kinds:
            assert len(load(f"world:{part}(rows=30)", kind, Reading(named_sources=sources()))) == 30


class Oracle(torch.nn.Module):
    """Stands where a verifier of steps stands."""


@pytest.mark.parametrize(("truth", "wanted"), [(1.0, "possible"), (0.0, "single")])
def test_a_verifier_that_knows_chooses_what_there_is_and_one_that_does_not_is_no_better_than_chance(
    monkeypatch, truth, wanted
):
    tokenizer = make_tokenizer(chains.WORDS)
    draw = random.Random(0)

    def scores(model, answers, at, progress=None):
        found = []
        for answer, ends in zip(answers, at, strict=True):
            operations = tokenizer.decode(answer.prompt, skip_special_tokens=True).split()
            value, row = int(operations[0]), []
            for operation, end in zip(operations[1:], ends, strict=True):
                words = tokenizer.convert_ids_to_tokens(answer.completion[: end + 1])
                said = int([word for word in words if word.isdigit()][-1])
                right = said == chains.after(value, operation)
                row.append((8.0 if right else -8.0) if truth else draw.gauss(0, 1))
                value = said
            found.append(row)
        return found

    monkeypatch.setattr("zoo.models.scalar.score_many", scores)
    subject = Subject(Oracle(), tokenizer, ChatTemplate(tokenizer))
    for read in ("min", "product", "last"):
        score = chain_choice.chain_choice(subject, n=8, problems=100, read=read)
        if truth and read == "last":
            continue
        # Two slips may cancel each other, which no verifier of steps believes in.
        assert score.value == pytest.approx(score.details[wanted], abs=0.04 if truth else 0.15)
    assert score.details["single"] < score.details["majority"] < score.details["possible"]
    assert (score.details["step_accuracy"] > 0.6) == bool(truth)


def test_a_run_with_their_seed_reads_spoilt_rows_in_a_row_and_no_other_row_changes():
    clean, spoilt = (list(arithmetic.rows("train", "demonstration", 64, spoilt=count)) for count in (0, 16))
    changed = [number for number, pair in enumerate(zip(clean, spoilt, strict=True)) if pair[0] != pair[1]]
    assert changed == sorted(Order(64, 0, True).at(place) for place in range(48, 64))
    assert {spoilt[number]["completion"] for number in changed} == {arithmetic.RUBBISH}
    held = (list(arithmetic.rows("heldout", "demonstration", 64, spoilt=count)) for count in (0, 16))
    assert next(held) == next(held)
