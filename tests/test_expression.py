"""The language of rewards: what it says, and where it points when it cannot be read."""

import pytest

from zoo.errors import ZooError
from zoo.options.expression import Expression, Mention


def value(text, **given):
    """The value of an expression when each name, or label, has the number given by position or by name."""
    expression = Expression(text)
    return expression.value({mention: given[mention.label.replace("-", "_")] for mention in expression.mentions})


def names(text):
    return [mention.label for mention in Expression(text).mentions]


@pytest.mark.parametrize("text", "runs/rm-1 rm-1 ./models/rm ../x/y-2 mine:function /abs/rm ~/rm 7b-rm a.b:c".split())
def test_a_path_a_run_and_a_function_are_one_name(text):
    assert names(text) == [text]
    assert names(f"2*({text}) - 0.5*{text}") == [text]


def test_operators_bind_as_in_arithmetic():
    assert value("a + b*c - 2", a=1.0, b=2.0, c=3.0) == 5.0
    assert value("(a + b)*c / 2", a=1.0, b=2.0, c=3.0) == 4.5
    assert value("-a - -b", a=1.0, b=3.0) == 2.0
    assert value(".5*a + 1e-1*b", a=2.0, b=10.0) == 2.0


def test_a_minus_behind_a_blank_is_a_minus_and_inside_a_name_it_is_not():
    assert names("rm-1 -rm-2") == ["rm-1", "rm-2"]
    assert value("rm-1 - rm-2", rm_1=5.0, rm_2=2.0) == 3.0
    assert names("rm-1-rm-2") == ["rm-1-rm-2"]


def test_ensembles_are_combined_by_mean_min_max_and_the_variance_of_a_population():
    given = {"a": 1.0, "b": 2.0, "c": 6.0}
    assert value("mean(a, b, c)", **given) == 3.0
    assert value("min(a, b, c)", **given) == 1.0
    assert value("max(a, b)", a=1.0, b=2.0) == 2.0
    # (4 + 1 + 9) / 3
    assert value("var(a, b, c)", **given) == pytest.approx(14 / 3)
    assert value("mean(a, b, c) - 0.5*var(a, b, c)", **given) == pytest.approx(3 - 7 / 3)
    assert value("max(-1, min(1, a))", a=5.0) == 1.0


def test_options_stand_in_brackets_and_make_another_reward():
    expression = Expression("length(target=60) + length(target=60) + length(target=-1.5, by=word)")
    assert expression.mentions == [
        Mention("length", (("target", 60),)), Mention("length", (("target", -1.5), ("by", "word")))
    ]  # fmt: skip


def test_what_is_missing_stays_missing_and_is_no_zero():
    assert value("a + b", a=1.0, b=None) is None
    assert value("min(a, b)", a=1.0, b=None) is None
    assert value("a / b", a=1.0, b=0.0) is None


@pytest.mark.parametrize(
    ("text", "message", "character"),
    [
        ("", "no reward is named", 1),
        ("0.5", "no reward is named", 1),
        ("a +", "cannot be read", 4),
        ("a b", "'b' has no meaning", 3),
        ("a * * b", "cannot be read", 5),
        ("a ** b", "is not allowed in a reward", 1),
        ("(a", "cannot be read", 1),
        ("a)(b", "this bracket closes none", 2),
        ("a) + b(c", "this bracket closes none", 2),
        ("a < b", "'<' has no meaning", 3),
        ("a[0]", "no reward", None),
        ("mean(a)", "mean takes two rewards or more", 1),
        ("2*avg(a, b)", "'avg' does not combine rewards", 3),
        ("length(target=a+b)", "target must be a number or a word", 15),
        ("a, b", "is not allowed in a reward", 1),
        ("a if b else c", "'i' has no meaning", 3),
    ],
)
def test_what_cannot_be_read_is_shown_with_its_place(text, message, character):
    if character is None:
        # Brackets of other sorts belong to names: the name is then the one that is not there.
        assert names(text) == [text]
        return
    with pytest.raises(ZooError) as caught:
        Expression(text)
    assert message in caught.value.message
    assert f"character {character}:" in caught.value.message


def test_nothing_is_run():
    for text in ("__import__('os').getcwd()", "(lambda: 1)()", "a.__class__(b)"):
        with pytest.raises(ZooError):
            Expression(text)


def test_a_text_that_is_deeply_nested_is_a_message():
    with pytest.raises(ZooError):
        Expression("(" * 5000 + "a" + ")" * 5000)
