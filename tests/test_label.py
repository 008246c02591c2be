"""`zoo label`: rows that train, in every form of data; a kill costs nothing; what is known of the labels at the end."""

import json
import math
import random
import re
import shutil

import pytest
from judge_server import Scripted, completion, longer_is_better, serving, tokens_of
from tiny_runs import cli, losses, trainer, write_rows

from zoo.bundled.laboratory.gold import gold
from zoo.errors import ZooError
from zoo.judges.constitution import load_constitution
from zoo.judges.judge import Judge
from zoo.labelling.by_reward import ByReward
from zoo.labelling.label import How, label
from zoo.labelling.label_file import LabelFile
from zoo.labelling.pairs import CHUNK, Group, groups_of, pairs_of

SETTINGS = {"judge": "scripted", "clamp": (0.4, 0.6)}


def preferences(count=20):
    return [
        {"row": i + 1, "prompt": f"say {i}", "chosen": "red " * (1 + i % 3), "rejected": "red " * (2 - i % 2) + "!"}
        for i in range(count)
    ]


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def labelled(groups, path, judge=None, how=None, draw=None, **more):
    judge = judge or Judge(Scripted(longer_is_better))
    return label(groups, judge, LabelFile(path, SETTINGS), how or How(), draw, **more), rows_of(path)


# -- what is compared --------------------------------------------------------------------------------------------


def test_the_more_probable_answer_is_chosen(tmp_path):
    summary, rows = labelled(groups_of(preferences(), "preference", 2), tmp_path / "l.jsonl")
    assert len(rows) == 20
    for given, row in zip(preferences(), rows, strict=True):
        assert {row["chosen"], row["rejected"]} == {given["chosen"], given["rejected"]}
        # "red " loses its last blank before it is judged.
        assert len(row["chosen"].strip()) >= len(row["rejected"].strip())
        assert 0.5 <= row["p_chosen"] == pytest.approx(sum(row["p_orders"]) / 2)
        assert row["agrees"] == (row["chosen"] == given["chosen"])
        assert (row["judge"], row["principle"], row["source_row"]) == ("scripted", None, given["row"])
    assert summary["agreement"] == pytest.approx(sum(row["agrees"] for row in rows) / 20)
    assert 0 < summary["agreement"] < 1
    assert summary["pairs"] == summary["agreement_pairs"] == 20
    assert summary["chosen_longer"] == pytest.approx(
        sum(len(r["chosen"].strip()) > len(r["rejected"].strip()) for r in rows) / 20
    )


def test_a_reward_chooses_for_certain_and_leaves_out_what_is_equal_or_has_none(tmp_path, monkeypatch):
    rows = [
        {"prompt": "one", "answer": "1"}, {"prompt": "two", "answer": "2"}, {"prompt": "three"},
    ]  # fmt: skip
    groups = [Group(k, row["prompt"], draw=3, rest=row) for k, row in enumerate(rows)]
    judge = ByReward("exact", "runs", print, 8)

    def draw(groups, seed):
        return [["1", "0", "5"] for _ in groups]

    summary, kept = labelled(groups, tmp_path / "r.jsonl", judge, draw=draw)
    assert [(row["chosen"], row["rejected"]) for row in kept] == [("1", "0"), ("1", "5")]
    assert {(row["p_chosen"], tuple(row["p_orders"]), row["reward"]) for row in kept} == {(1.0, (1.0, 1.0), "exact")}
    assert all("judge" not in row and row["answer"] == "1" for row in kept)
    assert summary["unusable_reasons"] == {"equal rewards": 4, "an answer without a reward": 3}


def test_zoo_label_takes_a_reward_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["label", "world:gold(rows=12)", "--kind", "prompt", "--model", "world:gold", "--samples", "3"]
    flags += ["--max-new-tokens", "20"]
    by_gold = [*flags, "--reward", "gold", "--out", "own.jsonl"]
    assert cli(*by_gold)[0] == 0
    kept = rows_of(tmp_path / "own.jsonl")
    values = gold([row["chosen"] for row in kept], kept), gold([row["rejected"] for row in kept], kept)
    assert len(kept) > 12 and all(more > less for more, less in zip(*values, strict=True))
    assert cli(*by_gold)[0] == 0 and rows_of(tmp_path / "own.jsonl") == kept
    facts = json.loads((tmp_path / "own.json").read_text())["settings"]
    assert facts["reward"] == "gold" and len(facts["reward_fingerprint"]) == 16
    wrong = [["--judge", "smollm2-135m"], ["--chain-of-thought"], ["--top-k", "3"]]
    refused = [cli(*flags, "--reward", "gold", "--out", "none.jsonl", *more) for more in wrong]
    refused.append(cli(*flags, "--reward", "nonsense", "--out", "none.jsonl"))
    assert [status for status, *_ in refused] == [2] * 4
    says = ["judge has no effect beside", "thought has no effect beside", "top_k has no effect without", "nonsense"]
    assert all(word in message for word, (_, _, message) in zip(says, refused, strict=True))
    assert not (tmp_path / "none.jsonl").exists()


