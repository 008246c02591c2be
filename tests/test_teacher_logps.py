"""`zoo label --teacher`: what stands in the rows is the teacher's, a stop costs nothing, other tokens are refused."""

import json

import pytest
import torch
from tiny_runs import cli, demonstrations, trainer, write_rows

from zoo.data.encoding.encode import encode
from zoo.data.teacher_logps import COLUMN, check_stored_logps, column_of, stored_logps
from zoo.errors import ZooError
from zoo.evals.subject import load_subject
from zoo.values.records import ListedRecords
from zoo.values.types import Answer

WORDS = 5


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(result, says):
    status, _, said = result
    assert status == 2 and says in " ".join(said.split()), said


def encoded(rows, template, **options):
    return list(encode([{**row, "row": i} for i, row in enumerate(rows, 1)], "demonstration", template, **options))


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr("zoo.evals.subject.choose_precision", lambda *how: ("32-true", ""))


@pytest.fixture
def teacher(tiny_folder):
    return load_subject(str(tiny_folder), "runs", print)


@pytest.fixture
def labelled(tmp_path, tiny_folder):
    """A function that labels rows with the tiny model: exit status, stdout, stderr; and the file that it writes."""
    out = tmp_path / "labelled.jsonl"

    def label(rows, *flags):
        data = write_rows(tmp_path / "rows.jsonl", rows)
        return cli(
            "label", data, "--teacher", str(tiny_folder), "--top-k", str(WORDS), "--out", str(out), *flags
        )  # fmt: skip

    return label, out


def test_rows_have_the_log_probs_of_the_teachers_own_forward_passes(labelled, teacher):
    label, out = labelled
    status, printed, said = label([{**row, "colour": "red"} for row in demonstrations(10)], "--json")
    assert status == 0, said
    rows = rows_of(out)
    assert [row["source_row"] for row in rows] == list(range(1, 11)) and rows[0]["colour"] == "red"
    records = encoded(rows, teacher.template)
    top = stored_logps(records)
    rest = []
    for record, ids, logps in zip(records, top.ids, top.logps, strict=True):
        answer = record["completion"]
        given = torch.cat([answer.prompt, answer.completion])[None]
        with torch.no_grad():
            log_p = teacher.model(input_ids=given).logits[0, len(answer.prompt) - 1 : -1].log_softmax(-1)
        expected = log_p.topk(WORDS)
        assert torch.equal(ids, expected.indices)
        torch.testing.assert_close(logps[:, :-1], expected.values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logps.exp().sum(-1), torch.ones(len(logps)))
        rest.append(logps[:, -1].exp())
    summary = json.loads(printed)
    assert summary["rows"] == 10 and summary["tokens"] == sum(map(len, rest)) and summary["left_out"] == {}
    assert summary["rest"] == pytest.approx(float(torch.cat(rest).mean()))


