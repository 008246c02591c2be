"""The set of hashes that many rows leave: equal to a set of Python, in few runs, and in files where they are many."""

import numpy
import pytest

from zoo.data import seen
from zoo.data.seen import Seen


def hashes(count, most):
    return numpy.unique(numpy.random.default_rng(count).integers(0, most, count, dtype=numpy.uint64))


@pytest.mark.parametrize("most", [300, 2**64 - 1])
@pytest.mark.parametrize("at_once", [1, 16, 1 << 20])
def test_it_holds_what_a_set_holds(tmp_path, monkeypatch, most, at_once):
    monkeypatch.setattr(seen, "AT_ONCE", at_once)
    there, plain = Seen(tmp_path), set()
    for size in [0, 1, 7, 100, 3, 100, 50, 20, 1, 1, 1, 60]:
        asked = hashes(size, most)
        before = there.has(asked)
        assert before.tolist() == [number in plain for number in asked.tolist()]
        there.add(asked[~before])
        plain |= set(asked.tolist())
    assert sum(map(len, there.runs)) == len(plain)
    assert all((run[1:] > run[:-1]).all() for run in there.runs)


def test_its_runs_are_few_and_the_long_ones_lie_in_files_that_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "AT_ONCE", 64)
    there = Seen(tmp_path)
    for number in range(300):
        there.add(numpy.arange(number * 10, number * 10 + 10, dtype=numpy.uint64))
    assert len(there.runs) < 10 and there.has(numpy.array([2999, 3000], dtype=numpy.uint64)).tolist() == [True, False]
    assert [isinstance(run, numpy.memmap) for run in there.runs] == [len(run) > 64 for run in there.runs]
    assert not list(tmp_path.iterdir())