def test_the_summary_is_kept_beside_the_rows(tmp_path):
    summary, _ = labelled(groups_of(preferences(), "preference", 2), tmp_path / "l.jsonl")
    assert json.loads((tmp_path / "l.json").read_text()) == {
        "settings": {"judge": "scripted", "clamp": [0.4, 0.6]},
        "summary": json.loads(json.dumps(summary)),
    }


def test_judged_answers_to_one_prompt_are_compared_with_each_other():
    records = [
        {"row": 1, "prompt": "a", "completion": "x", "label": True, "topic": "tea"},
        {"row": 2, "prompt": "b", "completion": "lonely", "label": False},
        {"row": 3, "prompt": "a", "completion": "y", "label": False},
        {"row": 4, "prompt": "a", "completion": "z", "label": False},
    ]
    first, second = groups_of(records, "feedback", 4)
    assert [(pair.a, pair.b, pair.a_is_better) for pair in pairs_of(first, [])] == [
        ("x", "y", True), ("x", "z", True), ("y", "z", None)
    ]  # fmt: skip
    assert (first.draw, second.draw, second.count) == (0, 1, 1)
    assert [(pair.a, pair.b, pair.a_is_better) for pair in pairs_of(second, ["drawn"])] == [("lonely", "drawn", None)]
    assert first.rest == {"topic": "tea"}


def test_every_two_answers_to_a_bare_prompt_are_compared():
    (group,) = groups_of([{"row": 5, "prompt": "a", "instructions": [{"check": "no_commas"}]}], "prompt", 3)
    assert [pair.key for pair in pairs_of(group, ["x", "y", "z"])] == [(5, 0), (5, 1), (5, 2)]
    assert group.rest == {"instructions": [{"check": "no_commas"}]}


def test_what_cannot_be_compared_is_left_out_and_counted(tmp_path):
    records = [
        {"row": 1, "prompt": "a", "chosen": "same", "rejected": "same "},
        {"row": 2, "prompt": "a", "chosen": "", "rejected": "x"},
        {"row": 3, "prompt": "a", "chosen": "odd", "rejected": "x"},
        {"row": 4, "prompt": "a", "chosen": "xyz", "rejected": "x"},
    ]
    judge = Judge(Scripted(lambda text: "too odd" if "odd" in text else longer_is_better(text)))
    groups = [*groups_of(records, "preference", 2), *groups_of([{"row": 5, "prompt": "b"}], "prompt", 2)]
    summary, rows = labelled(groups, tmp_path / "l.jsonl", judge, draw=lambda groups, seed: [None])
    assert [row["source_row"] for row in rows] == [4]
    assert summary["unusable_reasons"] == {
        "two equal answers": 1,
        "an empty answer": 1,
        "too odd": 1,
        "the model cannot take this prompt": 1,
    }


def test_a_principle_is_drawn_for_each_pair_and_written_down(tmp_path):
    principles = load_constitution()
    judge = Judge(Scripted(lambda text: (0.0, -3.0) if "(A) red red red" in text else (-3.0, 0.0)))
    how = How(principles, clamp=(0.4, 0.6), seed=3)
    summary, rows = labelled(groups_of(preferences(40), "preference", 2), tmp_path / "l.jsonl", judge, how)
    drawn = [row["principle"] for row in rows]
    assert len(set(drawn)) > 6 and set(drawn) <= {one.id for one in principles}
    assert summary["principles"] == {name: drawn.count(name) for name in dict.fromkeys(drawn)}
    assert {round(row["p_chosen"], 6) for row in rows} == {0.5, 0.6}
    again = labelled(groups_of(preferences(40), "preference", 2), tmp_path / "m.jsonl", judge, how)[1]
    assert again == rows
    other = labelled(groups_of(preferences(40), "preference", 2), tmp_path / "n.jsonl", judge, How(principles, seed=4))[
        1
    ]
    assert [row["principle"] for row in other] != drawn


# -- killed and started again ------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def drawn_from(groups, seed):
    source = random.Random(seed)
    return [
        [" ".join(source.choices(["red", "blue", "tea"], k=source.randint(1, 9))) for _ in range(2)] for _ in groups
    ]


