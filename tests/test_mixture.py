"""Mixtures: several sources in one run, in the language of rewards, with exact shares and numbers of their own."""

import contextlib
import itertools
import json
import random
from collections import Counter
from fractions import Fraction
from unittest import mock

import pytest
import torch
from tiny_runs import (
    demonstrations,
    differences,
    float32_flags,
    losses,
    preferences,
    same_bytes,
    trainer,
    two_processes,
    weights,
    write_rows,
)  # fmt: skip

import zoo
from zoo.data.blending import Blend, Places, blended
from zoo.data.loader import Order, StepLoader
from zoo.data.sources.mixture import Part, data_defaults, label_of, read_mixture
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.runs import Run
from zoo.training.step.module import PostTraining
from zoo.training.step.parts import Parts
from zoo.values.loss import Loss
from zoo.values.records import JoinedRecords, ListedRecords, first_of_each
from zoo.values.types import Batch

NAMED = ("world", "starter")


def read(text):
    return [(part.source, part.weight and float(part.weight)) for part in read_mixture(text, NAMED)]


# -- the language ----------------------------------------------------------------------------------------------------


def test_weights_are_relative_and_a_source_without_one_among_others_weighs_one():
    assert read("0.7*chat.jsonl + 0.3*maths@train") == [("chat.jsonl", 0.7), ("maths@train", 0.3)]
    assert read("3*a.jsonl + b.jsonl") == [("a.jsonl", 3), ("b.jsonl", 1)]
    assert read("2*(a + 0.5*b) + c") == [("a", 2), ("b", 1), ("c", 1)]
    assert read("0.5*'world:a+b' + world:c") == [("world:a+b", 0.5), ("world:c", 1)]
    assert read("a.jsonl + b.jsonl") == [("a.jsonl", None), ("b.jsonl", None)]


@pytest.mark.parametrize("name", ["a+b.jsonl", "my 0.5*x.jsonl", "2024-a.jsonl", "x(limit=3).jsonl", "a + b"])
def test_a_path_that_exists_outranks_the_language(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("{}")
    assert read(name) == [(name, None)]
    assert read(f"{name}@test") == [(f"{name}@test", None)]
    assert read(f"0.5*'{name}' + b.jsonl") == [(name, 0.5), ("b.jsonl", 1)]


@pytest.mark.parametrize(
    "text",
    [
        "2024-a.jsonl",
        "owner/name:en+de",
        "world:chain_sum+leg_counting@test",
        "world:gold(rows=5, noise=0.2)@heldout",
        "nothere(limit=oops",
        "a - b",
    ],
)
def test_what_is_no_sum_is_one_source_as_it_is(text):
    assert read(text) == [(text, None)]


def test_a_part_has_options_of_its_own_and_gives_the_others_to_a_named_source():
    text = (
        "chat.jsonl(limit=1000, repeats=2, columns='prompt=question,completion=answer', format=alpaca, split=test, "
        "name=talk) + world:gold(rows=5, noise=0.2)"
    )
    chat, gold = read_mixture(text, NAMED)
    assert chat == Part(
        "chat.jsonl", "talk", None, "prompt=question,completion=answer", "alpaca", 1000, "test", Fraction(2)
    )
    assert gold == Part("world:gold(rows=5, noise=0.2)", "world-gold")
    assert read_mixture("chat.jsonl(limit=3)", NAMED) == [Part("chat.jsonl", "chat", limit=3)]


def test_a_part_is_read_as_it_says_and_as_the_run_says_where_it_says_nothing():
    of_run = Reading("dev", {"prompt": "q"}, "messages", 7, strict=True)
    chat, gold = read_mixture("chat.jsonl(columns='prompt=question', limit=3) + maths.jsonl", NAMED)
    assert chat.reading(of_run) == Reading("dev", {"prompt": "question"}, "messages", 3, strict=True)
    assert gold.reading(of_run) == of_run


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("data/chat.jsonl", "chat"), ("chat.jsonl.gz", "chat"), ("owner/maths@train", "maths"),
        ("world:gold(rows=5)", "world-gold"), ("2024-a.csv", "2024-a"), ("very_max", "very-max"),
        ("python:mine@train", "mine"),
    ],
)  # fmt: skip
def test_a_label_is_the_name_of_the_source(source, label):
    assert label_of(source) == label


