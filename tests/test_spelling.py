"""`name(option=value, …)`: one spelling for engines, evaluations, models and parts of a source."""

from dataclasses import dataclass

import pytest

from zoo.errors import ZooError
from zoo.options.spelling import bind, parse, seeds, spell, split


@dataclass
class Options:
    rows: int = 10
    noise: float = 0.0
    split: str = "train"
    trained: bool = True
    limit: int | None = 5


def judged(subject, k: int = 1, data: str = "starter", **rest): ...


@pytest.mark.parametrize(
    "text, found",
    [
        ("local", ("local", {})),
        (" gold ( rows = 4000 , noise=0.25 ) ", ("gold", {"rows": "4000", "noise": "0.25"})),
        ("gold()", ("gold", {})),
        (
            "vllm(url=http://127.0.0.1:8000/v1, timeout=60)",
            ("vllm", {"url": "http://127.0.0.1:8000/v1", "timeout": "60"}),
        ),
        (
            "pass_at_k(k=8, data=world:arithmetic(rows=2, seed=3))",
            ("pass_at_k", {"k": "8", "data": "world:arithmetic(rows=2, seed=3)"}),
        ),
        (" vllm ( url = http://h:1/a?b=c , timeout=3 ) ", ("vllm", {"url": "http://h:1/a?b=c", "timeout": "3"})),
        ("world:gold(seed=3)", ("world:gold", {"seed": "3"})),
    ],
)
def test_a_text_is_a_name_and_its_options(text, found):
    assert parse(text) == found
    assert parse(spell(*found)) == found


@pytest.mark.parametrize(
    "text", ["a(b", "a(b)", "a(b=)", "a(=1)", "a(b=1, b=2)", "a(b=1))", "a(b=(1)", "", "a b", "a)("]
)
def test_what_cannot_be_read_is_told_with_an_example(text):
    with pytest.raises(ZooError, match="cannot be read") as told:
        parse(text, "evaluation", "gold(samples=512)")
    assert "The evaluation" in told.value.message and "gold(samples=512)" in told.value.hint


def test_commas_inside_of_brackets_do_not_part():
    assert split("gold, harm(samples=2,seed=1) ,,kl") == ["gold", "harm(samples=2,seed=1)", "kl"]
    assert split("a(b,c") is None and split("a)b(") is None and split("") == []


def test_options_get_the_types_of_the_signature():
    given = {"rows": "4000", "noise": "2.5e-1", "split": "heldout", "trained": "false", "limit": "none"}
    bound = bind(Options, given, "part 'gold'", fixed=0)
    assert bound == {"rows": 4000, "noise": 0.25, "split": "heldout", "trained": False, "limit": None}
    assert type(bound["rows"]) is int
    assert bind(judged, {"k": "8"}, "evaluation 'judged'") == {"k": 8}


def test_a_slip_names_what_was_meant():
    with pytest.raises(ZooError, match=r"The part 'gold' has no option 'nosie'. Did you mean 'noise'\?"):
        bind(Options, {"nosie": "1"}, "part 'gold'", fixed=0)
    with pytest.raises(ZooError, match="The part 'gold', option rows = many: .*integer"):
        bind(Options, {"rows": "many"}, "part 'gold'", fixed=0)
    with pytest.raises(ZooError, match="has no option 'subject'"):
        bind(judged, {"subject": "1"}, "evaluation 'judged'")


@pytest.mark.parametrize(
    ("text", "meant"),
    [("3", [0, 1, 2]), (2, [0, 1]), ("0,5,7", [0, 5, 7]), ("100,", [100]), ("0,", [0]), ("20-22", [20, 21, 22]),
     ("7, 0-2", [7, 0, 1, 2]), ("0-99", list(range(100)))],
)  # fmt: skip
def test_a_number_counts_seeds_and_a_comma_or_a_dash_names_them(text, meant):
    assert seeds(text) == meant


def test_a_number_that_may_be_one_seed_or_as_many_is_refused_with_both_spellings():
    assert seeds("20") == list(range(20))
    with pytest.raises(ZooError, match="--seeds 100 may mean 100 seeds, or the seed 100") as found:
        seeds("100")
    one, many = "100,", "0-99"
    assert f"--seeds {one} " in found.value.hint and f"--seeds {many} " in found.value.hint
    assert seeds(one) == [100] and len(seeds(many)) == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [("two", "is neither a number of seeds"), ("-1", "is neither a number"), ("1.5,", "is neither a number"),
     ("0", "leaves no seed"), ("", "leaves no seed"), (",", "leaves no seed"), ("9-1", "leaves no seed"),
     ("1,1", "a seed twice"), ("0-3,2", "a seed twice")],
)  # fmt: skip
def test_what_names_no_seeds_is_refused(text, message):
    with pytest.raises(ZooError, match=message):
        seeds(text)
