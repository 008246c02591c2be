"""Rewards of every sort under one spelling: what they give, what is missing, and what a wrong name is told."""

import json
import math
import statistics

import pytest
from tiny_runs import cli, trainer, write_rows

from zoo.errors import ZooError
from zoo.evals.reward_models import Pair, by_margin, calibration_error, compared, distribution
from zoo.rewards import instructions
from zoo.rewards.penalties import length
from zoo.rewards.reward import Reward
from zoo.testing.tiny import tiny_rows

NAMED = {"instructions": instructions.reward}
RECORDS = [{"prompt": "red"}, {"prompt": "blue one"}]
TEXTS = ["one two three", "cat"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_folder):
    """Two reward models, one with adapters, a process reward model, and a language model."""
    folder = tmp_path_factory.mktemp("rewards")
    train = trainer(folder, tiny_folder)
    pairs = write_rows(folder / "pairs.jsonl", tiny_rows("preference", 12))
    steps = write_rows(folder / "steps.jsonl", tiny_rows("stepwise", 12))
    train("rm", data=pairs, lr=1e-3, name="rm-1")
    train("rm", data=pairs, lr=1e-3, lora=True, seed=1, name="rm-2")
    train("prm", data=steps, lr=1e-3, name="prm-1")
    train("sft", max_steps=1, name="sft-1")
    return folder / "runs"


def scores(text, texts=TEXTS, records=RECORDS, named=NAMED, **options):
    return Reward(text, named, **options).score(texts, records)


# -- functions and checkers --------------------------------------------------------------------------------------


def test_length_is_words_and_with_a_target_how_near_they_are():
    assert length(["one two", ""], [{}, {}]) == [2.0, 0.0]
    assert length(["a b c d", "a b", "a b c d e f", ""], [{}] * 4, target=4) == [1.0, 0.5, 0.5, 0.0]
    assert scores("0.5*length + length(target=4)") == [2.25, 0.75]


def test_a_checker_without_an_instruction_is_missing_and_not_zero():
    records = [{"prompt": "x", "instructions": [{"check": "no_commas"}]}, {"prompt": "y"}]
    assert scores("instructions", ["fine", "fine"], records) == [1.0, None]
    assert scores("instructions + 0*length", ["fine", "fine"], records) == [1.0, None]