def test_a_kill_costs_nothing_that_was_judged(tmp_path):
    groups = groups_of([{"row": i + 1, "prompt": f"say {i}"} for i in range(3 * CHUNK)], "prompt", 2)
    expected = labelled(groups, tmp_path / "whole.jsonl", draw=drawn_from)
    asked = Scripted(longer_is_better)

    def kill(done, total):
        if done == 2 * CHUNK:
            raise Killed

    path = tmp_path / "cut.jsonl"
    with pytest.raises(Killed):
        labelled(groups, path, Judge(asked), draw=drawn_from, progress=kill)
    # The kill came in the middle of a line.
    with path.open("a") as file:
        file.write('{"prompt": "say')
    judged_before = dict(asked.asked)
    found = labelled(groups, path, Judge(asked), draw=drawn_from)
    assert found == expected
    assert max(asked.asked.values()) == 1 and len(asked.asked) > len(judged_before)
    assert labelled(groups, path, Judge(asked), draw=drawn_from) == expected
    assert max(asked.asked.values()) == 1


def test_more_rows_can_be_labelled_into_the_same_file(tmp_path):
    labelled(groups_of(preferences(5), "preference", 2), tmp_path / "l.jsonl")
    _, rows = labelled(groups_of(preferences(9), "preference", 2), tmp_path / "l.jsonl")
    assert [row["source_row"] for row in rows] == list(range(1, 10))


