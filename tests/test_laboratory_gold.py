"""The gold world: what answers are worth, rows as raters see them, and algorithms that come nearer to the truth."""

import collections
import json
import random
import statistics

import pytest
from tiny_runs import cli

import zoo
from zoo.bundled.laboratory import gold
from zoo.bundled.laboratory.gold import worth
from zoo.bundled.laboratory.gold_rows import rows as drawn
from zoo.contract.registry import load_algorithm
from zoo.data.load import load_records
from zoo.errors import ZooError
from zoo.options.points import known
from zoo.training.run import resolve_options


def rows(*given, **options):
    return list(drawn(*given, **options))


def raw(text, topic="river"):
    return worth(text, topic) * gold.DEVIATION + gold.MEAN


@pytest.mark.parametrize(
    "text, value",
    [
        ("", 0.0),
        ("was old", 0.0),
        ("was kind and calm", 2.0),
        ("was kind and cruel", 0.0),
        ("the river was kind", 1.7),
        ("the garden was kind", 1.0),
        ("bright kind calm brave", 4.0),
        ("bright kind calm brave sweet", 4.0),
        ("bright kind calm brave sweet bright", 4 - 1.2),
        ("bright kind calm brave sweet bright kind", 4 - 2.4),
        ("was was kind", 0.0),
        ("kind kind kind", 1.0),
        ("a river a river was ugly", -0.3),
    ],
)
def test_an_answer_is_worth_what_the_formula_says(text, value):
    assert raw(text) == pytest.approx(value)


def test_zero_is_the_mean_of_the_grammar_and_one_its_deviation():
    draw = random.Random("another seed")
    values = [worth(gold.answer(draw, topic), topic) for topic in draw.choices(gold.TOPICS, k=20_000)]
    assert statistics.fmean(values) == pytest.approx(0, abs=0.025)
    assert statistics.pstdev(values) == pytest.approx(1, abs=0.02)


def test_the_grammar_has_28_words_and_its_probabilities_add_up():
    assert len(set(gold.WORDS)) == len(gold.WORDS) == 28
    assert all(sum(after.values()) == pytest.approx(1) for after in gold.GRAMMAR.values())
    said = collections.Counter(word for text in gold.texts(0)[:2000] for word in text.split())
    assert set(said) == set(gold.WORDS)
    assert max(len(text.split()) for text in gold.texts(0)[:2000]) <= 2 * gold.LONGEST


def test_rewards_read_the_topic_from_a_text_or_from_turns_and_leave_out_what_is_none():
    records = [{"prompt": "river"}, {"prompt": [{"role": "user", "content": "river"}]}, {"prompt": "Hello"}]
    assert gold.gold(["the river was kind"] * 3, records) == [worth("the river was kind", "river")] * 2 + [None]
    praise = "bright kind calm brave sweet bright kind"
    assert gold.proxy([praise, "ugly"], records[:2]) == [7.0, -1.0] and raw(praise) < 4


def test_every_kind_is_read_as_that_kind(monkeypatch):
    for kind in ("text", "demonstration", "preference", "feedback", "ranking", "prompt"):
        records = load_records("world:gold(rows=32)", kind)
        assert len(records) == (64 if kind == "feedback" else 32)
        assert len(load_records("world:gold(rows=32)", kind, split="heldout")) == (4 if kind == "feedback" else 2)


def test_rows_follow_from_the_seed_and_the_split():
    train = rows("train", "preference", rows=20)
    assert train == rows("train", "preference", rows=20)
    assert train[:2] != rows("heldout", "preference", rows=32)
    assert train != rows("train", "preference", rows=20, seed=1)


def test_pairs_are_right_but_for_the_noise():
    def share(**options):
        pairs = rows("train", "preference", rows=2000, **options)
        return statistics.fmean(raw(p["chosen"], p["prompt"]) > raw(p["rejected"], p["prompt"]) for p in pairs)

    assert share() == 1.0
    assert share(noise=0.25) == pytest.approx(0.75, abs=0.03)
    assert share(length_bias=0.6) < 0.9
    longer = rows("train", "preference", rows=2000, length_bias=100.0)
    assert all(len(p["chosen"].split()) >= len(p["rejected"].split()) for p in longer)


def test_feedback_is_about_the_answers_of_the_pairs():
    pairs = rows("train", "preference", rows=300, noise=0.2)
    both = rows("train", "feedback", rows=300, noise=0.2)
    assert [r["completion"] for r in both if r["label"]] == [p["chosen"] for p in pairs]
    assert [r["completion"] for r in both if not r["label"]] == [p["rejected"] for p in pairs]
    one = rows("train", "feedback", rows=300, answers="one")
    assert len(one) == 300 and 0.4 < statistics.fmean(row["label"] for row in one) < 0.6
    few = rows("train", "feedback", rows=300, noise=0.2, desirable=0.1)
    assert sum(not row["label"] for row in few) == 300 and 15 <= sum(row["label"] for row in few) <= 45


