"""Streams: data that is read as it comes, in one order, with the records of a store, and resumed exactly."""

import functools
import gzip
import http.server
import itertools
import json
import os
import threading
from collections import Counter
from pathlib import Path

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import torch
from test_processes import only_run
from tiny_runs import (
    broken_run,
    differences,
    float32_flags,
    losses,
    preferences,
    same_bytes,
    trainer,
    two_processes,
    weights,
    write_rows,
)

import zoo
from zoo.comparison.entrants import read_settings
from zoo.data import stream_loader, streams
from zoo.data.encoding.template import ChatTemplate
from zoo.data.prepared import prepare
from zoo.data.sources.given import giving
from zoo.data.sources.mixture import read_mixture
from zoo.data.sources.reading import Reading
from zoo.data.sources.streamed import stream_files
from zoo.data.stream_loader import StreamLoader, StreamPart, Streams
from zoo.data.stream_opening import prepare_first
from zoo.data.streams import ROWS_OF_A_FILE, Files, Stream, restored, stored
from zoo.errors import ZooError
from zoo.values.answers import answers_in
from zoo.values.records import ListedRecords, NeedsAll, StreamedRecords
from zoo.values.types import Answers, Batch

PACKED = {"": bytes, ".gz": gzip.compress, ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True)}


@pytest.fixture
def template(tiny_tokenizer):
    return ChatTemplate(tiny_tokenizer)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", 4)


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Three files with 30 pairs."""
    monkeypatch.chdir(tmp_path)
    rows = preferences(30)
    for number in range(3):
        write_rows(tmp_path / f"part-{number}.jsonl", rows[10 * number : 10 * number + 10])
    return rows


def open_stream(template, source="part-*.jsonl", kind="preference", **options):
    files, first = prepare_first(source, kind, template, Reading(limit=5))
    return Stream(files, first.work, **{"buffer": 8, **options})


def drawn(stream, count):
    return [stream.draw().record(0) for _ in range(count)]


def rows_of(records):
    return [record["row"] for record in records]


def plain(record):
    """A record that can be compared."""
    answers = [[part.tolist() for part in (a.prompt, a.completion, a.mask)] for a in answers_in(record)]
    tensors = {name: value.tolist() for name, value in record.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in record.items() if isinstance(value, int | float | str | dict)}
    steps = {name: record[name] for name in ("ranks", "labels", "step_ends") if name in record}
    return {**others, **tensors, **steps, "answers": answers}


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACKED)
def test_a_file_is_read_from_any_place_on(tmp_path, suffix):
    content = b"\xef\xbb\xbf" + b"".join(b'{"text": "%d"}\n%s' % (n, b"\n" * (n % 3)) for n in range(9))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACKED[suffix](content))
    (file,) = stream_files(str(path))
    whole = list(file.lines())
    assert [line.number for line, _ in whole] == [1, 2, 4, 7, 8, 10, 13, 14, 16]
    for place, (line, end) in enumerate(whole):
        assert list(file.lines(line.number, end)) == whole[place + 1 :]


def test_parquet_is_read_from_any_row_on(tmp_path):
    rows = [{"text": str(n), "about": {"n": n}} for n in range(10)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=3)
    (file,) = stream_files(str(tmp_path / "a.parquet"))
    for before in range(11):
        lines = [line for line, _ in file.lines(before)]
        assert [line.row for line in lines] == rows[before:]
        assert [line.number for line in lines] == list(range(before + 1, 11))


def test_addresses_of_fsspec_are_patterns_too(tmp_path):
    system = fsspec.filesystem("memory")
    for name in "ba":
        system.pipe_file(f"/zoo/{name}.jsonl.gz", gzip.compress(f'{{"text": "{name}"}}\n'.encode()))
    files = stream_files("memory://zoo/*.jsonl.gz")
    assert [file.name for file in files] == ["memory:///zoo/a.jsonl.gz", "memory:///zoo/b.jsonl.gz"]
    assert [json.loads(line.content) for file in files for line, _ in file.lines()] == [{"text": "a"}, {"text": "b"}]
    rows = [{"text": str(n)} for n in range(5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    system.pipe_file("/zoo/a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert [line.row for line, _ in stream_files("memory://zoo/a.parquet")[0].lines(3)] == rows[3:]
    system.pipe_file("/zoo/b.jsonl.gz", b"something else")
    with pytest.raises(ZooError, match="memory:///zoo/b.jsonl.gz was size .* and is size 14"):
        list(files[1].lines())


class InParts(http.server.SimpleHTTPRequestHandler):
    """Gives parts of files, as servers of data do; with parts = False whole files only."""

    parts = True

    def do_GET(self):
        asked = self.headers.get("Range") if self.parts else None
        if asked is None:
            return super().do_GET()
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        content = Path(self.translate_path(self.path)).read_bytes()
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


def test_a_file_of_a_server_is_read_from_any_place_on(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{n}"}}\n' for n in range(9)))
    (tmp_path / "a.jsonl.zst").write_bytes(PACKED[".zst"]((tmp_path / "a.jsonl").read_bytes()))
    handler = functools.partial(InParts, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("a.jsonl", "a.jsonl.zst"):
            (file,) = stream_files(f"http://127.0.0.1:{server.server_port}/{name}")
            whole = list(file.lines())
            assert [line.number for line, _ in whole] == list(range(1, 10))
            assert list(file.lines(4, whole[3][1])) == whole[4:]
        InParts.parts = False
        with pytest.raises(ZooError, match="a.jsonl cannot be read: ValueError The HTTP server doesn't"):
            list(stream_files(f"http://127.0.0.1:{server.server_port}/a.jsonl")[0].lines(4, whole[3][1]))
        with pytest.raises(ZooError, match="/absent.jsonl cannot be opened: FileNotFoundError"):
            stream_files(f"http://127.0.0.1:{server.server_port}/absent.jsonl")
        server.shutdown()


def test_a_table_of_the_datasets_library_is_read_part_by_part():
    rows = preferences(9)
    table = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)
    with giving({"data": table}):
        files = stream_files("python:data")
    assert [file.name for file in files] == [f"python:data part {n} of 3" for n in (1, 2, 3)]
    assert [line.row for file in files for line, _ in file.lines()] == rows
    assert [(line.number, line.row) for line, _ in files[1].lines(1)] == [(2, rows[4]), (3, rows[5])]


def test_a_data_set_of_the_hub_is_read_part_by_part(monkeypatch):
    asked = []

    def load_dataset(path, config, split, streaming):
        asked.append((path, config, split, streaming))
        return datasets.Dataset.from_list(preferences(6)).to_iterable_dataset(num_shards=2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("zoo.libraries.hub._can_look_up", lambda address: True)
    files = stream_files("owner/name:small@test")
    assert [file.name for file in files] == [f"owner/name:small@test part {n} of 2" for n in (1, 2)]
    assert [line.row for file in files for line, _ in file.lines(1)] == [preferences(6)[n] for n in (1, 2, 4, 5)]
    assert asked == [("owner/name", "small", "test", True)]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nothing-*.jsonl", "No file fits nothing-"),
        ("rows.csv", "files of the type '.csv'"),
        ("*.json*", "files of the type '.json'"),
        ("part-*", "several types: .jsonl, .parquet"),
        ("starter", "gives all of its rows at once"),
        ("nosuchprotocol://a/b.jsonl", "cannot be opened"),
        ("part-*.jsonl@test", "has no split 'test'"),
    ],
)
def test_what_is_not_read_as_it_comes_is_refused(shards, tmp_path, source, why):
    for name in ("rows.csv", "one.json", "part-9.parquet"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(ZooError, match=why):
        stream_files(source, named={"starter": None})


def test_a_pattern_or_address_is_one_source_and_not_a_product(shards):
    for text in ("part-*.jsonl", "s3://bucket/a+b/*.parquet"):
        assert [part.source for part in read_mixture(text, ())] == [text]
    parts = read_mixture("0.5*'part-*.jsonl' + 0.5*'hf://datasets/a/b/*.parquet'", ())
    assert [part.source for part in parts] == ["part-*.jsonl", "hf://datasets/a/b/*.parquet"]


# -- order and records -------------------------------------------------------------------------------------------------


def test_the_records_of_a_row_are_those_of_a_store(shards, template, tmp_path):
    write_rows(tmp_path / "all.jsonl", shards)
    whole = {record["row"]: plain(record) for record in prepare("all.jsonl", "preference", template).encoded.records}
    streamed = drawn(open_stream(template, "all.jsonl"), 30)
    assert {record["row"]: plain(record) for record in streamed} == whole
    parts = drawn(open_stream(template), 30)
    assert {10 * (r["row"] // ROWS_OF_A_FILE) + r["row"] % ROWS_OF_A_FILE for r in parts} == set(range(1, 31))


def test_each_pass_has_every_record_once_in_an_order_of_its_own(shards, template):
    rows = rows_of(drawn(open_stream(template), 90))
    passes = [rows[:30], rows[30:60], rows[60:]]
    assert len({tuple(one) for one in passes}) == 3
    assert all(Counter(one) == Counter(passes[0]) and len(set(one)) == 30 for one in passes)
    assert rows_of(drawn(open_stream(template), 90)) == rows
    assert rows_of(drawn(open_stream(template, seed=1), 90)) != rows


def test_the_files_come_in_another_order_in_each_pass_and_a_buffer_of_one_keeps_their_own(shards, template):
    rows = rows_of(drawn(open_stream(template, buffer=1), 120))
    first = [row // ROWS_OF_A_FILE for row in rows[::10]]
    assert all(sorted(first[n : n + 3]) == [0, 1, 2] for n in range(0, 12, 3)) and first[:3] != first[3:6]
    assert all(b == a + 1 for a, b in itertools.pairwise(rows[:10]))


def test_a_buffer_as_large_as_the_data_shuffles_all_of_it(shards, template):
    files = [row // ROWS_OF_A_FILE for row in rows_of(drawn(open_stream(template, buffer=100), 30))]
    assert len(set(files[:10])) == 3


@pytest.mark.parametrize("position", [0, 1, 7, 29, 30, 31, 44])
def test_a_stream_goes_on_from_its_state(shards, template, tmp_path, position):
    (tmp_path / "part-1.jsonl.gz").write_bytes(gzip.compress((tmp_path / "part-1.jsonl").read_bytes()))
    (tmp_path / "part-1.jsonl").unlink()
    whole, first = open_stream(template, "part-*"), open_stream(template, "part-*")
    expected = [plain(record) for record in drawn(whole, 100)]
    drawn(first, position)
    torch.save(first.state(), tmp_path / "state.pt")
    second = open_stream(template, "part-*")
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [plain(record) for record in drawn(second, 100 - position)] == expected[position:]
    assert second.facts() == whole.facts() and second.epoch() == whole.epoch()


def test_workers_encode_ahead_what_this_process_would(shards, template, tmp_path):
    alone, helped = open_stream(template), open_stream(template, workers=2)
    assert [plain(record) for record in drawn(alone, 41)] == [plain(record) for record in drawn(helped, 41)]
    assert alone.place == helped.place and alone.facts() == helped.facts()


@pytest.mark.parametrize("kind", ["preference", "demonstration", "feedback", "ranking", "stepwise", "text", "prompt"])
def test_records_of_every_kind_survive_a_checkpoint(template, tmp_path, kind):
    from zoo.testing.tiny import tiny_rows

    rows = tiny_rows(kind, 6)
    rows[3] = {**rows[3], "margin": 0.5} if kind == "preference" else rows[3]
    write_rows(tmp_path / "rows.jsonl", rows)
    stream = open_stream(template, str(tmp_path / "rows.jsonl"), kind)
    blocks = [stream.draw() for _ in range(6)]
    again = restored(stored(blocks))
    assert [plain(a.record(0)) for a in again] == [plain(b.record(0)) for b in blocks]
    assert restored(stored([])) == []


# -- what became of the rows -------------------------------------------------------------------------------------------


def test_rows_are_counted_in_the_first_pass_as_those_of_a_file(shards, template, tmp_path):
    shards[3]["rejected"] = shards[3]["chosen"]
    shards[5]["chosen"] = "long " * 300
    write_rows(tmp_path / "all.jsonl", shards)
    made, said = prepare("all.jsonl", "preference", template), []
    stream = open_stream(template, "all.jsonl", say=said.append)
    drawn(stream, 90)
    facts = stream.facts()
    of_file = made.report.as_json()
    assert {name: facts[name] for name in ("rows", "kept", "dropped", "dropped_by_reason", "problems")} == {
        name: of_file[name] for name in ("rows", "kept", "dropped", "dropped_by_reason", "problems")
    }
    assert facts["encoded"]["dropped_by_reason"] == made.encoded.report.as_json()["dropped_by_reason"]
    assert facts["encoded"]["tokens"] == made.encoded.as_json()["tokens"]
    assert facts["notes"] == of_file["notes"] and facts["stream"]["passes"] == 3
    assert "all.jsonl: 30 rows read, 2 dropped, 28 records. That is all of it; the next pass" in said[0]
    assert "1 dropped: E_IDENTICAL_PAIR, the two answers are the same (row all.jsonl:4)" in stream.lines()[1]


def test_only_the_first_problems_are_kept_however_many_there_are(template, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "STORED_PROBLEMS", 3)
    rows = preferences(40)
    rows[::6] = [{**row, "rejected": row["chosen"]} for row in rows[::6]]
    stream = open_stream(template, write_rows(tmp_path / "rows.jsonl", rows))
    drawn(stream, 33)
    facts = stream.facts()
    assert facts["dropped"] == 7 and [problem[0] for problem in facts["problems"]] == [1, 7, 13]


def test_damaged_rows_stop_a_stream_by_the_name_of_their_file(shards, template, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "ENOUGH", 16)
    stream = open_stream(template)
    lines = (tmp_path / "part-2.jsonl").read_text().splitlines()
    lines[7] = lines[7][:-9]
    (tmp_path / "part-2.jsonl").write_text("\n".join(lines))
    stream.files = Files("part-*.jsonl", stream_files("part-*.jsonl"))
    with pytest.raises(ZooError, match=r"1 of \d+ lines cannot be read:\n  part-2.jsonl:8 \[E_JSON\]"):
        drawn(stream, 30)


def test_strict_allows_no_row_to_be_dropped(shards, template, tmp_path):
    shards[25]["chosen"] = "long " * 300
    write_rows(tmp_path / "all.jsonl", shards)
    drawn(open_stream(template, "all.jsonl"), 30)
    with pytest.raises(ZooError, match=r"all.jsonl:26 \[E_TOO_LONG\]"):
        drawn(open_stream(template, "all.jsonl", strict=True), 30)


def test_a_file_that_changes_while_it_is_read_is_refused_by_its_name(shards, template, tmp_path):
    stream = open_stream(template, buffer=1)
    drawn(stream, 30)
    write_rows(tmp_path / "part-1.jsonl", shards[:3])
    with pytest.raises(ZooError, match="part-1.jsonl was 983 bytes, changed at .*, and is 305 bytes"):
        drawn(stream, 30)


def test_a_change_is_noticed_within_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.sources.streamed.LINES_BETWEEN_LOOKS", 4)
    write_rows(tmp_path / "rows.jsonl", preferences(40))
    lines = stream_files(str(tmp_path / "rows.jsonl"))[0].lines()
    assert len(list(itertools.islice(lines, 6))) == 6
    os.utime(tmp_path / "rows.jsonl", (1, 1))
    with pytest.raises(ZooError, match="rows.jsonl was .* changed at .*, and is .* changed at 1000000000"):
        list(lines)


# -- several streams, and their steps --------------------------------------------------------------------------------


def collate(records):
    return Batch(row=torch.tensor(rows_of(records)), chosen=Answers([record["chosen"] for record in records]))


def loader(template, records=None, rank=0, processes=1, weights=((3, "part-0.jsonl"), (1, "part-1.jsonl"))):
    parts = [StreamPart(name, weight, open_stream(template, name)) for weight, name in weights]
    first = records or StreamedRecords(ListedRecords([]))
    return StreamLoader(Streams(parts), first, collate, batch_size=4, steps=9, rank=rank, processes=processes)


def test_a_mixture_of_streams_has_its_shares_at_every_step(shards, template):
    steps = loader(template)
    for _ in steps:
        pass
    assert [part.stream.drawn for part in steps.streams.parts] == [27, 9]


def test_two_processes_share_the_steps_of_one(shards, template):
    whole = [batch.row.tolist() for batch in loader(template)]
    shares = [[batch.row.tolist() for batch in loader(template, rank=rank, processes=2)] for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(step) for step in whole]
    assert all(len(a) == len(b) == 2 for a, b in zip(*shares, strict=True))


@pytest.mark.parametrize("position", [0, 1, 5])
def test_a_loader_goes_on_from_its_state_and_knows_its_last_records(shards, template, position):
    whole = [batch.row.tolist() for batch in loader(template)]
    first, second = loader(template), loader(template)
    for _ in itertools.islice(first, position):
        pass
    second.load_state_dict(first.state_dict())
    if position:
        assert rows_of(second.records_of(position - 1)) == whole[position - 1]
    assert [batch.row.tolist() for batch in second] == whole[position:]


def test_what_an_algorithm_filters_and_maps_is_done_to_each_record_as_it_comes(shards, template, monkeypatch):
    records = StreamedRecords(ListedRecords([{"row": 1, "chosen": 1}, {"row": 2}]))
    assert records and records[0]["row"] == 1 and [one["row"] for one in records[:9]] == [1, 2]
    even = records.filter(lambda one: one["row"] % 2 == 0).map(lambda one: {**one, "row": -one["row"]})
    assert [one["row"] for one in even[:9]] == [-2]
    steps = loader(template, even)
    rows = [row for batch in steps for row in batch.row.tolist()]
    assert all(row < 0 and row % 2 == 0 for row in rows) and len(rows) == 36
    for needs in (
        len,
        list,
        lambda all: all.column("row"),
        lambda all: all[2],
        lambda all: all[-1],
        lambda all: all[::2],
    ):
        with pytest.raises(NeedsAll):
            needs(records)
    monkeypatch.setattr(stream_loader, "LEFT_OUT", 50)
    with pytest.raises(ZooError, match="leaves out 50 records one after another"):
        loader(template, records.filter(lambda one: False)).records_of(0)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, tiny_folder, shards):
    write_rows(tmp_path / "held-out.jsonl", preferences(6, seed=9))
    made = trainer(tmp_path, tiny_folder)
    streamed = {"stream": True, "eval_data": "held-out.jsonl", "max_steps": 12, "shuffle_buffer": 8, "save_every": 2}
    return lambda algo="dpo", **options: made(algo, **{"data": "part-*.jsonl", **streamed, **options})


def test_a_run_trains_on_a_stream_and_writes_what_became_of_its_rows(train, capsys):
    run = train(quiet=False)
    told = capsys.readouterr().out
    assert "part-*.jsonl: 3 files, read as it comes. Read as 'preference' (preference)." in told
    assert "Training dpo: a stream, 12 steps of 4" in told
    assert len(losses(run)) == 12 and [row["epoch"] for row in run.log_history if "epoch" in row][-1] == 1.6
    facts = run.read_json("data.json")["train"]
    assert facts["rows"] == facts["kept"] == 30 and facts["stream"] == {"shuffle_buffer": 8, "passes": 1, "drawn": 48}
    assert set(facts["files"]) == {"part-0.jsonl", "part-1.jsonl", "part-2.jsonl"}


@pytest.fixture
def broken(train):
    """`broken(step, **options)`: the folder of a run that was killed in the step after this one."""
    return lambda step, **options: broken_run(train, step, **options).path


ONE, MIXED = "part-*.jsonl", "3*part-0.jsonl + part-1.jsonl"


# Each moment once, and both sorts of stream; the other pairs repeat these.
@pytest.mark.parametrize(
    ("data", "step"),
    [(ONE, 3), (MIXED, 7), *(pytest.param(*case, marks=pytest.mark.long) for case in [(ONE, 7), (MIXED, 3)]),
     (MIXED, 11), pytest.param(ONE, 11, marks=pytest.mark.long)],
)  # fmt: skip
def test_a_run_that_is_killed_ends_with_the_same_bits(train, broken, step, data):
    whole, run = train(name="whole", data=data), broken(step, data=data)
    run = zoo.resume(run, quiet=True)
    assert same_bytes(whole, run, "metrics.jsonl") and same_bytes(whole, run, "data.json")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())


def test_a_file_that_has_changed_since_the_run_began_is_refused_by_its_name(broken, tmp_path):
    run = broken(3)
    (tmp_path / "part-1.jsonl").write_text((tmp_path / "part-1.jsonl").read_text().replace("red", "tan"))
    with pytest.raises(ZooError, match=r"data \(train part-1.jsonl\) was .* bytes, changed at .*, is") as refused:
        zoo.resume(run, quiet=True)
    assert "part-0" not in refused.value.message and "--allow-change data" in refused.value.hint
    assert len(losses(zoo.resume(run, allow_change=["data"], quiet=True))) == 12


def test_a_generator_function_is_a_stream_and_is_given_again_for_a_resume(train, broken, shards):
    whole = train(name="whole", data="0.5*part-0.jsonl + 0.5*part-1.jsonl", max_steps=2)
    assert whole

    def rows():
        yield from shards

    run = broken(5, data=rows)
    with pytest.raises(ZooError, match="stands for rows that a Python program gave"):
        zoo.resume(run, quiet=True)
    with pytest.raises(ZooError, match="whose first rows are"):
        zoo.resume(run, data=lambda: shards[1:], quiet=True)
    unbroken = train(name="unbroken", data=rows)
    assert same_bytes(unbroken, zoo.resume(run, data=rows, quiet=True), "metrics.jsonl")


def test_an_online_run_draws_its_prompts_from_a_stream_and_goes_on_in_the_middle_of_a_rollout(train, broken, tmp_path):
    write_rows(tmp_path / "part-0.jsonl", [{"prompt": f"Say {n}"} for n in range(9)])
    options = {
        "algo": "grpo", "data": "part-0.jsonl", "reward": "zoo.testing.tiny:tiny_reward", "minibatches": 2,
        "answers_per_prompt": 2, "max_new_tokens": 4, "max_steps": 6, "save_every": 1, "eval_prompts": 2,
    }  # fmt: skip
    whole, run = train(name="whole", **options), broken(3, **options)
    run = zoo.resume(run, quiet=True)
    assert same_bytes(whole, run, "metrics.jsonl") and same_bytes(whole, run, "samples.jsonl")


def test_two_processes_train_on_a_stream_as_one_does(train, tmp_path, tiny_folder):
    options = {"optimizer": "adamw(eps=1e-3)", "shuffle_buffer": 8, "max_steps": 5, "eval_data": "held-out.jsonl"}
    single = train(**options)
    flags = float32_flags(**options, devices=2, accelerator="cpu", out=tmp_path / "two")
    typed = ("--algo", "dpo", "--model", str(tiny_folder), "--data", "part-*.jsonl", "--stream")
    for done in two_processes("train", *typed, *flags, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    both = only_run(tmp_path)
    assert differences(single, both) < 1e-5
    assert losses(single) == pytest.approx(losses(both), abs=1e-5, rel=1e-4)
    assert single.read_json("data.json") == both.read_json("data.json")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_steps": None}, "--stream needs --max-steps"),
        ({"eval_data": None, "eval_fraction": 0.1}, "--stream needs --eval-data"),
        ({"limit": 5}, "--limit needs all records"),
        ({"epochs": 2}, "--epochs needs all records"),
        ({"mix_by": "tokens"}, "--mix-by needs all records"),
        ({"decay_data": "held-out.jsonl", "schedule": "wsd"}, "--decay-data needs all records"),
        ({"stream": False}, "--shuffle-buffer is for data that is read as it comes"),
        ({"data": "part-0.jsonl + part-1.jsonl"}, "part-0.jsonl has no weight"),
        ({"data": "0.5*part-0.jsonl(limit=3) + 0.5*part-1.jsonl"}, "part-0.jsonl has a limit or repeats"),
        ({"algo": "kto"}, r"KTO.prepare looks at all records before training.* no column 'label'"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_in_words(train, options, why):
    with pytest.raises(ZooError, match=why):
        train(**options)


def test_without_stream_a_pattern_is_refused_with_what_to_add(train):
    with pytest.raises(ZooError, match="part-.*.jsonl names files that are only read as they come") as refused:
        train(stream=False, shuffle_buffer=10_000)
    assert refused.value.hint == "Add --stream, which `zoo train` and `zoo data` take."


def test_a_comparison_has_no_streams():
    given = {"stream": True, "max_steps": 5, "eval_fraction": 0.0}
    settings = read_settings("dpo,ipo", None, None, [], given)
    with pytest.raises(ZooError, match="A comparison counts the tokens of all records before it trains"):
        settings.resolve(settings.entrants[0])
