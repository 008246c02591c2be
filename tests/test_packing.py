"""Parts within a budget of tokens: every item once, in the order given, and what a group shares is counted once."""

import random

import pytest
import torch

from zoo.models.parts import cut
from zoo.values.packing import pack
from zoo.values.types import Answer

GROUPS, SIZES = [[0, 1], [2], [4, 3, 5]], [5, 7, 4, 6, 6, 9]


@pytest.mark.parametrize(
    ("budget", "parts"),
    [
        (1, [[0], [1], [2], [4], [3], [5]]),
        (12, [[0, 1], [2, 4], [3], [5]]),
        (16, [[0, 1, 2], [4, 3], [5]]),
        (22, [[0, 1, 2, 4], [3, 5]]),
        (37, [[0, 1, 2, 4, 3, 5]]),
    ],
)
def test_items_fill_one_part_after_the_other(budget, parts):
    assert pack(GROUPS, SIZES, budget) == parts


@pytest.mark.parametrize(("budget", "parts"), [(22, [[0, 1, 2], [4, 3, 5]]), (20, [[0, 1, 2], [4, 3], [5]])])
def test_a_group_is_kept_together_where_it_fits_into_one_part(budget, parts):
    """With 20 the last group fits nowhere, and its first item does not fit into the rest of the first part."""
    assert pack(GROUPS, SIZES, budget, keep_groups=True) == parts


def test_what_a_group_shares_is_counted_once_in_a_part_and_again_in_the_next():
    sizes, shared = [10, 10, 10, 10], [8, 8, 8, 8]
    assert pack([[0, 1, 2, 3]], sizes, 14, shared=shared) == [[0, 1, 2], [3]]
    assert pack([[0, 1], [2, 3]], sizes, 14, shared=shared) == [[0, 1], [2, 3]]
    assert pack([[0, 1, 2, 3]], sizes, 13, shared=shared) == [[0, 1], [2, 3]]


def test_nothing_gives_no_part():
    assert pack([], [], 10) == []


@pytest.mark.parametrize("keep_groups", [False, True])
def test_parts_hold_every_item_once_within_the_budget(keep_groups):
    draw = random.Random(0)
    for _ in range(200):
        sizes = [draw.randrange(12) for _ in range(draw.randrange(1, 20))]
        order = draw.sample(range(len(sizes)), len(sizes))
        at = draw.randrange(len(sizes))
        budget = draw.randrange(1, 30)
        parts = pack([order[:at], order[at:]], sizes, budget, keep_groups=keep_groups)
        assert [i for part in parts for i in part] == order
        assert all(len(part) == 1 or sum(sizes[i] for i in part) <= budget for part in parts)


def test_answers_scored_in_parts_stand_beside_those_to_the_same_prompt():
    prompts = [[1, 2, 3], [4], [1, 2, 3], [], [1, 2, 4], [4]]
    answers = [Answer.of(prompt, [9] * 2) for prompt in prompts]
    assert cut(answers, 7) == [[3, 1, 5], [0, 2], [4]]
    assert cut(answers, 1) == [[3], [1], [5], [0], [2], [4]]
    assert torch.equal(answers[0].prompt, answers[2].prompt)