def test_two_sources_of_one_name_have_labels_of_their_own():
    assert [part.label for part in read_mixture("x/chat.jsonl + y/chat.jsonl", NAMED)] == ["chat", "chat-2"]


@pytest.mark.parametrize(
    ("text", "message", "character"),
    [
        ("0*a + b", "the weight of a is 0", 3),
        ("-1*a + b", "the weight of a is -1", 4),
        ("1e999*a + b", "the weight of a is inf", 7),
        ("a + a", "a is there twice", 5),
        ("a + 1", "a number has no source, or two sources are multiplied", 1),
        ("a*b", "two sources are multiplied", 1),
        ("a + b - c", "'-' has no meaning|is not allowed", None),
        ("min(a, b) + c", "'min' does not combine sources", 1),
        ("a +", "this cannot be read", 4),
        ("a(lmit=3) + b", "a has no option lmit. Did you mean 'limit'", 1),
        ("a(limit=1.5) + b", "limit must be a whole number above 0, not 1.5", 1),
        ("a(repeats=0) + b", "repeats must be a number above 0, not 0", 1),
        ("0.7*sh/*.jsonl + 0.3*b.jsonl", "a pattern needs quotation marks", 5),
        ("a(name=x) + b(name=x)", "two parts have the name x", 13),
        ("a(name='loss/x y') + b", "'loss/x y' cannot be the name of a part", 1),
        ("a(limit=many) + b", "limit must be a whole number above 0, not many", 1),
    ],
)
def test_what_cannot_be_meant_is_shown_with_its_place(text, message, character):
    with pytest.raises(ZooError, match=message) as refused:
        read_mixture(text, NAMED)
    assert character is None or f"Mixture, character {character}:" in refused.value.message
    assert "cannot be read" not in message or "Write 0.7*chat.jsonl + 0.3*maths.jsonl" in refused.value.hint


@pytest.mark.parametrize("text", ["nosuch/*.jsonl", "~/no/**/x-*.parquet", "no-*.jsonl"])
def test_a_pattern_that_no_file_has_is_told_as_one(text):
    with pytest.raises(ZooError, match="No file fits"):
        read_mixture(text, NAMED)


def test_a_pattern_with_a_weight_is_written_out_in_quotation_marks():
    with pytest.raises(ZooError) as refused:
        read_mixture("0.7*sh/*.jsonl + 0.3*maths.jsonl", NAMED)
    assert refused.value.hint == "Write 0.7*'sh/*.jsonl' + 0.3*maths.jsonl"
    assert read("chat.jsonl*.5 + b") == [("chat.jsonl", 0.5), ("b", 1)]


def test_a_file_that_stands_there_twice_is_refused_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ZooError, match="./a.jsonl is there twice"):
        read_mixture("a.jsonl + ./a.jsonl", NAMED)


