"""The bundled rewards: what is right, what is wrong, and what has no reward at all."""

import importlib.util

import pytest

from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.rewards import penalties
from zoo.rewards.plugin import bundled
from zoo.rewards.readings import number_of
from zoo.rewards.references import boxed, tagged
from zoo.rewards.reward import Reward


def score(text, *cases, record=None, **facts):
    """Rewards of (answer, reference) pairs."""
    reward = Reward(text, {})
    records = [record or {"prompt": "x", "answer": reference} for _, reference in cases]
    try:
        return reward.score([answer for answer, _ in cases], records, **facts)
    finally:
        reward.close()


# -- reference answers -------------------------------------------------------------------------------------------


def test_exact_ignores_white_space_and_nothing_else():
    cases = [(" Paris \n", "Paris"), ("paris", "Paris"), ("Paris.", "Paris"), ("New\n York", "New York"), ("", "Paris")]
    assert score("exact", *cases) == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert score("exact(ignore_case=yes)", *cases) == [1.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("column", ["answer", "target", "ground_truth", "solution", "reference"])
def test_a_reference_stands_in_any_of_the_usual_columns(column):
    assert score("exact", ("4", ""), record={"prompt": "x", column: "4"}) == [1.0]


def test_a_reference_may_be_a_number_one_of_several_or_within_an_object():
    assert score("exact", ("4", 4), ("b", ["a", "b"]), ("c", ["a", "b"])) == [1.0, 1.0, 0.0]
    assert score("exact", ("4", ""), record={"reward_model": {"ground_truth": "4"}}) == [1.0]
    assert score("exact(field=extra.right)", ("4", ""), record={"answer": "5", "extra": {"right": "4"}}) == [1.0]


def test_a_row_without_a_reference_has_no_reward_and_says_what_it_has():
    found = Reward("exact", {}).detailed(["a", "b"], [{"prompt": "x", "answers": "a", "row": 3}, {"answer": "b"}])
    assert found.values == [None, 1.0]
    (reason,) = found.failures
    assert reason.startswith("exact: no reference answer: none of the columns answer, target,")
    assert reason.endswith("(the row has answers, prompt)")


def test_data_without_any_reference_is_an_error_and_not_a_run_without_rewards():
    reward = Reward("exact", {})
    with pytest.raises(ZooError, match="'exact' failed on all of 3 batches in a row: no reference answer"):
        for _ in range(3):
            reward.score(["a"], [{"prompt": "x"}])


@pytest.mark.parametrize("name", ["numeric", "maths"])
def test_a_policy_that_hedges_has_no_rewards_and_its_run_goes_on(name):
    if name == "maths":
        pytest.importorskip("math_verify")
    reward = Reward(name, {}, patience=1)
    for _ in range(3):
        found = reward.detailed(["3 or 5", "between 3 and 5"], [{"answer": "5"}] * 2)
    assert found.values == [None, None]
    assert found.failures == {f"{name}: the answer is a range, a choice or a difference": 2}
    with pytest.raises(ZooError, match="failed on the whole batch: the reference answer is a range") as caught:
        Reward("numeric", {}, patience=1).score(["5"], [{"answer": "3 or 5"}])
    assert "docs/rewards.md" in caught.value.hint


def test_a_tag_says_where_the_answer_stands():
    text = "<think>4</think> <answer>3</answer> no: <answer> 4 </answer>"
    assert score("exact(tag=answer)", (text, "4"), ("4", "4"), ("<answer>4", "4")) == [1.0, 0.0, 0.0]
    assert (tagged(text, "think"), tagged("a </b> <b>c", "b"), tagged(" x ", "")) == ("4", None, "x")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("There are 7 days, so 14.", 14),
        ("#### 72", 72),
        ("16 - 9 = 7\n#### 7 eggs of 16", 7),
        (r"so \boxed{-3} and not 4", -3),
        (r"\boxed{\frac{1}{2}} and then \boxed{ 12{,}500 }", 12500),
        (r"\boxed{\frac{1}{2}} or \boxed{ 12{,}500 }", None),
        ("9" * 400, None),
        ("It costs $1,250.50.", 1250.5),
        ("1,2,3", None),
        ("10-5", None),
        ("it is -5", -5),
        ("it is \u22125", -5),
        ("3 or so, then .5", 0.5),
        ("3 and .5", None),
        ("1.5e3", 1500),
        ("50%", 50),
        ("no number", None),
        ("1e999", None),
        ("9" * 5000, None),
    ],
)
def test_the_number_of_a_text(text, number):
    assert number_of(text) == number


