"""Every checker accepts what it should and refuses what it should, and mistakes in an instruction are "
"explained."""

from __future__ import annotations

import pytest

from zoo.errors import ZooError
from zoo.rewards.instructions import CHECKERS, followed, follows, reward
from zoo.rewards.prose import sentences

CASES: list[tuple[dict, list[str], list[str]]] = [
    (
        {"check": "exactly_sentences", "n": 1},
        ["Tea is hot.", "tea is hot", "Dr. Smith paid 3.5 euros, e.g. for tea.",
         "Well... maybe not.", "Why?!"],
        ["Tea is hot. Drink it.", "Tea!\nCoffee!", "Really? Yes.", "Apples\nPears"],
    ),
    (
        {"check": "exactly_sentences", "n": 2},
        ["He said “Stop!” to her. She ran.", "At 6 p.m. we eat. Then we sleep.",
         "one. two.", "1. Mix it. Bake it."],
        ["One sentence.", "One. Two. Three."],
    ),
    ({"check": "max_sentences", "n": 2}, ["One.", "One. Two."], ["One. Two. Three.", "a\nb\nc"]),
    ({"check": "max_words", "n": 3}, ["One two three.", "well-known 3.5 - x"], ["one two three four"]),
    ({"check": "min_words", "n": 3}, ["one two three"], ["one two", "one - two ..."]),
    ({"check": "words_between", "low": 2, "high": 3}, ["a b", "a b c"], ["a", "a b c d"]),
    ({"check": "no_commas"}, ["No comma; none."], ["Well, one.", "1,000"]),
    (
        {"check": "include_words", "words": ["tea", "hot"]},
        ["Hot tea.", "TEA is hot!", '"tea" (hot)'],
        ["tea is cold", "steam and hotness", "hot teas"],
    ),
    ({"check": "avoid_words", "words": ["the"]}, ["Other theories."], ["The end.", "by the sea", "(the)"]),
    ({"check": "all_lowercase"}, ["all low, 3 of them."], ["Not low", "i like Tea", "123"]),
    ({"check": "all_uppercase"}, ["ALL HIGH, 3 OF THEM."], ["NOT QUITe", "123"]),
    (
        {"check": "numbered_list", "n": 2},
        ["1. a\n2. b", "Here:\n 1) a\n 2) b\nDone."],
        ["1. a", "1. a\n2. b\n3. c", "2. a\n1. b", "1. a 2. b", "- a\n- b", "1.\n2."],
    ),
    (
        {"check": "dash_list", "n": 2},
        ["- a\n- b", "Here:\n  – a\n  – b"],
        ["- a", "- a\n- b\n- c", "* a\n* b", "-a\n-b", "- a - b"],
    ),
    (
        {"check": "start_with", "phrase": "Of course"},
        ["Of course, yes.", "  of course: tea", "OF COURSE NOT"],
        ["Certainly. Of course.", "Of course", "Of course!", "Of courses there are many"],
    ),
    (
        {"check": "end_with", "phrase": "Good luck."},
        ["Try it. Good luck.", "Try it. good luck!", '"Try it. Good luck."'],
        ["Good luck. Try it.", "Good luck.", "Try it. Good lucky.", "Try notgood luck"],
    ),
    (
        {"check": "json_object", "keys": ["a", "b"]},
        ['{"a": "x", "b": 2}', '```json\n{"b": "x", "a": ["y"]}\n```', ' {"a": "x", "b": {"c": 1}} '],
        [
            '{"a": "x"}', '{"a": "x", "b": 1, "c": 1}', 'Here: {"a": "x", "b": 1}', '["a", "b"]',
            "{'a': 1, 'b': 2}", '{"a": "", "b": 1}',
            '{"a": null, "b": 1}', '{"a": "x", "b": 1', "[" * 100_000,
        ],
    ),
    (
        {"check": "title_in_brackets"},
        ["<<Tea>>\nTea is hot.", "Tea is hot. <<A Title>>"],
        ["<Tea>\nTea is hot.", "<<Tea>>", "<<>>\nTea", "<<Tea\nis>> hot", "Tea is hot."],
    ),
    (
        {"check": "exactly_paragraphs", "n": 2},
        ["One.\n\nTwo.", "One.\nStill one.\n \n\nTwo."],
        ["One.\nTwo.", "One.\n\nTwo.\n\nThree.", "One.\n\n---"],
    ),
    ({"check": "ends_with_question"}, ["Tea?", 'He asked: "Tea?"', "Tea? \n"], ["Tea? Yes.", "Tea?!"]),
    ({"check": "quoted"}, ['"Tea is."', " “Tea is.” "], ['"Tea" is.', '"a" and "b"', "'Tea'", '"Tea']),
    ({"check": "has_numbers", "n": 2}, ["2 or 3.5", "10:30 to 11"], ["3.5", "two or three", "1. a\n2. b"]),
    ({"check": "no_digits"}, ["two or three"], ["2 or three", "x²"]),
    ({"check": "exclamation_marks", "n": 1}, ["Go!", "Stop! Please."], ["Go.", "Go!!", "Go! Go!"]),
    ({"check": "exclamation_marks", "n": 0}, ["Go."], ["Go!"]),
]


