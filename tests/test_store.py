"""Encoded records that are kept in the cache: found again, gone on with after a kill, made again when damaged."""

import hashlib
import json
import os
import pickle
import threading
import time
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from test_prepared import CONTENT, LONG, plain, told, written  # noqa: F401
from tiny_runs import FLOAT32, differences, preferences, write_rows

import zoo
from zoo.data import pool, prepared, store
from zoo.data.checksums import DamagedStore
from zoo.data.encoding.template import ChatTemplate
from zoo.data.plain import as_json, from_json, marked
from zoo.data.prepared import prepare
from zoo.data.sources import hashes
from zoo.data.sources.reading import Reading
from zoo.errors import TrainingStopped, ZooError
from zoo.training.record.signals import Stopped
from zoo.values.records import ChosenRecords


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Blocks of seven rows, shards of twenty, a cache of this test's own, and no store that is checked as a whole."""
    monkeypatch.setattr(store, "CHECKED_BYTES", 0)
    monkeypatch.setattr(prepared, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(store, "SHARD_ROWS", 20)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def template(tiny_tokenizer):
    return ChatTemplate(tiny_tokenizer)


class Encodings:
    """Counts the blocks that are encoded; from `stop_at` on an error is raised in their place."""

    def __init__(self, monkeypatch):
        self.count, self.stop_at, self.error = 0, None, KeyboardInterrupt()
        encoded = prepared.Work.encoded

        def counted(work, lines):
            if self.count == self.stop_at:
                raise self.error
            self.count += 1
            return encoded(work, lines)

        monkeypatch.setattr(prepared.Work, "encoded", counted)


@pytest.fixture
def encodings(monkeypatch):
    return Encodings(monkeypatch)


def whole(made):
    """All that is made of a source, in values that can be compared."""
    sides = made.without_held_out(0.3)
    return [
        told(made.report), made.fingerprint, made.format,
        *([[plain(record) for record in side.encoded.records], told(side.encoded.report), side.encoded.as_json(),
           side.encoded.lines()] for side in (made, *sides)),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", CONTENT)
def test_what_is_kept_equals_what_is_encoded_in_memory(written, template, encodings, kind):  # noqa: F811
    file, options = written(kind), {"max_length": 40, "long_rows": LONG.get(kind, "drop")}
    expected = whole(prepare(file, kind, template, **options))
    blocks = encodings.count
    cold = prepare(file, kind, template, store=True, **options)
    assert whole(cold) == expected and encodings.count == 2 * blocks
    warm = prepare(file, kind, template, **options)
    assert whole(warm) == expected and encodings.count == 2 * blocks
    assert len(warm.kept.shards) > 3 and isinstance(warm.encoded.records[3:5], ChosenRecords)


def test_conversions_that_keep_each_prompt_once_go_on_doing_so(written, template, encodings):  # noqa: F811
    file = written("preference")
    expected = whole(prepare(file, "prompt", template))
    encodings.count, encodings.stop_at = 0, 5
    with pytest.raises(KeyboardInterrupt):
        prepare(file, "prompt", template, store=True)
    encodings.stop_at = None
    assert whole(prepare(file, "prompt", template, store=True)) == expected


@pytest.mark.parametrize("stop_at", [0, 1, 3, 10, 22])
def test_an_encoding_that_was_stopped_goes_on_where_it_was(written, template, encodings, stop_at):  # noqa: F811
    file, said = written("preference"), []
    expected = whole(prepare(file, "preference", template))
    blocks, encodings.count, encodings.stop_at = encodings.count, 0, stop_at
    with pytest.raises(KeyboardInterrupt):
        prepare(file, "preference", template, store=True, say=said.append)
    assert [line.startswith("What is encoded is kept") for line in said] == [True] * (stop_at > 0)
    encodings.stop_at = None
    assert whole(prepare(file, "preference", template, store=True, say=said.append)) == expected
    assert encodings.count == blocks
    assert any("goes on after" in line for line in said) == (stop_at > 0)


def test_a_kill_in_the_middle_of_a_shard_leaves_nothing_that_counts(written, template, encodings, tmp_path):  # noqa: F811
    file = written("preference")
    expected = whole(prepare(file, "preference", template))
    encodings.count, encodings.stop_at = 0, 9
    with pytest.raises(KeyboardInterrupt):
        prepare(file, "preference", template, store=True)
    (folder,) = [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]
    shards = sorted(folder.glob("*.json"))
    shards[-1].unlink()
    (folder / f"{shards[0].stem}.told.arrow").write_bytes(b"half")
    (folder / ".tmp-00002.told.arrow").write_bytes(b"half")
    encodings.stop_at = None
    assert whole(prepare(file, "preference", template, store=True)) == expected
    assert not list(folder.glob(".tmp-*")) and not list(folder.glob("*.npy"))


@pytest.mark.parametrize("part", ["encoded", "records", "problems"])
def test_a_damaged_store_is_told_and_made_again(written, template, encodings, tmp_path, part):  # noqa: F811
    file, said = written("feedback"), []
    expected = whole(prepare(file, "feedback", template, store=True))
    (path,) = (tmp_path / "cache" / "data").glob(f"*/00001.{part}.arrow")
    path.write_bytes(path.read_bytes()[:-20])
    encodings.count = 0
    assert whole(prepare(file, "feedback", template, store=True, say=said.append)) == expected
    assert encodings.count and "damaged" in said[0] and part in said[0]


def flip(path, place):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    with path.open("r+b") as file:
        file.write(content)


@pytest.mark.parametrize(("kind", "file"), [
    ("preference", "00001.encoded.arrow"), ("feedback", "00001.records.arrow"), ("ranking", "00001.problems.arrow"),
    ("demonstration", "00001.told.arrow"), ("preference", "00001.json"), ("feedback", "told.arrow"),
    ("demonstration", "manifest.json"),
])  # fmt: skip
def test_no_flipped_bit_is_trained_on(written, template, tmp_path, kind, file):  # noqa: F811
    source, options = written(kind), {"max_length": 40, "long_rows": LONG.get(kind, "drop")}
    expected = whole(prepare(source, kind, template, store=True, **options))
    (path,) = (tmp_path / "cache" / "data").glob(f"*/{file}")
    size, told = path.stat().st_size, 0
    for place in [*range(4, size, max(1, size // 16)), size - 9]:
        said = []
        flip(path, place)
        make = partial(prepare, source, kind, template, say=said.append, **options)
        assert store.made_again(lambda make=make: whole(make()), said.append) == expected, place
        told += any("is damaged" in line and "made again" in line for line in said)
    # Some bytes only fill up a column, and some are those of one that is made again from others.
    assert told > 7


@pytest.mark.parametrize("way", ["it is asked for", "it is small"])
def test_a_store_is_checked_to_its_last_byte_where(written, template, tmp_path, monkeypatch, way):  # noqa: F811
    source, said = written("preference"), []
    prepare(source, "preference", template, store=True)
    (path,) = (tmp_path / "cache" / "data").glob("*/00001.encoded.arrow")
    content = path.read_bytes()
    flip(path, path.stat().st_size - 1)
    prepare(source, "preference", template, say=said.append)
    assert not said
    if way == "it is small":
        monkeypatch.setattr(store, "CHECKED_BYTES", 10**6)
    prepare(source, "preference", template, store=way == "it is asked for" or None, say=said.append)
    assert "00001.encoded.arrow has changed" in said[0] and path.read_bytes() == content


def test_a_record_that_changes_while_a_run_reads_is_refused(written, template, tmp_path):  # noqa: F811
    made = prepare(written("demonstration"), "demonstration", template, store=True)
    rows = made.encoded.records[0]["record"]["prompt"].encode()
    (path,) = (tmp_path / "cache" / "data").glob("*/00000.records.arrow")
    flip(path, path.read_bytes().index(rows))
    with pytest.raises(DamagedStore, match="near row 1 has changed") as refused:
        made.encoded.records[0]
    assert "zoo resume" in refused.value.hint and "zoo cache clear --kind data" in refused.value.hint


def test_a_damaged_store_is_told_in_words(written, template, tmp_path):  # noqa: F811
    source, said = written("prompt"), []
    prepare(source, "prompt", template, store=True)
    (folder,) = {path.parent for path in (tmp_path / "cache" / "data").glob("*/manifest.json")}
    for name, words in {"00000.json": "00000.json is missing", "manifest.json": "manifest.json cannot be read"}.items():
        text = (folder / name).read_text()
        (folder / name).unlink() if "missing" in words else (folder / name).write_text(text[:-20])
        prepare(source, "prompt", template, say=said.append, store=True)
        assert words in said[-1] and "Errno" not in said[-1] and "char " not in said[-1]


CHANGES = [
    {"max_length": 39}, {"long_rows": "cut"}, {"reading": Reading(limit=50)},
    {"reading": Reading(format="preference")}, {"reading": Reading(columns={"prompt": "prompt"})},
]  # fmt: skip


def test_other_content_options_or_templates_have_stores_of_their_own(written, tiny_tokenizer, encodings):  # noqa: F811
    file = written("preference")
    options = {"max_length": 40, "store": True}
    for kind in ("preference", "feedback"):
        prepare(file, kind, ChatTemplate(tiny_tokenizer), **options)
    prepare(file, "preference", ChatTemplate(tiny_tokenizer, "none"), **options)
    for change in CHANGES:
        count = encodings.count
        prepare(file, "preference", ChatTemplate(tiny_tokenizer), **{**options, **change})
        # The format that is detected anyway is no other one.
        is_same = change.get("reading") == Reading(format="preference")
        assert (encodings.count > count) == (not is_same), change
    count = encodings.count
    with open(file, "a") as rows:
        rows.write("\n" + json.dumps(CONTENT["preference"](80)))
    made = prepare(file, "preference", ChatTemplate(tiny_tokenizer), **options)
    assert encodings.count > count and made.encoded.records[-1]["record"]["chosen"] == "A80"


def test_small_files_and_named_sources_are_encoded_by_every_run(written, template, tmp_path, monkeypatch):  # noqa: F811
    file = written("prompt")
    prepare(file, "prompt", template)
    named = {"mine": lambda split, kind: [{"prompt": f"Q{n}"} for n in range(30)]}
    prepare("mine", "prompt", template, Reading(named_sources=named), store=True)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(prepared, "STORED_BYTES", 100)
    prepare(file, "prompt", template, Reading(limit=20))
    assert not (tmp_path / "cache").exists()
    prepare(file, "prompt", template)
    assert list((tmp_path / "cache" / "data").glob("*/manifest.json"))


def test_a_second_process_waits_for_the_first(written, template, encodings):  # noqa: F811
    file, said, made = written("prompt"), [], []
    first = prepare(file, "prompt", template, store=True)
    place = store.Store(first_key(first))
    (place.folder / store.MANIFEST).unlink()
    with place.turn():
        thread = threading.Thread(
            target=lambda: made.append(prepare(file, "prompt", template, store=True, say=said.append))
        )
        thread.start()
        thread.join(0.6)
        assert thread.is_alive() and "Another process is encoding" in said[0]
    thread.join(20)
    assert whole(made[0]) == whole(first)


def first_key(made):
    from zoo.data.key import store_key

    return store_key(made.fingerprint, made.work, split="train", limit=None)


def test_a_disk_that_is_full_is_told(written, template, monkeypatch):  # noqa: F811
    def full(shard, folder, number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.data.shards.save", full)
    with pytest.raises(ZooError, match="cannot be kept in .*No space left") as refused:
        prepare(written("prompt"), "prompt", template, store=True)
    assert "ZOO_CACHE" in refused.value.hint and "zoo cache clear --kind data" in refused.value.hint


@pytest.mark.parametrize("full_at", ["00001.told.arrow", "00001.json"])
def test_a_full_disk_is_not_kept_full(written, template, monkeypatch, tmp_path, full_at):  # noqa: F811
    replace = os.replace

    def full(source, target):
        if Path(target).name == full_at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with mock.patch("os.replace", full), pytest.raises(ZooError, match="No space left"):
        prepare(written("prompt"), "prompt", template, store=True)
    files = [path.name for path in (tmp_path / "cache" / "data").glob("*/*")]
    assert files and all(name.startswith("00000.") for name in files)


def test_rows_stay_in_memory_where_nothing_can_be_written(written, template, monkeypatch, tmp_path):  # noqa: F811
    source, said = written("preference"), []
    expected = whole(prepare(source, "preference", template))
    monkeypatch.setattr(prepared, "STORED_BYTES", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    assert whole(prepare(source, "preference", template, say=said.append)) == expected
    assert "(Not a directory): the encoded rows stay in memory" in said[0]
    with pytest.raises(ZooError, match="cannot be kept in .*Not a directory") as refused:
        prepare(source, "preference", template, store=True)
    assert "Free some space" not in refused.value.hint


def test_nothing_is_kept_of_a_file_that_is_refused(written, template, tmp_path):  # noqa: F811
    file = Path(written("preference"))
    good = file.read_text()
    file.write_text(good + "no JSON\n" * 3)
    with pytest.raises(ZooError, match="lines cannot be read"):
        prepare(str(file), "preference", template, store=True)
    assert not [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]
    file.write_text(good + json.dumps({"prompt": "a", "chosen": "", "rejected": "b"}) + "\n")
    prepare(str(file), "preference", template, store=True)
    with pytest.raises(ZooError, match="--strict allows none"):
        prepare(str(file), "preference", template, Reading(strict=True))
    assert list((tmp_path / "cache" / "data").glob("*/manifest.json"))


@pytest.mark.parametrize("store", [True, False])
def test_a_file_that_changes_while_it_is_read_is_refused_and_not_kept(written, template, encodings, tmp_path, store):  # noqa: F811
    file = written("preference")
    before = Path(file).read_text()
    encoded = prepared.Work.encoded

    def growing(work, lines):
        if encodings.count == 3:
            with open(file, "a") as rows:
                rows.write(json.dumps(CONTENT["preference"](80)) + "\n")
        return encoded(work, lines)

    with mock.patch.object(prepared.Work, "encoded", growing), pytest.raises(ZooError, match="changed while it was"):
        prepare(file, "preference", template, store=store)
    assert not [path for path in (tmp_path / "cache").glob("data/*") if path.is_dir()]
    Path(file).write_text(before)
    assert len(prepare(file, "preference", template, store=store).encoded.records) > 20


def test_a_change_is_noticed_before_the_rest_is_encoded(written, template, encodings, monkeypatch):  # noqa: F811
    monkeypatch.setattr(prepared, "LOOK_EVERY", 0.0)
    file = Path(written("preference"))
    encoded = prepared.Work.encoded

    def touching(work, lines):
        if encodings.count == 2:
            file.touch()
        if encodings.count == 4:
            file.write_text(file.read_text() + "\n")
        return encoded(work, lines)

    with mock.patch.object(prepared.Work, "encoded", touching), pytest.raises(ZooError, match="changed while it was"):
        prepare(str(file), "preference", template, store=True)
    assert encodings.count == 5


def test_values_that_json_lacks_come_back_equal(tmp_path, template):
    import datetime
    import decimal

    import pyarrow
    from pyarrow import parquet

    when = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
    extra = {
        "when": when, "day": when.date(), "hour": when.time(), "took": datetime.timedelta(1, 2, 3),
        "cost": decimal.Decimal("1.50"), "raw": b"\0\xff", "pairs": [("a", 1)], "words": "é\ud83d\ude00".encode(
            "utf-16", "surrogatepass").decode("utf-16"), "number": 1e300, "whole": 2**60,
    }  # fmt: skip
    assert from_json(as_json(marked(extra))) == extra
    columns = {name: [value] * 30 for name, value in extra.items() if name != "pairs"}
    pairs = pyarrow.array([[("a", 1)]] * 30, type=pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    table = pyarrow.table({"prompt": [f"Q{n}" for n in range(30)], **columns, "pairs": pairs})
    parquet.write_table(table, tmp_path / "rows.parquet")
    plain_records = prepare(str(tmp_path / "rows.parquet"), "prompt", template).encoded.records
    kept = prepare(str(tmp_path / "rows.parquet"), "prompt", template, store=True).encoded.records
    assert [record["record"] for record in kept] == [record["record"] for record in plain_records]
    with pytest.raises(ZooError, match="Row 3: a column holds a complex"):
        as_json({"row": 3, "value": 1j})


def test_a_large_file_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "SMALL", 10)
    monkeypatch.setattr(hashes, "SETTLED", -1.0)
    file, reads = tmp_path / "rows.txt", []
    read = hashes._read
    monkeypatch.setattr(hashes, "_read", lambda path: reads.append(path) or read(path))
    file.write_text("a" * 100)
    first = hashes.sha256(file)
    assert hashes.sha256(file) == first and len(reads) == 1
    file.write_text("b" * 100)
    assert hashes.sha256(file) != first and len(reads) == 2
    status = file.stat()
    file.write_text("d" * 100)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes.sha256(file) == hashlib.sha256(b"d" * 100).hexdigest() and len(reads) == 3
    monkeypatch.setattr(hashes, "SETTLED", 60.0)
    file.write_text("c" * 100)
    assert hashes.sha256(file) == hashes.sha256(file) and len(reads) == 5


@pytest.fixture
def spread(monkeypatch):
    """Several workers, for any number of rows."""
    monkeypatch.setattr(prepared, "ROWS_FOR_A_WORKER", 1)


def test_several_processes_encode_the_same_as_one(written, template, spread):  # noqa: F811
    file = written("demonstration")
    options = {"max_length": 40, "reading": Reading(format="prompt-completion")}
    expected = whole(prepare(file, "demonstration", template, **options))
    assert whole(prepare(file, "demonstration", template, store=True, workers=3, **options)) == expected


def test_a_worker_that_ends_is_told_and_what_it_did_is_kept(written, template, spread, monkeypatch):  # noqa: F811
    file, said = written("preference"), []
    expected = whole(prepare(file, "preference", template))
    give = pool.Worker.give
    given = []

    def dying(worker, content):
        given.append(worker)
        if len(given) == 12:
            worker.process.kill()
            worker.process.wait()
        give(worker, content)

    monkeypatch.setattr(pool.Worker, "give", dying)
    with pytest.raises(ZooError, match="A data worker ended with status -9; the machine may be out of memory"):
        prepare(file, "preference", template, store=True, workers=2)
    assert all(worker.process.returncode is not None for worker in given)
    monkeypatch.setattr(pool.Worker, "give", give)
    made = prepare(file, "preference", template, store=True, workers=2, say=said.append)
    assert whole(made) == expected and "goes on after" in said[0]


class Slow:
    """Work that is not done before the test ends."""

    def encoded(self, lines):
        time.sleep(300)


def test_a_worker_ends_with_its_parent_whatever_it_is_doing():
    worker = pool.Worker(pickle.dumps(Slow()))
    assert worker.reply() is None
    worker.give([])
    # As if the parent were killed.
    worker.pipe.close()
    assert worker.process.wait(30) == 0


def test_a_tokenizer_that_cannot_be_handed_to_others_is_used_in_this_process(written, template, spread):  # noqa: F811
    file, said = written("prompt"), []
    template.keeps_me_here = lambda: None
    made = prepare(file, "prompt", template, store=True, workers=2, say=said.append)
    assert made.encoded.records and said[0].startswith("Encoding in one process: this tokenizer cannot be handed")


def test_few_rows_are_encoded_in_this_process(written, template, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pool, "Worker", None)
    assert prepare(written("prompt"), "prompt", template, store=True, workers=8).encoded.records


def test_the_harness_of_kills_knows_the_store_and_what_is_not_whole(tmp_path):
    from zoo.testing.chaos.store import STORE

    STORE.prepare(tmp_path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        STORE.make(tmp_path / name)
    made = STORE.read(tmp_path / "first")
    assert made == STORE.read(tmp_path / "second") and made["report"]["dropped"] == 10
    (manifest,) = (tmp_path / "first").rglob("manifest.json")
    manifest.unlink()
    with pytest.raises(ValueError, match="not whole"):
        STORE.read(tmp_path / "first")


def damage_records(cache):
    """Change the texts of all records in a store, behind the head that is checked first."""
    for path in cache.glob("data/*/*.records.arrow"):
        content = path.read_bytes()
        begin = content.index(b'{"')
        path.write_bytes(content[:begin] + content[begin:].replace(b'"', b"'"))


def test_a_run_learns_the_same_from_memory_and_from_a_new_an_old_and_a_damaged_store(
    tmp_path, tiny_folder, monkeypatch, capsys
):
    file = write_rows(tmp_path / "pairs.jsonl", preferences(60))
    train = partial(
        zoo.train, algo="dpo", model=str(tiny_folder), data=file, max_steps=3, out=str(tmp_path / "runs"),
        **{**FLOAT32, "eval_fraction": 0.2, "score": "none"},
    )  # fmt: skip
    first = train(name="memory")
    monkeypatch.setattr("zoo.data.checksums.HEAD", 64)
    monkeypatch.setattr(prepared, "STORED_BYTES", 0)
    monkeypatch.setattr(prepared, "ROWS_FOR_A_WORKER", 20)
    runs = [train(name=name, data_workers=2) for name in ("cold", "warm")]
    assert list((tmp_path / "cache" / "data").glob("*/manifest.json"))
    damage_records(tmp_path / "cache")
    runs.append(train(name="damaged"))
    assert "damaged" in capsys.readouterr().out
    for run in runs:
        assert differences(first, run) == 0
        for name in ("metrics.jsonl", "data.json"):
            assert (run.path / name).read_text() == (first.path / name).read_text()


def test_a_run_that_is_stopped_while_it_encodes_says_that_its_rows_are_kept(
    tmp_path, tiny_folder, monkeypatch, encodings, capsys
):
    monkeypatch.setattr(prepared, "STORED_BYTES", 0)
    train = partial(
        zoo.train, algo="dpo", model=str(tiny_folder), data=write_rows(tmp_path / "pairs.jsonl", preferences(60)),
        max_steps=1, out=str(tmp_path / "runs"), **{**FLOAT32, "eval_fraction": 0, "score": "none"},
    )  # fmt: skip
    encodings.stop_at, encodings.error = 4, Stopped(2)
    with pytest.raises(TrainingStopped) as stopped:
        train()
    assert str(stopped.value).startswith("Stopped by ctrl-C before the first step; no run was kept.")
    assert stopped.value.exit_status == 130 and "What is encoded is kept" in capsys.readouterr().out
    encodings.stop_at = None
    train()
    assert "Encoding goes on after 28 rows" in " ".join(capsys.readouterr().out.split())