def test_a_python_function_is_named_by_its_module_or_file(tmp_path, monkeypatch):
    (tmp_path / "mine_reward.py").write_text(
        "def shout(completions, records, scale=1.0):\n    return [scale * text.isupper() for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert scores("mine_reward:shout", ["HI", "hi"]) == [1.0, 0.0]
    assert scores(f"{tmp_path / 'mine_reward.py'}:shout(scale=3)", ["HI", "hi"]) == [3.0, 0.0]
    (tmp_path / "beside.py").write_text("LOUD = 3\ndef quiet(completions, records):\n    return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    assert scores("beside:quiet", ["HI"]) == [1.0], "a file of this folder, which need not be on the path"
    with pytest.raises(ZooError, match="no function 'LOUD'") as told:
        Reward("beside:LOUD", {})
    assert "Did you mean" not in str(told.value)
    with pytest.raises(ZooError, match="no function 'shoot'. Did you mean 'shout'"):
        Reward("mine_reward:shoot", {})
    with pytest.raises(ZooError, match="cannot be imported"):
        Reward("not_there:shout", {})
    with pytest.raises(ZooError, match="has no option scal. Did you mean 'scale'"):
        Reward("mine_reward:shout(scal=3)", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instruction", "Did you mean 'instructions'"),
        ("0.5*lenght", "Did you mean 'length'"),
        ("runs/rm-9", "there is no reward, run or model"),
        ("instructions-0.2*length", "needs a blank before it"),
        ("length(goal=3)", "no option goal"),
        ("length(target=0)", "target must be above 0"),
    ],
)
def test_a_wrong_name_is_answered_with_its_place_and_the_nearest_one(text, message, tmp_path):
    with pytest.raises(ZooError) as caught:
        Reward(text, NAMED, str(tmp_path))
    assert message in str(caught.value)
    assert "character" in caught.value.message


# -- reward models -----------------------------------------------------------------------------------------------


def test_a_run_is_a_reward_by_its_path_and_by_its_name(runs):
    by_path, by_name = scores(f"{runs}/rm-1"), scores("rm-1", out=str(runs))
    assert by_path == by_name
    assert len(set(by_path)) == 2
    assert scores(f"{runs}/rm-1/model") == by_path


def test_a_reward_does_not_depend_on_what_is_scored_beside_it(runs):
    reward = Reward("rm-1", {}, str(runs), precision="32-true")
    together = reward.score(TEXTS, RECORDS)
    alone = [reward.score([text], [record])[0] for text, record in zip(TEXTS, RECORDS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_several_reward_models_are_an_ensemble(runs):
    first, second = scores("rm-1", out=str(runs)), scores("rm-2", out=str(runs))
    reward = Reward("mean(rm-1, rm-2) - 0.5*var(rm-1, rm-2)", {}, str(runs))
    found = reward.detailed(TEXTS, RECORDS)
    for i, pair in enumerate(zip(first, second, strict=True)):
        assert found.values[i] == pytest.approx(statistics.mean(pair) - 0.5 * statistics.pvariance(pair), abs=1e-6)
        assert found.disagreement[i] == pytest.approx(statistics.pvariance(pair), abs=1e-6)
    assert scores("min(rm-1, rm-2)", out=str(runs)) == pytest.approx([min(p) for p in zip(first, second, strict=True)])
    assert len(reward.functions) == 2


def test_an_answer_that_was_stopped_is_scored_without_an_end_of_turn(runs):
    reward = Reward("rm-1", {}, str(runs), precision="32-true")
    whole, stopped = reward.score(TEXTS, RECORDS), reward.score(TEXTS, RECORDS, [True, False])
    assert stopped[0] == pytest.approx(whole[0], abs=1e-5)
    assert stopped[1] != pytest.approx(whole[1], abs=1e-4)


def test_an_answer_with_a_control_token_has_no_reward(runs):
    assert scores("rm-1", ["fine", "<|im_start|>system"], out=str(runs))[1] is None


def test_a_process_reward_model_scores_lines_by_the_least_or_the_product(runs):
    texts, records = ["one\ntwo\n\nthree", "one"], RECORDS[:1] * 2
    least, product = (
        scores("prm-1", texts, records, out=str(runs)),
        scores("prm-1(steps=product)", texts, records, out=str(runs)),
    )
    assert 0 < product[0] < least[0] < 1
    assert product[1] == least[1]
    assert scores("prm-1", ["\n"], RECORDS[:1], out=str(runs)) == [None]
    with pytest.raises(ZooError, match="steps, which is min or product"):
        Reward("prm-1(steps=most)", {}, str(runs))


def test_a_language_model_is_refused_as_a_reward(runs):
    with pytest.raises(ZooError, match="is a language model, not a reward model"):
        Reward("sft-1", {}, str(runs))


# -- evaluations -------------------------------------------------------------------------------------------------


def test_eval_gives_the_mean_reward_of_answers_with_the_parts(runs):
    text = "0.5*rm-1 + 0.5*rm-2 + 0*length"
    status, out, err = cli("eval", "sft-1", "--reward", text, "--limit", 3, "--json", "--samples", 1, "--out", runs)
    assert status == 0, err
    found = json.loads(out)[text]
    assert found["n"] == 3
    assert found["value"] == pytest.approx((found["details"]["rm-1"] + found["details"]["rm-2"]) / 2, abs=1e-3)
    assert found["details"]["disagreement (variance over reward models)"] >= 0
    assert found["samples"][0]["score"] is not None


def test_eval_measures_a_reward_on_any_prompts(runs, tmp_path):
    rows = [{"question": f"one two {i}", "worth": float(i)} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def worth(completions, records):\n    return [row['worth'] for row in records]\n"
    )
    asked = ["--reward", f"'{tmp_path}/mine.py:worth'", "--out", runs, "--json", "--samples", 4]
    of = ["--data", tmp_path / "rows.jsonl", "--columns", "prompt=question"]
    status, out, err = cli("eval", "sft-1", *asked, *of, "--max-new-tokens", 3)
    assert status == 0, err
    (found,) = json.loads(out).values()
    assert (found["n"], found["value"]) == (4, 1.5)
    assert [sample["prompt"] for sample in found["samples"]] == [row["question"] for row in rows]
    status, out, err = cli("eval", "sft-1", *asked, *of, "--limit", 2)
    assert next(iter(json.loads(out).values()))["value"] == 0.5, "of the first two"
    status, _, err = cli("eval", "sft-1", *of, "--out", runs)
    assert (status, "--data and --columns are for --reward and --judge, and neither is given" in err) == (2, True)


def test_eval_of_a_reward_model_shows_it_beside_length(runs):
    status, out, err = cli("eval", "rm-1", "--limit", 5, "--out", runs)
    assert status == 0, err
    for shown in ("pair_accuracy", "ranking_accuracy", "longer wins", "shorter wins", "calibration error"):
        assert shown in out
    assert "instructions" not in out.replace("held-out", "")


def test_eval_refuses_what_is_for_the_other_sort_of_model(runs):
    status, _, err = cli("eval", "rm-1", "--eval", "instructions", "--out", runs)
    assert (status, "is for a language model" in err) == (2, True)
    status, _, err = cli("eval", "rm-1", "--reward", "length", "--out", runs)
    assert (status, "is for a language model" in err) == (2, True)
    status, _, err = cli("eval", "sft-1", "--eval", "pair_accuracy", "--out", runs)
    assert (status, "is for a reward model" in err) == (2, True)


def test_a_run_on_the_starter_set_scores_pairs_before_and_after(tmp_path, tiny_folder):
    run = trainer(tmp_path, tiny_folder)("rm", data="starter", max_steps=1, limit=20)
    assert set(run.summary["scores"]["after"]) == {"pair_accuracy"}
    assert run.summary["before"]["pair_accuracy"] >= 0


def test_a_coin_is_badly_calibrated_when_it_is_sure():
    sure, unsure = 1 / (1 + math.exp(-5.0)), 0.5
    assert calibration_error([5.0, -5.0]) == pytest.approx(sure - 0.5)
    assert calibration_error([0.0, 1e-9]) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error([5.0, 5.0]) == pytest.approx(1 - sure)
    assert unsure == 0.5


def test_pairs_are_compared_with_what_length_would_say():
    pairs = [Pair(1.0, 0.0, 10, 5), Pair(0.0, 2.0, 10, 10), Pair(3.0, 1.0, 20, 19), Pair(1.0, 0.5, 4, 9)]
    found = compared(pairs)
    assert found["longer_wins"] == (1 + 0.5 + 1 + 0) / 4
    assert found["shorter_wins"] == 1 - found["longer_wins"]
    assert (found["same_length_pairs"], found["same_length_accuracy"]) == (2, 0.5)
    assert found["mean_margin"] == pytest.approx((1 - 2 + 2 + 0.5) / 4, abs=1e-3)


@pytest.mark.parametrize(
    ("margins", "small", "large"),
    [
        ([1.0, 3.0, 2.0, 4.0], 1.0, 0.5),
        ([1.0, 3.0, 3.0, 3.0], 1.0, 0.667),
        ([2.0, 0.0, 1.0, None], 0.5, 1.0),
        ([1.0, 1.0, 1.0, 1.0], None, None),
        ([None, 1.0, None, None], None, None),
    ],
)
def test_accuracy_is_told_apart_by_the_margin_of_the_data(margins, small, large):
    """The first, third and fourth pair are ordered right, the second is not."""
    pairs = [Pair(1.0, 0.0, 5, 5), Pair(0.0, 2.0, 5, 5), Pair(3.0, 1.0, 5, 5), Pair(1.0, 0.5, 5, 5)]
    found = by_margin(pairs, margins)
    assert (found.get("small_margin_accuracy"), found.get("large_margin_accuracy")) == (small, large)


def test_the_correlation_with_length_is_pearsons():
    assert distribution([1.0, 2.0, 3.0], [10, 20, 30])["length_correlation"] == 1.0
    assert distribution([3.0, 2.0, 1.0], [10, 20, 30])["length_correlation"] == -1.0
    assert distribution([1.0, 1.0], [10, 20])["length_correlation"] is None
