"""The text game of the laboratory: its map, its rewards, and its demonstrations."""

import pytest

from zoo.bundled.laboratory.rooms import BACK, DOORS, EXTRA, MAP, MOVES, ROOMS, Rooms, rows, texts, way


def play(prompt, moves):
    """Rewards of the moves, until the episode ends."""
    game, rewards = Rooms(), []
    assert game.begin({"prompt": prompt}, seed=0) is None
    for move in moves:
        turn = game.step({"role": "assistant", "content": move})
        rewards.append(turn.reward)
        if turn.done:
            break
    return rewards


def test_doors_open_in_both_directions_and_lead_to_every_room():
    assert len(MAP) == 2 * len(DOORS) and all(MAP[there, BACK[door]] == here for (here, door), there in MAP.items())
    longest = max(len(way(start, goal)) for start in ROOMS for goal in ROOMS)
    assert longest == 4 < MOVES


def test_the_shortest_way_is_worth_one_and_each_other_move_costs():
    assert play("hall find bath", ["west"]) == [1.0]
    assert play("attic find study", ["east", "south", "east", "north"]) == [None, None, None, 1.0]
    assert play("hall find bath", ["north", "south", "west"])[-1] == pytest.approx(1 - 2 * EXTRA)
    assert play("hall find bath", ["south", "nonsense", "west"])[-1] == pytest.approx(1 - 2 * EXTRA)
    assert play("hall find bath", ["east"] * MOVES) == [None] * MOVES and Rooms().cut({}) == 0.0


def test_demonstrations_walk_the_shortest_way():
    for row in rows("train", "demonstration", rows=40):
        moves = [turn["content"] for turn in row["completion"] if turn["role"] == "assistant"]
        assert play(row["prompt"], moves)[-1] == 1.0


def test_the_base_has_read_walks_of_somebody_who_tries_doors():
    extra = 0
    for text in texts(0)[:200]:
        start, _, goal, *spoken = text.split()
        moves = [word for word in spoken if word in BACK]
        assert 1 <= len(moves) <= MOVES and {start, goal} <= set(ROOMS)
        extra += len(moves) - len(way(start, goal))
    assert extra > 200, "the walks know the way"


def test_both_splits_have_every_pair_of_rooms():
    train, held_out = ({row["prompt"] for row in rows(split, "prompt")} for split in ("train", "heldout"))
    assert train == held_out and len(train) == len(ROOMS) * (len(ROOMS) - 1)
