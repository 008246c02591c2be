"""The loader: every record as often as the epochs say, resumable, fair to every process; micro-batches lose nothing."""

from collections import Counter

import pytest
import torch

from zoo.data.loader import StepLoader, micro_batches, record_tokens
from zoo.errors import ZooError
from zoo.values.types import Answer, Answers, Batch


def records(count=23):
    return [{"row": i, "completion": Answer.of([1] * (i % 7), [2] * (1 + i * i % 11))} for i in range(count)]


def collate(part):
    return Batch(row=torch.tensor([r["row"] for r in part]), completion=Answers([r["completion"] for r in part]))


def loader(count=23, **options):
    return StepLoader(records(count), collate, **{"batch_size": 4, **options})


def rows(batches):
    return [batch.row.tolist() for batch in batches]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (3, 18), (0.5, 3), (2.5, 15)])
def test_every_record_is_seen_exactly_as_often_as_the_epochs_say(epochs, steps):
    batches = rows(loader(epochs=epochs))
    seen = Counter(row for batch in batches for row in batch)
    assert len(batches) == len(loader(epochs=epochs)) == steps
    assert sum(seen.values()) == round(epochs * 23)
    assert set(seen.values()) <= {int(epochs), int(epochs) + 1} and max(seen.values()) - min(seen.values()) <= 1
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_each_epoch_has_an_order_of_its_own_and_the_seed_decides_it():
    batches = rows(loader(epochs=2))
    flat = [row for batch in batches for row in batch]
    assert flat[:23] != flat[23:] and sorted(flat[:23]) == sorted(flat[23:])
    assert rows(loader(epochs=2)) == batches
    assert rows(loader(epochs=2, seed=1)) != batches
    assert [row for batch in rows(loader(shuffle=False)) for row in batch] == list(range(23))


def test_the_order_does_not_depend_on_the_random_state_of_the_program():
    torch.manual_seed(1)
    one = rows(loader())
    torch.manual_seed(2)
    assert rows(loader()) == one


@pytest.mark.parametrize("position", [0, 1, 5, 11])
def test_a_loader_resumed_from_its_state_gives_the_remaining_batches(position):
    whole = rows(loader(epochs=2))
    first = loader(epochs=2)
    iterator = iter(first)
    for _ in range(position):
        next(iterator)
    second = loader(epochs=2)
    second.load_state_dict(first.state_dict())
    assert rows(second) == whole[position:]


def test_max_steps_cuts_the_run_short_without_changing_its_batches():
    assert rows(loader(max_steps=3)) == rows(loader())[:3]
    assert rows(loader(max_steps=100)) == rows(loader())


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_shares_of_all_processes_together_are_the_step_of_one(processes):
    alone = [loader(epochs=2).indices(step) for step in range(len(loader(epochs=2)))]
    shares = [list(rows(loader(epochs=2, rank=rank, processes=processes))) for rank in range(processes)]
    # A last step too small for all processes joins the one before it.
    for step, expected in enumerate(alone[:-2]):
        parts = [share[step] for share in shares]
        assert sorted(row for part in parts for row in part) == sorted(expected)
    assert len({len(share) for share in shares}) == 1, "every process makes the same number of steps"
    assert all(part for share in shares for part in share), "no process ever has nothing to do"
    everything = Counter(row for share in shares for part in share for row in part)
    assert sum(everything.values()) == 46 and set(everything.values()) == {2}


def test_the_processes_get_about_the_same_number_of_examples_and_tokens():
    sizes = {i: record_tokens(r) for i, r in enumerate(records(400))}
    shares = [loader(400, batch_size=40, rank=rank, processes=4) for rank in range(4)]
    totals = [sum(sizes[row] for step in range(10) for row in share.batch(step).row.tolist()) for share in shares]
    assert max(totals) - min(totals) <= 0.01 * sum(totals), "no process gets the longer ones every time"
    for step in range(10):
        parts = [share.batch(step).row.tolist() for share in shares]
        assert {len(part) for part in parts} == {10}
        tokens = [sum(sizes[row] for row in part) for part in parts]
        assert max(tokens) - min(tokens) <= max(sizes.values())


