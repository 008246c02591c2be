"""The world of two skills: one that a reward judges, and one that nothing does."""

import pytest

from zoo.bundled.laboratory import gold, skills
from zoo.bundled.laboratory.skills import rows
from zoo.errors import ZooError


def test_backwards_prompts_bring_the_words_in_reverse():
    for row in rows("train", "prompt", rows=50, skill="backwards"):
        first, *words = row["prompt"].split()
        assert first == skills.BACKWARDS
        assert row["answer"].split() == words[::-1]
        assert row["demonstration"] == row["answer"]


def test_the_reward_of_topics_says_nothing_about_the_other_skill():
    both = rows("train", "prompt", rows=400)
    worths = gold.gold(["was kind"] * len(both), both)
    spoken = [row["prompt"].startswith(skills.BACKWARDS) for row in both]
    assert spoken.count(True) == 200
    assert [value is None for value in worths] == spoken


def test_texts_of_the_base_hold_both_skills_in_words_that_the_world_has():
    texts = skills.texts(0)[:500]
    assert 200 < sum(text.startswith(skills.BACKWARDS) for text in texts) < 300
    assert {word for text in texts for word in text.split()} <= set(skills.WORDS)


def test_held_out_rows_are_others_and_equal_seeds_give_equal_rows():
    train, held_out = (
        {row["prompt"] for row in rows(split, "prompt", skill="backwards")} for split in ("train", "heldout")
    )
    assert not train & held_out
    assert rows("train", "text", seed=3) == rows("train", "text", seed=3) != rows("train", "text", seed=4)
    with pytest.raises(ZooError, match="no data of kind 'preference'"):
        rows("train", "preference")
