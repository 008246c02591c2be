"""The reward and the evaluation `ifeval`: the benchmark's checkers, and what is said where they cannot run."""

import importlib.util
import json

import pytest
from tiny_runs import cli, write_rows

from zoo.errors import ZooError
from zoo.rewards import ifeval
from zoo.rewards.missing import Missing
from zoo.rewards.reward import Reward

WORKED = [
    # Verdicts that the instruction's own words give: strict, loose.
    ("punctuation:no_comma", {}, "Tea and milk.", True, True),
    ("punctuation:no_comma", {}, "Tea, milk.", False, False),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", True, True),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "one two three", False, False),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "Sure:\none two", False, True),
    ("keywords:existence", {"keywords": ["tea", "milk"]}, "Milk in the tea.", True, True),
    ("keywords:existence", {"keywords": ["tea", "milk"]}, "Only tea.", False, False),
    ("keywords:forbidden_words", {"forbidden_words": ["tea"]}, "A steamy cup.", True, True),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea, tea!", True, True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two", True, True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two\n* three", False, True),
    ("detectable_format:json_format", {}, '{"a": [1, 2]}', True, True),
    ("detectable_format:json_format", {}, "Here it is: {}", False, False),
    ("detectable_format:title", {}, "<<Tea>> is hot.", True, True),
    ("startend:quotation", {}, '"All of it."', True, True),
    ("startend:quotation", {}, '*"All of it."*', False, True),
    ("startend:end_checker", {"end_phrase": "That is all."}, "Hello. That is all.", True, True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say tea."}, "Say tea. Tea.", True, True),
]


def row(name, options):
    return {"prompt": "Say tea.", "instruction_id_list": [name], "kwargs": [options]}


@pytest.fixture
def checkers(monkeypatch):
    """The checkers, without the sentences of NLTK's data, which two of them read."""
    pytest.importorskip("langdetect")
    pytest.importorskip("lm_eval")
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find(ifeval.PUNKT)
    except LookupError:
        pytest.skip("NLTK's data punkt_tab is not here: python -m nltk.downloader punkt_tab")


@pytest.mark.parametrize(("name", "options", "text", "strict", "loose"), WORKED)
def test_an_instruction_is_followed_as_its_words_say(name, options, text, strict, loose, checkers):
    assert ifeval.followed(text, row(name, options)) == {"strict": [strict], "loose": [loose]}


def test_options_that_the_data_set_fills_with_none_are_no_options(checkers):
    filled = {"num_words": None, "relation": None, "keywords": None}
    assert ifeval.ifeval(["Tea and milk."], [row("punctuation:no_comma", filled)]) == [1.0]


def test_an_answer_gets_the_share_of_its_instructions_or_all_or_nothing(checkers):
    both = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    assert ifeval.ifeval(["No comma"], [both]) == [0.5]
    assert ifeval.ifeval(["No comma"], [both], level="prompt") == [0.0]
    assert ifeval.ifeval(['*"No comma"*'], [both], level="prompt", loose=True) == [1.0]
    assert ifeval.ifeval([""], [both]) == [0.0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "p"}, "has not the form"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "has not the form"),
        (row("punctuation:no_coma", {}), "no instruction 'punctuation:no_coma'. Did you mean 'punctuation:no_comma'"),
        (
            row("keywords:letter_frequency", {"letter": "#", "let_frequency": 4, "let_relation": "at least"}),
            "counts letters only, not '#'",
        ),
        (row("length_constraints:number_words", {"relation": "at least"}), "lack num_words"),
    ],
)
def test_a_row_that_leaves_something_open_has_no_reward_and_nothing_is_drawn_by_lot(record, reason, checkers):
    (value,) = ifeval.ifeval(["Tea."], [record])
    assert isinstance(value, Missing) and reason in value


def test_the_language_of_a_short_text_is_guessed_alike_each_time(checkers):
    texts = ["la mer on the table", "TEA FOR TWO", "der die das tea"] * 4
    records = [row("language:response_language", {"language": "en"})] * len(texts)
    assert len({tuple(ifeval.ifeval(texts, records)) for _ in range(5)}) == 1


def test_the_reward_runs_in_a_process_of_its_own(checkers):
    reward = Reward("ifeval(level=prompt)", {})
    record = row("punctuation:no_comma", {})
    assert reward.score(["Tea.", "Tea, milk."], [record, record]) == [1.0, 0.0]
    assert not reward.functions[next(iter(reward.functions))].in_process
    reward.close()


def test_the_evaluation_weighs_instructions_alike(checkers, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"relation": "at least", "num_words": 100}
    rows = [
        {"prompt": "say a", "instruction_id_list": ["length_constraints:number_words"], "kwargs": [words]},
        {"prompt": "say b", "instruction_id_list": ["detectable_format:json_format"] * 3, "kwargs": [{}, {}, {}]},
        {"prompt": "say c"},
    ]
    spelled = f"ifeval(data={write_rows(tmp_path / 'rows.jsonl', rows)}, max_new_tokens=4)"
    status, out, err = cli("eval", tiny_folder, "--eval", spelled, "--json")
    assert status == 0, err
    score = json.loads(out)[spelled]
    assert (score["value"], score["n"], score["details"]["missing"]) == (0.0, 2, 1)
    assert score["details"]["prompt_loose"] == score["details"]["instruction_loose"] == 0.0


def test_what_is_missing_is_told_with_what_to_type(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else found(name))
    with pytest.raises(ZooError, match="ifeval needs the package lm-eval, which is not installed") as error:
        Reward("ifeval", {})
    assert "pip install" in error.value.hint and "lm-eval" in error.value.hint


def test_missing_data_is_told_and_not_downloaded(monkeypatch):
    nltk = pytest.importorskip("nltk")
    for module in ("lm_eval", "langdetect", "immutabledict"):
        pytest.importorskip(module)

    def find(name):
        raise LookupError(name)

    monkeypatch.setattr(nltk.data, "find", find)
    monkeypatch.setattr(nltk, "download", lambda *names: pytest.fail("it downloads"))
    with pytest.raises(ZooError, match="punkt_tab") as error:
        ifeval.ready()
    assert error.value.hint == "Type: python -m nltk.downloader punkt_tab"