def test_a_file_made_otherwise_is_refused(tmp_path):
    path = tmp_path / "l.jsonl"
    LabelFile(path, SETTINGS)
    # As long as it holds no label, it may be made otherwise.
    LabelFile(path, {"judge": "scripted", "clamp": None})
    LabelFile(path, SETTINGS)
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(ZooError, match=r"clamp was \[0.4, 0.6\], now None") as caught:
        LabelFile(path, {"judge": "scripted", "clamp": None})
    assert "--out" in caught.value.hint
    (tmp_path / "mine.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ZooError, match="which says how it was made"):
        LabelFile(tmp_path / "mine.jsonl", SETTINGS)
    assert (tmp_path / "mine.jsonl").read_text() == '{"a": 1}\n'
    with pytest.raises(ZooError, match="one JSON object per line"):
        LabelFile(tmp_path / "l.csv", SETTINGS)


# -- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, tiny_folder):
    """`zoo label` in a folder of its own, with the tiny model; gives (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return lambda *arguments: cli("label", *arguments, "--model", "tiny", "--max-new-tokens", "8")


def pairs_file(folder, count=24):
    return write_rows(
        folder / "pairs.jsonl", [{k: v for k, v in one.items() if k != "row"} for one in preferences(count)]
    )


def test_a_reward_model_that_has_changed_continues_no_file(command, tmp_path):
    train = trainer(tmp_path, "tiny")
    pairs = pairs_file(tmp_path)
    first, second = (train("rm", data=str(pairs), max_steps=1, lr=lr, name=f"rm-{lr}") for lr in (0.001, 0.002))
    assert command(pairs, "--reward", first.path)[0] == 0
    kept = (tmp_path / "labelled.jsonl").read_bytes()
    for file in (second.path / "model").glob("*.safetensors"):
        shutil.copy(file, first.path / "model" / file.name)
    status, _, errors = command(pairs, "--reward", first.path)
    assert status == 2 and "reward_fingerprint was" in errors and (tmp_path / "labelled.jsonl").read_bytes() == kept


def test_labelled_pairs_train_a_reward_model_and_a_policy(command, tmp_path):
    status, output, _ = command(pairs_file(tmp_path), "--judge", "self")
    assert status == 0
    for shown in ("pairs labelled", "position-inconsistent", "ties", "mean entropy", "agreement", "zoo train"):
        assert shown in output
    assert re.search(r"zoo train --algo rm --data labelled.jsonl", output)
    rows = rows_of(tmp_path / "labelled.jsonl")
    assert len(rows) == 24 and all(row["judge"] == "tiny" for row in rows)
    train = trainer(tmp_path, "tiny")
    for algo in ("rm", "dpo"):
        run = train(algo, data="labelled.jsonl", max_steps=2)
        assert len(losses(run)) == 2 and all(math.isfinite(loss) for loss in losses(run))
        assert json.loads((run.path / "data.json").read_text())["train"]["records"] == 24
    # And the policy that learned from the judge can be one.
    status, output, errors = command(pairs_file(tmp_path), "--judge", run.path, "--out", "again.jsonl")
    assert status == 0, errors
    assert {row["judge"] for row in rows_of(tmp_path / "again.jsonl")} == {run.name}


def test_bare_prompts_get_two_answers_and_the_run_again_asks_nothing(command, tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"say {i}", "note": i} for i in range(6)])
    first = command(prompts, "--json", "--out", "mine.jsonl")
    assert first[0] == 0
    summary, rows = json.loads(first[1]), rows_of(tmp_path / "mine.jsonl")
    assert summary["pairs"] == len(rows) == 6 and summary["agreement"] is None
    # Of 8 tokens, nearly all answers are cut.
    assert summary["cut_answers"] == sum(row.get("cut_answers", 0) for row in rows) > 6
    assert [row["note"] for row in rows] == list(range(6))
    assert re.search(r"cut answers +\d+ +by --max-new-tokens", command(prompts, "--out", "mine.jsonl")[1])
    status, output, errors = command(prompts, "--json", "--out", "mine.jsonl")
    assert status == 0 and json.loads(output) == summary and rows_of(tmp_path / "mine.jsonl") == rows
    assert "6 are labelled already" in errors


def test_feedback_and_chains_of_thought_under_principles(command, tmp_path):
    rows = [{"prompt": f"say {i // 2}", "completion": f"red {i}", "label": i % 2 == 0} for i in range(6)]
    arguments = ("--constitution", "default", "--chain-of-thought", "--max-thought-tokens", 6)
    status, output, errors = command(write_rows(tmp_path / "rows.jsonl", rows), "--json", *arguments)
    assert "clamped to 0.4 … 0.6" in errors
    assert status == 0 and json.loads(output)["agreement_pairs"] == 3
    for row in rows_of(tmp_path / "labelled.jsonl"):
        assert row["principle"] and len(row["thoughts"]) == 2 and 0.5 <= row["p_chosen"] <= 0.6
    assert command(tmp_path / "rows.jsonl", *arguments, "--clamp", "0,1", "--out", "free.jsonl")[0] == 0
    for row in rows_of(tmp_path / "free.jsonl"):
        assert row["p_chosen"] == pytest.approx(sum(row["p_orders"]) / 2)


def question(request):
    return request["body"]["messages"][0]["content"]


def test_an_endpoint_that_fails_in_the_middle_is_gone_on_with(command, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_JUDGE_KEY", "sk-secret")
    monkeypatch.setattr("zoo.http.time.sleep", lambda seconds: None)
    failing = True

    def answer(body, number):
        if failing and number >= 20:
            return 503, b"busy"
        return 200, completion("1", tokens_of(["1"], [{"1": 0.6, "2": 0.3}]))

    with serving(answer) as (address, requests):
        data = pairs_file(tmp_path)
        status, _, errors = command(data, "--judge", address, "--parallel", "1")
        assert status == 2 and "times in a row" in errors and "continues from there" in " ".join(errors.split())
        written, failing, before = rows_of(tmp_path / "labelled.jsonl"), False, len(requests)
        status, output, _ = command(data, "--judge", address, "--parallel", "1")
        # Some pairs are alike, and 20 questions were answered before the server failed.
        assert status == 0 and len(requests) - before == len(set(map(question, requests))) - 20
    rows = rows_of(tmp_path / "labelled.jsonl")
    assert len(rows) == 24 and rows[: len(written)] == written
    assert re.search(r"position-inconsistent +100.0%", output)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"sk-secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clamp", "0.6,0.4"), "two numbers around a half"),
        (("--clamp", "half"), "two numbers around a half"),
        (("--constitution", "defualt"), "Did you mean 'default'"),
        (("--kind", "ranking"), "cannot be labelled"),
        (("--judge", "https://host/v1"), "names no model"),
        (("--judge", "./nowhere"), "no model at"),
        (("--wording", "nowhere.yaml"), "no file nowhere.yaml"),
    ],
)
def test_mistakes_are_answered(command, tmp_path, arguments, message):
    status, _, errors = command(pairs_file(tmp_path), *arguments)
    assert status == 2 and message in " ".join(errors.split())
    assert not (tmp_path / "labelled.jsonl").exists()


def test_nothing_to_judge_is_an_error(command, tmp_path):
    rows = [{"prompt": "a", "chosen": "<|im_end|>", "rejected": "x"}]
    status, _, errors = command(write_rows(tmp_path / "rows.jsonl", rows))
    assert status == 2 and "Nothing could be judged: 1 control tokens in a text" in " ".join(errors.split())
    assert not (tmp_path / "labelled.jsonl").exists() and not (tmp_path / "labelled.json").exists()