def test_numeric_compares_numbers_and_not_how_they_are_written():
    cases = [("So 1,000 in all.", "#### 1000"), ("3.0", "3"), ("3.01", "3"), ("none", "3"), ("x", "no number")]
    assert score("numeric", *cases) == [1.0, 1.0, 0.0, 0.0, None]
    assert score("numeric(tolerance=0.05)", *cases[2:3]) == [1.0]
    assert score("numeric", (f"{0.1 + 0.2}", "0.3")) == [1.0]


def test_what_stands_in_the_last_box_with_its_braces():
    assert boxed(r"\boxed{1} then \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1") is None
    assert boxed("1") is None


needs_maths = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is an extra")
needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is an extra")


@needs_maths
def test_maths_knows_what_is_equal():
    cases = [
        (r"It is $\frac{6}{8}$.", "3/4"),
        (r"\boxed{0.75}", r"\frac{3}{4}"),
        ("$(x+1)^2$", "x^2+2x+1"),
        ("$(x+1)^2$", "x^2+1"),
        ("so it is 42", "a long way #### 42"),
        (r"\boxed{x} and \boxed{y}", "y"),
        ("I do not know", "42"),
    ]
    assert score("maths", *cases) == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "module", "line"),
    [
        ("maths", "math_verify", 'pip install "math-verify>=0.8"'),
        ("reasoning_gym", "reasoning_gym", 'pip install "reasoning-gym>=0.1.20"'),
    ],
)
def test_a_package_that_is_not_there_is_an_error_with_the_line_to_type(text, module, line, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else found(name, *rest))
    with pytest.raises(ZooError, match="which is not installed") as caught:
        Reward(text, {})
    assert line in caught.value.hint


# -- forms -------------------------------------------------------------------------------------------------------


def test_a_regular_expression_is_found_or_is_the_whole():
    cases = [("about 3 kg", ""), ("3", ""), ("three", "")]
    assert score(r"regex(pattern='\d( kg|g)?')", *cases) == [1.0, 1.0, 0.0]
    assert score(r"""regex(pattern="\d( kg|g)?", whole=yes)""", *cases) == [0.0, 1.0, 0.0]


def test_a_regular_expression_cannot_hang():
    reward = Reward("regex(pattern='(a+)+$')", {}, timeout=1.0)
    found = reward.detailed(["aaa", "a" * 60 + "b", "b"], [{}] * 3)
    assert found.values == [1.0, None, 0.0]
    assert "no reward within" in next(iter(found.failures))
    reward.close()


GOOD = "<think>hm</think>\n<answer>4</answer>"


@pytest.mark.parametrize(
    ("text", "whole", "partial"),
    [
        (GOOD, 1, 1),
        (f"  {GOOD}\n", 1, 1),
        (f"{GOOD} bye", 0, 1),
        ("<answer>4</answer><think>hm</think>", 0, 1),
        ("<think> </think><answer>4</answer>", 0, 1),
        ("<think>hm</think><answer>4", 0, 0.75),
        (GOOD + GOOD, 0, 0),
        ("4", 0, 0),
    ],
)
def test_the_form_of_an_answer(text, whole, partial):
    assert score("format", (text, "")) == [whole]
    assert score("format(partial=yes)", (text, "")) == [partial]


def test_the_parts_of_a_form_have_other_names_and_may_begin_in_the_prompt():
    assert score("format(tags='plan, code')", ("<plan>a</plan><code>b</code>", ""), (GOOD, "")) == [1.0, 0.0]
    assert score("format(started=yes)", ("hm</think><answer>4</answer>", "")) == [1.0]


# -- length and repetition ---------------------------------------------------------------------------------------