def name_of(part):
    return part.get("check") if isinstance(part, dict) else ""


@pytest.mark.parametrize(("instruction", "good", "bad"), CASES, ids=name_of)
def test_a_checker_accepts_and_refuses(instruction, good, bad):
    assert [text for text in good if not follows(text, instruction)] == []
    assert [text for text in bad if follows(text, instruction)] == []


def test_every_checker_has_cases_and_a_description():
    assert {instruction["check"] for instruction, _, _ in CASES} == set(CHECKERS)
    assert len(CHECKERS) == 22
    for name, checker in CHECKERS.items():
        assert checker.name == name and checker.description.endswith("."), name


@pytest.mark.parametrize("empty", ["", "   \n\t", "...", "?!", '""', "- \n- "])
def test_an_empty_answer_follows_nothing(empty):
    assert not any(follows(empty, instruction) for instruction, _, _ in CASES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Lee came. Mr. Fox left.", ["Dr. Lee came.", "Mr. Fox left."]),
        ("It costs 3.5 euros. Buy it.", ["It costs 3.5 euros.", "Buy it."]),
        ("Fruit, e.g. apples. Eat it.", ["Fruit, e.g. apples.", "Eat it."]),
        ("Tea, cake, etc. are here. Come!", ["Tea, cake, etc. are here.", "Come!"]),
        ("We have tea, cake, etc. Come!", ["We have tea, cake, etc.", "Come!"]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("Wait… Then go.", ["Wait…", "Then go."]),
        ('"Stop!" he said. She ran.', ['"Stop!" he said.', "She ran."]),
        ("I said no. Then I left.", ["I said no.", "Then I left."]),
        ("See No. 5 there. Good.", ["See No. 5 there.", "Good."]),
        ("J. R. Smith sang. So did I. Fine.", ["J. R. Smith sang.", "So did I.", "Fine."]),
        ("By J.K. Rowling. It sold well.", ["By J.K. Rowling.", "It sold well."]),
        ("He lives in the U.S. She does not.", ["He lives in the U.S.", "She does not."]),
        ("all low. no capitals here.", ["all low.", "no capitals here."]),
        ("1. Mix it. Bake it.\n2. Eat", ["1. Mix it.", "Bake it.", "2. Eat"]),
        ("(It rained.) We stayed.", ["(It rained.)", "We stayed."]),
    ],
)
def test_sentences_are_split_where_a_reader_would(text, expected):
    assert sentences(text) == expected


def test_verdicts_come_in_the_order_of_the_instructions():
    asked = [{"check": "no_commas"}, {"check": "max_words", "n": 2}, {"check": "all_lowercase"}]
    assert followed("one, two", asked) == [False, True, True]


def test_the_reward_is_the_share_followed_and_missing_where_nothing_is_asked():
    asked = [{"check": "no_commas"}, {"check": "max_words", "n": 2}]
    records = [*[{"instructions": asked}] * 3, {}, {"instructions": []}]
    assert reward(["one two", "one two three", "", "x", "x"], records) == [1.0, 0.5, 0.0, None, None]


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ({"check": "max_word", "n": 3}, "Did you mean 'max_words'?"),
        ({"check": "max_words"}, "'n' is missing"),
        ({"check": "max_words", "m": 3, "n": 3}, "'m' is unknown"),
        ({"check": "max_words", "n": "3"}, "'n' must be a whole number, not '3'"),
        ({"check": "max_words", "n": True}, "'n' must be a whole number"),
        ({"check": "max_words", "n": -1}, "'n' must be a whole number"),
        ({"check": "include_words", "words": "tea"}, "'words' must be a list of words"),
        ({"check": "include_words", "words": []}, "'words' must be a list of words"),
        ({"check": "start_with", "phrase": ""}, "'phrase' must be a text"),
        ({"n": 3}, "the key 'check'"),
        ("max_words", "the key 'check'"),
    ],
)
def test_a_wrong_instruction_is_explained(instruction, message):
    with pytest.raises(ZooError, match="(?s).") as raised:
        follows("some text", instruction)
    assert message in str(raised.value) and raised.value.hint


def test_a_wrong_instruction_names_its_row():
    with pytest.raises(ZooError, match=r"^row 7: .*max_wrds"):
        reward(["x"], [{"row": 7, "instructions": [{"check": "max_wrds", "n": 3}]}])