def test_rankings_put_the_best_first_and_mean_nothing_where_they_are_noise():
    def best(**options):
        found = rows("train", "ranking", rows=500, **options)
        return statistics.fmean(
            raw(row["completions"][row["ranks"].index(1)], row["prompt"])
            == max(raw(text, row["prompt"]) for text in row["completions"])
            for row in found
        )

    assert best() == 1.0 and best(noise=1.0) < 0.5


def test_what_there_is_not_is_told():
    for wrong, told in (
        ({"kind": "stepwise"}, "no data of kind 'stepwise'"),
        ({"split": "test"}, "no split 'test'"),
        ({"noise": 1.5}, "between 0 and 1"),
    ):
        with pytest.raises(ZooError, match=told):
            rows(**{"split": "train", "kind": "preference", **wrong})


def test_options_that_fit_come_with_the_data():
    core = resolve_options("ppo", None, {"data": "world:gold(seed=3, noise=0.2)"}, "command line")[0]
    assert core.core.model == "world:gold(seed=3)" and core.core.reward == core.core.score == "gold"
    assert core.origin["lr"] == core.origin["model"] == "data world:gold(seed=3, noise=0.2)"
    assert resolve_options("dpo", None, {"data": "world:gold"}, "command line")[0].core.reward is None
    assert resolve_options("rm", None, {"data": "world:gold"}, "command line")[0].core.score == "gold_pairs"
    assert known(load_algorithm("dpo")[1].defaults)["lr"] != core.core.lr


@pytest.mark.parametrize("algo, least, more", [("dpo", 0.4, {"max_steps": 40}), ("ppo", 0.4, {"max_steps": 16})])
def test_algorithms_come_nearer_to_the_truth(algo, least, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    model = {"model": "world:gold(steps=60)", "data": "world:gold(rows=640)", "score": "gold", "eval_fraction": 0}
    run = zoo.train(algo, quiet=True, save_every=0, **model, **more)
    before, after = (run.summary["scores"][when]["gold"] for when in ("before", "after"))
    assert abs(before["value"]) < 0.35 and after["value"] - before["value"] > least
    assert after["details"]["length"] > 2 and 0 <= after["details"]["topic"] <= 1


def test_a_reward_model_is_trained_in_this_world_and_scored_on_its_pairs(tmp_path, monkeypatch):
    """The evaluation makes its pairs itself, and they have no row numbers."""
    monkeypatch.chdir(tmp_path)
    options = {"model": "world:gold(steps=1)", "data": "world:gold(rows=64, noise=0.25)", "max_steps": 1}
    run = zoo.train("rm", quiet=True, save_every=0, score="gold_pairs(rows=640)", **options)
    assert [run.summary["scores"][when]["gold_pairs(rows=640)"]["n"] for when in ("before", "after")] == [40, 40]
    for asked in (["--eval", "gold_pairs(rows=640)"], []):  # The second time by what the run was scored by.
        status, shown, _ = cli("eval", run.path, *asked, "--json")
        assert status == 0 and {name: score["n"] for name, score in json.loads(shown).items()} == {
            "gold_pairs(rows=640)": 40
        }


def test_demonstrations_may_be_the_chosen_answers_of_the_same_pairs():
    pairs = rows("train", "preference", rows=50, noise=0.3, seed=4)
    shown = rows("train", "demonstration", rows=50, noise=0.3, seed=4, shown="chosen")
    assert [(row["prompt"], row["completion"]) for row in shown] == [(row["prompt"], row["chosen"]) for row in pairs]


def test_revisions_say_something_plain_for_what_was_bad_and_keep_the_rest():
    plain, revised = (rows("train", "demonstration", rows=200, seed=4, shown=shown) for shown in ("any", "revised"))
    assert sum(gold.counts(row["completion"], "")["bad"] for row in plain) > 100
    assert all(gold.counts(row["completion"], "")["bad"] == 0 for row in revised)
    assert len(plain[0]["completion"].split()) == len(revised[0]["completion"].split())
    assert {row["completion"] for row in rows("train", "demonstration", rows=9, shown="refused")} == {"so"}


def test_a_rater_of_harm_looks_at_bad_words_alone():
    for row in rows("train", "preference", rows=100, judged="harm"):
        assert gold.counts(row["chosen"], "")["bad"] < gold.counts(row["rejected"], "")["bad"]