def test_a_collation_sees_the_whole_step_on_any_number_of_processes():
    def numbered(step):
        rows = [record["row"] for record in step]
        answers = Answers([record["completion"] for record in step])
        return Batch(row=torch.tensor(rows), next=torch.tensor(rows[1:] + rows[:1]), answer=answers)

    found = []
    for processes in (1, 2):
        shares = [
            StepLoader(records(8), numbered, batch_size=4, rank=rank, processes=processes).batch(0)
            for rank in range(processes)
        ]
        found.append({int(a): int(b) for share in shares for a, b in zip(share.row, share.next, strict=True)})
    assert found[0] == found[1], "the neighbour of an example does not depend on the processes"


def test_the_last_batch_is_never_smaller_than_the_number_of_processes():
    one, two = loader(9, batch_size=4), loader(9, batch_size=4, processes=2)
    assert (len(one), len(two)) == (3, 2)
    assert [len(two.indices(step)) for step in range(2)] == [4, 5], "the single one left joins the batch before it"


def test_fewer_records_than_processes_are_refused():
    with pytest.raises(ZooError, match="1 record cannot feed 2 processes"):
        loader(1, processes=2)
    with pytest.raises(ZooError, match="0 records cannot feed 1 process"):
        loader(0)


def test_the_epoch_counts_passes_over_the_data():
    found = loader(8, epochs=1.5)
    assert [found.epoch(step) for step in range(len(found) + 1)] == [0, 0.5, 1.0, 1.5]


def test_a_shared_prompt_of_a_record_counts_once():
    pair = {"chosen": Answer.of([1, 2, 3], [4]), "rejected": Answer.of([1, 2, 3], [5, 6]), "row": 1}
    assert record_tokens(pair) == 6
    group = {"completions": [Answer.of([1, 2], [3])] * 4}
    assert record_tokens(group) == 6


def test_a_text_that_begins_with_the_prompt_of_the_others_shares_it():
    pair = {"chosen": Answer.of([], [1, 2, 3, 4]), "rejected": Answer.of([1, 2, 3], [5, 6])}
    assert record_tokens(pair) == 6
    assert record_tokens({**pair, "other": Answer.of([], [1, 2, 3, 7])}) == 7
    assert record_tokens({**pair, "chosen": Answer.of([], [1, 9, 3, 4])}) == 9
    assert record_tokens({"completion": Answer.of([], [1, 2])}) == 2


# -- micro-batches -----------------------------------------------------------------------------------------------


def batch_of(answers):
    return Batch(row=torch.arange(len(answers)), completion=Answers(answers))


@pytest.mark.parametrize("budget", [1, 10, 37, 10**6])
def test_micro_batches_are_a_partition_within_the_budget(budget):
    batch = collate(records())
    parts = micro_batches(batch, budget)
    assert sorted(row for part in parts for row in part.row.tolist()) == list(range(23))
    for part in parts:
        tokens = sum(len(answer) for answer in part.completion)
        assert tokens <= budget or len(part) == 1
    if budget == 10**6:
        assert len(parts) == 1


def test_fields_that_no_gradient_keeps_take_no_room():
    answers = [Answer.of([1], [4] * 9) for _ in range(4)]
    batch = Batch(completion=Answers(answers), mismatched=Answers(answers))
    assert [len(part) for part in micro_batches(batch, 40)] == [2, 2]
    assert [len(part) for part in micro_batches(batch, 40, ["mismatched"])] == [4]


def test_examples_of_one_prompt_stand_side_by_side():
    prompts = [[1], [2], [3]]
    batch = batch_of([Answer.of(prompts[i % 3], [4] * (i + 1)) for i in range(9)])
    order = [int(answer.prompt[0]) for part in micro_batches(batch, 10**6) for answer in part.completion]
    assert len([i for i in range(1, 9) if order[i] != order[i - 1]]) == 2


def test_a_group_of_one_prompt_is_not_torn_where_it_fits_into_one_micro_batch():
    batch = batch_of([Answer.of([1] * 3, [9] * 3), *(Answer.of([2] * 4, [9] * 3) for _ in range(3))])
    parts = micro_batches(batch, 22)
    assert [part.row.tolist() for part in parts] == [[0], [1, 2, 3]]


def test_what_was_measured_over_the_step_goes_into_every_micro_batch():
    batch = collate(records())
    batch.measured = {"reference_point": torch.tensor(1.0)}
    assert all("reference_point" in part.measured for part in micro_batches(batch, 10))


def test_a_batch_without_answers_is_not_cut():
    batch = Batch(x=torch.zeros(5))
    assert micro_batches(batch, 1) == [batch]