def test_an_overlong_answer_is_punished_softly():
    """Equation 13 of arXiv:2503.14476 with a longest answer of 100 tokens, of which 20 are the buffer."""
    tokens = [1, 80, 81, 90, 100, 120]
    expected = [0.0, 0.0, -0.05, -0.5, -1.0, -1.0]
    for text in ("overlong(max_new_tokens=100, buffer=20)", "overlong(max_new_tokens=100)"):
        assert score(text, *[("x", "")] * 6, tokens=tokens) == pytest.approx(expected)
    assert Reward("overlong(buffer=20)", {}, max_new_tokens=100).score(["x"], [{}], tokens=[90]) == [-0.5]
    assert score("overlong(max_new_tokens=100)", ("x", "")) == [None]


def test_repetition_is_the_share_of_word_groups_that_were_there_before():
    texts = ["one two three four", "a b c a b c", "no no no no no", "", "two words"]
    assert penalties.repetition(texts, [{}] * 5) == [0, 3 / 4 - 1, 1 / 3 - 1, 0, 0]
    assert score("repetition(n=1)", ("The the cat", "")) == [pytest.approx(2 / 3 - 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("regex", "needs the option pattern"),
        ("regex(pattern='(')", "not a regular expression"),
        ("regex(pattern='a", "quotation mark is not closed"),
        ("numeric(tolerance=-1)", "must not be below 0"),
        ("numeric(tolerance=small)", "tolerance must be a number"),
        ("numeric(tolerence=1)", "Did you mean 'tolerance'"),
        ("overlong", "needs the option max_new_tokens"),
        ("overlong(max_new_tokens=10, buffer=20)", "buffer must be 1 to 10"),
        ("repetition(n=1.5)", "n must be a whole number"),
        ("repetition(n=0)", "n must be 1 word or more"),
        ("exact(ignore_case=perhaps)", "must be yes or no"),
        ("format(tags='<a>')", "tags must be names"),
        ("code(timeout=0)", "timeout must be above 0"),
        ("numerik", "Did you mean 'numeric'"),
        ("regexp(pattern='a')", "Did you mean 'regex'"),
    ],
)
def test_a_wrong_option_is_pointed_at_before_anything_runs(text, message):
    with pytest.raises(ZooError, match=message) as caught:
        Reward(text, {})
    assert "Reward, character" in caught.value.message


def test_every_bundled_reward_says_in_a_line_what_it_gives():
    for name, function in bundled().items():
        assert function.__doc__, name
        assert function.__doc__.splitlines()[0].strip()


# -- reasoning-gym -----------------------------------------------------------------------------------------------


@needs_gym
def test_a_task_of_reasoning_gym_is_a_source_with_its_own_reward():
    from zoo.data.load import load
    from zoo.rewards import reasoning

    sources = {"reasoning-gym": reasoning.questions}
    data = load("reasoning-gym:chain_sum+leg_counting", "prompt", Reading(limit=4, named_sources=sources))
    assert [record["task"] for record in data.records] == ["chain_sum", "leg_counting"] * 2
    reward = Reward("reasoning_gym", {})
    right = [f"<think>1</think><answer>{record['answer']}</answer>" for record in data.records]
    assert reward.score(right, data.records) == [1.0] * 4
    assert reward.score([record["answer"] for record in data.records], data.records) == [1.0] * 4
    assert max(reward.score(["no idea"] * 4, data.records)) < 0.1
    assert reward.detailed(["1"], [{"prompt": "x"}]).values == [None]
    reward.close()
    heldout = load("reasoning-gym:chain_sum@heldout", "prompt", Reading(named_sources=sources))
    assert len(heldout.records) == reasoning.ROWS["heldout"]
    assert heldout.records[0]["prompt"] != data.records[0]["prompt"]


@needs_gym
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reasoning-gym:chain_sun", "no task 'chain_sun'. Did you mean 'chain_sum'"),
        ("reasoning-gym", "many tasks: name one"),
        ("reasoning-gym:chain_sum@test", "has no split 'test'"),
    ],
)
def test_a_task_that_is_not_there_is_an_error(name, message):
    from zoo.data.load import load
    from zoo.rewards import reasoning

    with pytest.raises(ZooError, match=message):
        load(name, "prompt", Reading(named_sources={"reasoning-gym": reasoning.questions}))