def test_prompts_are_answered_by_the_teacher_and_a_stop_changes_nothing(labelled, teacher):
    label, out = labelled
    prompts = [{"prompt": f"say {i}"} for i in range(10)]
    flags = ("--samples", "2", "--max-new-tokens", "200")
    status, printed, _ = label(prompts, *flags, "--json")
    assert status == 0
    whole = out.read_bytes()
    rows = rows_of(out)
    assert len({row["completion"] for row in rows}) > 5
    # What has no end is left out: a student would learn to stop there.
    left_out = json.loads(printed)["left_out"]
    assert left_out == {"answers that --max-new-tokens cut": 20 - len(rows)} and len(rows) < 20
    assert len(stored_logps(encoded(rows, teacher.template))) == len(rows)
    # A kill in the middle of a line.
    out.write_bytes(whole[: len(whole) * 2 // 3])
    assert label(prompts, *flags)[0] == 0
    assert out.read_bytes() == whole
    refused(label(prompts, *flags, "--seed", "1"), "seed was 0, now 1")
    out.unlink()
    assert label(prompts, *flags, "--keep-cut")[0] == 0 and len(rows_of(out)) == 20
    out.unlink()
    refused(label(prompts, "--max-new-tokens", "1"), "20 answers that --max-new-tokens cut. Raise --max-new-tokens.")


def test_options_of_a_judge_have_no_effect_beside_a_teacher(labelled, tmp_path):
    label, _ = labelled
    refused(label(demonstrations(3), "--constitution", "default"), "constitution has no effect beside a teacher")
    data = write_rows(tmp_path / "other.jsonl", demonstrations(3))
    refused(cli("label", data, "--top-k", "3"), "top_k has no effect without a teacher")
    refused(cli("label", data, "--keep-cut"), "keep_cut has no effect without a teacher")
    refused(label(demonstrations(3), "--kind", "preference"), "--kind preference cannot be labelled with --teacher.")
    refused(label(demonstrations(3), "--kind", "preference"), "Choose one of demonstration, prompt")


def test_other_rows_are_told_and_a_finished_file_is_not_made_again(labelled):
    label, out = labelled
    _, _, first = label(demonstrations(10), "--json")
    assert "rows 10/10" in " ".join(first.split())
    whole = out.read_bytes()
    status, _, again = label(demonstrations(10), "--json")
    assert status == 0 and "10 are there already" in again and "rows 8/10" not in again and "10/10" not in again
    assert out.read_bytes() == whole
    refused(label(demonstrations(9)), "the rows differ, as with another --limit or other data")


def test_more_words_than_there_are_is_told(tmp_path, tiny_folder, teacher):
    words, out = len(teacher.template.tokenizer), tmp_path / "labelled.jsonl"
    data = write_rows(tmp_path / "rows.jsonl", demonstrations(1))
    flags = ("--teacher", str(tiny_folder), "--top-k", "1000", "--out", str(out), "--json")
    said = " ".join(cli("label", data, *flags)[2].split())
    assert f"--top-k 1000 is too many for the teacher's {words:,} words: all but the last are listed." in said
    (record,) = encoded(rows_of(out), teacher.template)
    assert stored_logps([record]).ids[0].shape[1] == words - 1


def test_teachers_by_domain_are_refused_with_what_to_do(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", demonstrations(3))
    result = cli("label", data, "--teacher", "math=a,code=b")
    refused(result, "teacher takes one name here: label the rows of each domain by")
    # Of the options it names the one that was given.
    refused(result, "got teacher = math=a,code=b (command line).")


def record(prompt, completion, column, row=3):
    return {
        "row": row,
        "record": {} if column is None else {COLUMN: column},
        "completion": Answer.of(prompt, completion),
    }


def column(prompt, completion, words=2):
    shape = (len(completion), words)
    ids, logps = torch.arange(words).expand(shape), torch.full((shape[0], words + 1), 1 / (words + 1)).log()
    return column_of(Answer.of(prompt, completion), ids, logps)


def impossible():
    """Columns with a log-probability above 0, one that is no number, and a word with a negative number."""
    answer, ids, logps = Answer.of([1], [5, 6]), torch.zeros(2, 2).long(), torch.full((2, 3), -1.0)
    return (
        column_of(answer, ids, logps + 1.5),
        column_of(answer, ids, logps * torch.nan),
        column_of(answer, ids - 1, logps),
    )


def test_a_completion_that_training_cuts_has_the_first_of_its_log_probs():
    top = stored_logps([record([1], [5, 6], column([1], [5, 6, 7]))])
    assert top.ids[0].tolist() == [[0, 1], [0, 1]] and top.logps[0].shape == (2, 3)


@pytest.mark.parametrize("prompt, completion", [([1], [5, 8, 7]), ([2], [5, 6, 7]), ([1], [5, 6, 7, 8])])
def test_tokens_that_the_teacher_was_not_given_are_refused(prompt, completion):
    with pytest.raises(ZooError, match="Row 3: .* of other tokens than training has") as refusal:
        stored_logps([record(prompt, completion, column([1], [5, 6, 7]))])
    assert "tokenizer and chat template" in refusal.value.hint


def test_what_is_missing_or_damaged_is_told_with_its_row():
    with pytest.raises(ZooError, match="Row 3 has no teacher's log-probs") as refusal:
        stored_logps([record([1], [5], None)])
    assert "zoo label DATA --teacher MODEL" in refusal.value.hint
    whole = column([1], [5, 6])
    for damaged in (
        "text", {}, {**whole, "ids": whole["ids"][:8]}, {**whole, "logps": "?"}, {**whole, "tokens": ""},
        {**whole, "prompt": 1}, {**whole, "logps": whole["logps"][:-4]}, *impossible(),
    ):  # fmt: skip
        with pytest.raises(ZooError, match=f"Row 3: the column {COLUMN} is damaged"):
            stored_logps([record([1], [5, 6], damaged)])
    two_numbers = [record([1], [5], column([1], [5])), record([1], [5], column([1], [5], words=3))]
    for look in (stored_logps, check_stored_logps):
        with pytest.raises(ZooError, match="different numbers of words"):
            look(ListedRecords(two_numbers))


def test_all_rows_are_looked_at_before_training_and_of_a_stream_the_first(labelled, tiny_folder, tmp_path):
    label, out = labelled
    assert label(demonstrations(12))[0] == 0
    rows = rows_of(out)
    del rows[8][COLUMN]
    options = {
        "data": write_rows(tmp_path / "lacking.jsonl", rows), "stored": True, "own_share": 0.0, "max_steps": 1,
        "batch_size": 4, "eval_fraction": 0.0,
    }  # fmt: skip
    train = trainer(tmp_path, tiny_folder)
    for more in ({}, {"stream": True, "shuffle_buffer": 4}):
        with pytest.raises(ZooError, match="Row 9 has no teacher's log-probs"):
            train("gkd", **options, **more)
        assert not list((tmp_path / "runs").glob("*/metrics.jsonl"))
