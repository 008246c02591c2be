"""Records that are made when they are read, and the order of a run, which does not fill the memory."""

import numpy
import pytest
import torch

from zoo.data.loader import Order
from zoo.training.online.rollouts import RecordsByRow
from zoo.values.records import ChosenRecords, LazyRecords, ListedRecords, MappedRecords, Without

LISTED = ListedRecords({"row": n, "label": n % 2 == 0, "record": {"text": str(n)}} for n in range(20))


class Counted(LazyRecords):
    """Ten records, which counts the readings."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 10

    def __getitem__(self, index):
        places = range(10)[index]
        if isinstance(places, range):
            return ChosenRecords(self, places)
        self.read += 1
        return {"row": places, "label": places > 6}


def test_slices_and_maps_read_nothing_until_they_are_read():
    records = Counted()
    mapped = records[2:].map(lambda record: {**record, "row": record["row"] * 10})
    assert isinstance(mapped, MappedRecords) and len(mapped) == 8 and records.read == 0
    assert mapped[1:3][-1]["row"] == 40 and records.read == 1
    assert [record["row"] for record in mapped] == list(range(20, 100, 10))
    assert mapped.column("label").tolist() == [False] * 5 + [True] * 3


def test_a_column_is_added_without_reading_a_record():
    counted = Counted()
    weights = numpy.arange(10) / 4
    weighted = counted.with_column("weight", weights)
    assert weighted.column("weight").tolist() == weights.tolist() and len(weighted[3:]) == 7 and counted.read == 0
    assert weighted[3:][1] == {"row": 4, "label": False, "weight": 1.0} and counted.read == 1
    assert list(weighted) == [{**record, "weight": n / 4} for n, record in enumerate(Counted())]
    with pytest.raises(ValueError, match="10 records cannot have 9 values of weight"):
        counted.with_column("weight", weights[1:])


def test_a_filter_keeps_positions_and_no_records():
    kept = Counted().filter(lambda record: record["label"])
    assert [record["row"] for record in kept] == [7, 8, 9] and kept.column("row").tolist() == [7, 8, 9]
    assert kept[-1]["row"] == 9
    with pytest.raises(IndexError):
        kept[3]


@pytest.mark.parametrize("left_out", [[], [0], [19], [0, 3, 4, 19], list(range(20))])
def test_all_positions_but_a_few(left_out):
    places = Without(20, numpy.array(left_out, dtype=numpy.int64))
    expected = [place for place in range(20) if place not in left_out]
    assert list(places) == list(places[:]) == numpy.asarray(places).tolist() == expected
    assert len(places) == len(expected)
    chosen = ChosenRecords(LISTED, places)
    assert chosen.column("row").tolist() == [record["row"] for record in chosen[:]] == expected


def test_records_pass_as_they_are_and_other_iterables_are_listed():
    records = Counted()
    assert ListedRecords.of(records) is records
    assert len(ListedRecords.of({"row": n} for n in range(3))) == 3


@pytest.mark.parametrize("seed", [0, 3])
def test_the_order_of_a_run_is_that_of_randperm_also_from_a_file(seed, monkeypatch):
    plain = [torch.randperm(1000, generator=torch.Generator().manual_seed(seed * 1_000_003 + n)) for n in range(2)]
    expected = torch.cat(plain).tolist()
    for in_memory in (4 << 20, 100):
        monkeypatch.setattr("zoo.paths.IN_MEMORY", in_memory)
        order = Order(1000, seed, True)
        assert [order.at(n) for n in range(2000)] == expected
        assert isinstance(order._epochs[1], numpy.memmap) == (in_memory == 100)
    assert [Order(1000, seed, False).at(n) for n in (0, 999, 1000)] == [0, 999, 0]


def test_a_reward_finds_the_rows_of_the_rollout_and_of_other_prompts():
    records = RecordsByRow(LISTED)
    records.begin([LISTED[4]])
    assert dict(records) == {4: {"text": "4"}}
    assert records[7] == {"text": "7"} and set(records) == {4, 7}
    with pytest.raises(KeyError):
        records[99]