def test_what_a_mixture_does_not_do_is_said(train, tmp_path, capsys):
    write_rows(tmp_path / "a.jsonl", demonstrations(16))
    write_rows(tmp_path / "b.jsonl", demonstrations(16, seed=4))
    train(data="1e-300*a.jsonl + b.jsonl", max_steps=1, quiet=False)
    train(data="a.jsonl", mix_by="tokens", max_steps=1, quiet=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "Nothing is read of a: the weight is too small for 1 step." in text
    assert "--mix-by has no effect: the data is no mixture" in text


def test_any_text_is_one_source_or_more_or_an_error_of_the_users():
    draw, letters = random.Random(0), [*"ab.09+-*/()=,'\"@: \n\0é~_e", "limit=", "repeats=", "world:", "a.jsonl", " + "]
    counts = Counter()
    for _ in range(3000):
        with contextlib.suppress(ZooError):
            parts = read_mixture("".join(draw.choices(letters, k=draw.randint(0, 12))), NAMED)
            assert all(part.label and "/" not in part.label for part in parts)
            counts[min(len(parts), 2)] += 1
    assert counts[1] > 500 and counts[2] > 5


def test_a_misspelt_option_of_a_file_that_exists_is_told(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", demonstrations(2))
    with pytest.raises(ZooError, match="has no option lmit"):
        read_mixture(f"{file}(lmit=3)", NAMED)


def test_what_sources_bring_holds_for_their_mixture():
    from zoo.contract import registry

    algorithm = registry.load_algorithm("grpo")[1]
    alone = data_defaults("starter", algorithm)
    assert alone and data_defaults("0.5*starter + 0.5*rows.jsonl", algorithm) == alone


# -- which example is the n-th ---------------------------------------------------------------------------------------


def mixed(weights, sizes, seed=0):
    starts = list(itertools.accumulate(sizes, initial=0))
    return blended([
        (Fraction(weight), Places(str(i), range(starts[i], starts[i + 1]), Order(size, seed + i, True)))
        for i, (weight, size) in enumerate(zip(weights, sizes, strict=True))
    ])  # fmt: skip


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_every_prefix_has_the_shares_to_about_an_example(count):
    draw = random.Random(count)
    for _ in range(10):
        shares = [draw.choice([1, 2, 3, 7, 10, 50, 300, 997]) for _ in range(count)]
        order = mixed(shares, [40] * count)
        given = Counter()
        for n in range(600):
            assert {part.label: taken for part, taken in order.taken(n)} == {str(i): given[i] for i in range(count)}
            for i, share in enumerate(shares):
                assert abs(given[i] - n * share / sum(shares)) < 1.3
            given[order.at(n) // 40] += 1


def test_each_part_goes_through_its_records_in_epochs_of_its_own():
    order = mixed([3, 1], [6, 4])
    first = [order.at(n) for n in range(16)]
    assert Counter(place for place in first if place < 6) == Counter({0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2})
    assert sorted(place for place in first if place >= 6) == [6, 7, 8, 9]


def test_an_example_is_found_without_those_before_it_and_the_seed_decides_it():
    order = mixed([0.7, 0.3], [1000, 10])
    far = [mixed([0.7, 0.3], [1000, 10]).at(n) for n in (10**9, 5, 10**6)]
    assert far == [order.at(n) for n in (10**9, 5, 10**6)]
    assert [order.at(n) for n in range(50)] != [mixed([0.7, 0.3], [1000, 10], seed=1).at(n) for n in range(50)]


def records(count=23):
    return [{"row": i} for i in range(count)]


def rows(batches):
    return [batch.row.tolist() for batch in batches]


def loader(order=None, **options):
    collate = lambda part: Batch(row=torch.tensor([record["row"] for record in part]))  # noqa: E731
    many = [*records(), *({"row": 100 + i} for i in range(5))]
    order = order or Places("main", range(23), Order(23, 0, True))
    return StepLoader(many, collate, **{"batch_size": 4, "order": order, "size": 23, **options})


def switched(begin, share=Fraction(1), **options):
    """23 records, and 5 others (rows from 100 on) that come in at step `begin`."""
    main = Places("main", range(23), Order(23, 0, True))
    later = Places("later", range(23, 28), Order(5, 500_009, True))
    return loader(Blend(main, later, share, begin * 4, late=True), **options)


def test_other_records_take_over_at_a_step_and_the_number_of_steps_stays():
    before, found = rows(loader(epochs=2)), rows(switched(8, epochs=2))
    assert found[:8] == before[:8] and len(found) == len(before) == 12
    later = [row for batch in found[8:] for row in batch]
    assert min(later) >= 100
    # 46 examples in all, 32 of them before the switch: 14 others, each of the five twice or three times.
    assert len(later) == 14 and set(Counter(later).values()) == {2, 3}


def test_a_share_of_the_examples_comes_from_the_other_records_and_the_rest_goes_on_where_it_was():
    plain, found = rows(loader(epochs=2)), rows(switched(2, share=Fraction(1, 4), epochs=2))
    mine = [row for batch in found for row in batch if row < 100]
    assert mine == [row for batch in plain for row in batch][: len(mine)]
    assert [sum(row >= 100 for row in batch) for batch in found] == [0, 0, *[1] * 9, 0]


def test_the_switch_comes_at_the_same_example_after_a_resume_and_on_any_number_of_processes():
    whole = rows(switched(3, share=Fraction(1, 2), epochs=2))
    resumed = switched(3, share=Fraction(1, 2), epochs=2)
    resumed.load_state_dict({"position": 5})
    assert rows(resumed) == whole[5:]
    parts = [rows(switched(3, share=Fraction(1, 2), epochs=2, rank=rank, processes=2)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]


# -- joined records --------------------------------------------------------------------------------------------------


def test_joined_records_count_their_rows_on():
    first = [{"row": 2, "x": 1.0}, {"row": 5, "x": 2.0}]
    joined = JoinedRecords([first, ListedRecords([{"row": 1, "x": 3.0, "name": "c"}])])
    assert len(joined) == 3 and [record["row"] for record in joined] == [2, 5, 6]
    assert joined[-1] == {"row": 6, "x": 3.0, "name": "c"} and joined.column("row").tolist() == [2, 5, 6]
    assert joined.column("x").tolist() == [1, 2, 3] and joined.column("name").tolist() == [None, None, "c"]
    assert [record["row"] for record in joined[1:]] == [5, 6] and len(joined.filter(lambda one: one["x"] > 1)) == 2
    assert [one["x"] for one in joined.map(lambda one: {"x": -one["x"]})] == [-1, -2, -3]
    with pytest.raises(IndexError):
        joined[3]


def test_the_first_of_each_are_as_many_of_every_part():
    joined = JoinedRecords([records(10), records(2), records(10)])
    assert [record["row"] for record in first_of_each(joined, 7)] == [0, 1, 2, 9, 10, 10, 11]
    assert len(first_of_each(records(9), 4)) == 4 and len(first_of_each(joined, 100)) == 22


# -- numbers of each part --------------------------------------------------------------------------------------------


def test_the_loss_and_metrics_of_a_part_are_those_of_its_rows_alone():
    parts = Parts(["a", "b", "c"], [0, 10, 20])
    batch = Batch(row=torch.tensor([1, 10, 11, 20]))
    loss = Loss.weighted(
        torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.tensor([1.0, 3.0, 1.0, 1.0]),
        {"right": torch.tensor([1.0, 0.0, float("nan"), 1.0]), "length_max": torch.tensor([1.0, 2.0, 3.0, 4.0])},
    )  # fmt: skip
    sums = {name: (float(total), float(count)) for name, (total, count) in parts.sums(loss, batch).items()}
    assert sums == {
        "loss/a": (10, 4), "right/a": (1, 2), "loss/b": (14, 2), "right/b": (1, 1), "loss/c": (0, 0), "right/c": (0, 0),
    }  # fmt: skip
    assert parts.sums(loss, Batch(other=torch.zeros(4))) == {}


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return trainer(tmp_path, tiny_folder)


@pytest.fixture
def two(train, tmp_path):
    write_rows(tmp_path / "chat.jsonl", demonstrations(24))
    write_rows(tmp_path / "maths.jsonl", demonstrations(24, seed=5))
    return train


MIXED = "0.75*chat.jsonl + 0.25*maths.jsonl"


def test_a_run_says_how_often_it_reads_each_part_and_measures_each(two, capsys):
    run = two(data=MIXED, eval_fraction=0.1, epochs=1, quiet=False)
    told = capsys.readouterr().out
    assert (
        "The mixture, by examples: chat 1.5 times (33 examples, 75.0%), maths 0.5 times (11 examples, 25.0%)." in told
    )
    assert "Held out for validation: 4 records (chat 2, maths 2)." in told
    row = run.log_history[1]
    assert row["loss/chat"] != row["loss/maths"] and "mean_token_accuracy/maths" in row
    assert {"val/loss", "val/loss/chat", "val/loss/maths"} <= set(run.log_history[0])
    facts = run.read_json("data.json")["train"]
    assert facts["source"] == MIXED and facts["rows"] == 48
    assert facts["parts"]["chat"]["examples"] == 33 and facts["parts"]["maths"]["times"] == 0.5
    page = (run.path / "report.html").read_text()
    assert "train chat" in page and "chat, training" in page and "maths, held-out" in page


def test_the_numbers_of_the_parts_add_up_to_those_of_all(two):
    run = two(data="chat.jsonl + maths.jsonl", eval_fraction=0.1, max_steps=1)
    cases = run.read_json("heldout.json")["last"]["values"]
    row, first = run.log_history[1], run.log_history[0]
    assert min(row["loss/chat"], row["loss/maths"]) < row["loss"] < max(row["loss/chat"], row["loss/maths"])
    assert len(cases["mean_token_accuracy"]) == 4 if "mean_token_accuracy" in cases else True
    assert min(first["val/loss/chat"], first["val/loss/maths"]) < first["val/loss"]


def test_parts_without_weights_are_read_by_their_size_and_repeats(two, tmp_path):
    write_rows(tmp_path / "both.jsonl", demonstrations(24) + demonstrations(24, seed=5))
    together, apart = two(data="both.jsonl", epochs=1), two(data="chat.jsonl + maths.jsonl", epochs=1)
    assert together.summary["steps"] == apart.summary["steps"] == 12
    again = two(data="chat.jsonl(limit=8, repeats=3) + maths.jsonl", epochs=1)
    parts = again.read_json("data.json")["train"]["parts"]
    assert [(one["rows"], one["examples"], one["times"]) for one in parts.values()] == [(8, 24, 3), (24, 24, 1)]


def test_weights_by_tokens_give_the_part_of_short_rows_more_examples(train, tmp_path):
    write_rows(tmp_path / "short.jsonl", [{"text": "red blue"}] * 20)
    write_rows(tmp_path / "long.jsonl", [{"text": "red blue green one two three cat dog " * 2}] * 20)
    run = train("lm", data="short.jsonl + 1*long.jsonl", mix_by="tokens", epochs=2)
    parts = run.read_json("data.json")["train"]["parts"]
    tokens = {label: one["examples"] * one["encoded"]["tokens"] / 20 for label, one in parts.items()}
    assert tokens["short"] == pytest.approx(tokens["long"], rel=0.2)
    assert parts["short"]["examples"] > 3 * parts["long"]["examples"]


def test_parts_have_columns_of_their_own_and_kinds_that_convert(train, tmp_path):
    write_rows(tmp_path / "asked.jsonl", [{"q": row["prompt"], "a": row["completion"]} for row in demonstrations(8)])
    write_rows(tmp_path / "pairs.jsonl", preferences(8))
    run = train(data="asked.jsonl(columns='prompt=q,completion=a') + pairs.jsonl")
    parts = run.read_json("data.json")["train"]["parts"]
    assert "8 pairs became demonstrations" in json.dumps(parts["pairs"]["notes"])


def test_kinds_that_do_not_convert_are_refused(train, tmp_path):
    write_rows(tmp_path / "pairs.jsonl", preferences(8))
    write_rows(tmp_path / "answers.jsonl", demonstrations(8))
    with pytest.raises(ZooError, match="answers.jsonl"):
        train("dpo", data="pairs.jsonl + answers.jsonl")


def test_a_prompt_that_one_part_holds_out_is_trained_on_in_none(train, tmp_path):
    write_rows(tmp_path / "a.jsonl", demonstrations(40))
    write_rows(tmp_path / "b.jsonl", demonstrations(40)[:16])
    run = train(data="a.jsonl + b.jsonl", eval_fraction=0.3, max_steps=1)
    facts = run.read_json("data.json")
    held_out, trained = (facts[side] for side in ("held_out", "train"))
    assert held_out["encoded"]["records"] == 12 and trained["parts"]["a"]["encoded"]["records"] == 28
    assert trained["parts"]["b"]["encoded"]["records"] < 16


def test_a_prompt_that_is_held_out_is_not_trained_on_in_the_decay_phase(train, tmp_path):
    write_rows(tmp_path / "a.jsonl", demonstrations(40))
    write_rows(tmp_path / "b.jsonl", demonstrations(40))
    decay = {"decay_data": "b.jsonl", "schedule": "wsd(decay_share=0.5)", "warmup": 0, "max_steps": 1}
    facts = train(data="a.jsonl", eval_fraction=0.3, **decay).read_json("data.json")
    assert [facts[side]["encoded"]["records"] for side in ("held_out", "train", "decay")] == [12, 28, 28]
    assert "12 records have prompts that another part holds out" in json.dumps(facts["decay"]["encoded"]["notes"])
    facts = train(data="a.jsonl", eval_data="a.jsonl(limit=5)", **decay).read_json("data.json")
    assert facts["decay"]["encoded"]["records"] == 40


def test_data_to_validate_on_has_parts_and_no_weights(two):
    run = two(data="chat.jsonl", eval_data="chat.jsonl(limit=4) + maths.jsonl(limit=6, name=sums)", max_steps=1)
    assert {"val/loss/chat", "val/loss/sums"} <= set(run.log_history[0]) and "loss/chat" not in run.log_history[1]
    with pytest.raises(ZooError, match="--eval-data 0.5[*]chat.jsonl .* has weights"):
        two(data="chat.jsonl", eval_data="0.5*chat.jsonl + maths.jsonl")


class Killed(Exception):
    pass


def test_a_mixture_that_is_killed_ends_with_the_same_bits(two, tmp_path):
    options = {"data": MIXED, "eval_fraction": 0.1, "save_every": 1, "epochs": 2, "batch_size": 8}
    whole = two(name="whole", **options)
    real = PostTraining.training_step

    def dies(self, batch, index):
        if self.steps_done == 5:
            raise Killed
        return real(self, batch, index)

    with mock.patch.object(PostTraining, "training_step", dies), pytest.raises(Killed):
        two(name="broken", **options)
    broken = zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert same_bytes(whole, broken, "metrics.jsonl")
    assert all(torch.equal(value, weights(broken)[name]) for name, value in weights(whole).items())


@pytest.mark.long
def test_two_processes_learn_from_a_mixture_what_one_learns(two, tmp_path, tiny_folder):
    options = {"data": MIXED, "eval_fraction": 0.1, "epochs": 1, "optimizer": "adamw(eps=1e-3)"}
    single = two(**options)
    flags = float32_flags(**options, devices=2, accelerator="cpu", out=tmp_path / "two")
    for done in two_processes("train", "--algo", "sft", "--model", str(tiny_folder), *flags, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "two").iterdir()
    both = Run(folder)
    assert differences(single, both) < 1e-5
    for name in ("loss", "loss/chat", "loss/maths"):
        values = [[row[name] for row in run.log_history if name in row] for run in (single, both)]
        assert values[0] == pytest.approx(values[1], abs=1e-5, rel=1e-4), name


def test_another_mixture_of_the_same_run_is_refused_by_the_part_that_changed(two, tmp_path):
    options = {"data": MIXED, "save_every": 1, "name": "changed"}
    with mock.patch.object(PostTraining, "on_train_end", side_effect=Killed), pytest.raises(Killed):
        two(**options)
    write_rows(tmp_path / "maths.jsonl", demonstrations(24, seed=6))
    with pytest.raises(ZooError, match=r"data \(train maths\) was sha256"):
        zoo.resume(tmp_path / "runs" / "changed", quiet=True)


def test_records_that_are_prepared_stay_with_their_part(train, tmp_path):
    write_rows(tmp_path / "a.jsonl", preferences(12))
    write_rows(tmp_path / "b.jsonl", preferences(12, seed=4))
    run = train("kto", data="3*a.jsonl + b.jsonl")
    parts = run.read_json("data.json")["train"]["parts"]
    assert parts["a"]["examples"] == 3 * parts["b"]["examples"]
    assert {"loss/a", "loss/b"} <= set(run.log_history[0])


def test_records_of_the_decay_phase_are_prepared_too(train, tmp_path):
    write_rows(tmp_path / "a.jsonl", preferences(12))
    write_rows(tmp_path / "b.jsonl", preferences(12, seed=4))
    options = {"schedule": "wsd(decay_share=0.5)", "epochs": 1, "warmup": 0}
    run = train("kto", data="a.jsonl", decay_data="b.jsonl", **options)
    rows_of = [row for row in run.log_history if "loss" in row]
    assert len(rows_of) == 6, "24 answers of a, four a step"
    assert all("loss/a" in row and "loss/b" not in row for row in rows_of[:3])
    assert all("loss/b" in row and "loss/a" not in row for row in rows_of[3:])


def test_prompts_are_mixed_too(train, tmp_path):
    write_rows(tmp_path / "a.jsonl", demonstrations(48))
    write_rows(tmp_path / "b.jsonl", demonstrations(48, seed=4))
    options = {
        "reward": "length",
        "max_new_tokens": 4,
        "answers_per_prompt": 2,
        "max_steps": 3,
        "minibatches": 1,
    }
    run = train("grpo", data="3*a.jsonl + b.jsonl", eval_fraction=0.2, eval_prompts=4, batch_size=8, **options)
    parts = run.read_json("data.json")["train"]["parts"]
    assert [one["examples"] for one in parts.values()] == [9, 3]
    assert {"loss/a", "loss/b", "rollout/reward/a", "rollout/reward/b"} <= set(run.log_history[1])
    assert {"val/reward/a", "val/kl/b"} <= set(run.log_history[0]) and len(losses(run)) == 3
