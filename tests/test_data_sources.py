"""Rows come from files of every type, folders, saved data sets, the hub, and named sources."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys

import pyarrow
import pytest

from zoo.data.load import load
from zoo.data.sources import open_source
from zoo.data.sources.folders import split_of
from zoo.data.sources.reading import Reading
from zoo.data.sources.streamed import stream_files
from zoo.errors import ZooError

ROWS = [{"prompt": "Say \"hi\",\nplease", "completion": "hi"}, {"prompt": "Zwölf?", "completion": "12"}]


def read(source, **options):
    return [line.row for line in open_source(str(source), "demonstration", Reading(**options)).rows]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def arrow_table(rows):
    import pyarrow

    return pyarrow.Table.from_pylist(rows)


def test_jsonl_is_read_line_by_line_and_blank_lines_count_in_the_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]), encoding="utf-8")
    lines = list(open_source(str(path), "demonstration").rows)
    assert [(line.number, line.row) for line in lines] == [(1, ROWS[0]), (3, ROWS[1])]


def test_jsonl_values_are_not_rewritten(tmp_path):
    row = {"prompt": "2024-01-01", "answer": "false", "args": {"a": None}, "other": "1"}
    assert read(write_jsonl(tmp_path / "a.jsonl", [row, {"prompt": "x", "args": {"b": 1}}]))[0] == row


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode())
    assert read(path) == ROWS[:1]


PACKED = {".gz": gzip.compress, ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True)}


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_files_are_unpacked(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACKED[suffix](write_jsonl(tmp_path / "a.jsonl", ROWS).read_bytes()))
    assert read(path) == ROWS


@pytest.mark.parametrize("suffix", PACKED)
def test_a_damaged_packed_file_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    packed = PACKED[suffix](b"".join(json.dumps({"prompt": str(i) * 50}).encode() + b"\n" for i in range(999)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ZooError, match=f"a.jsonl{suffix} cannot be decompressed"):
        read(path)


@pytest.mark.parametrize("content", [ROWS, {"data": ROWS}, {"version": "1", "rows": ROWS},
                                     {"train": ROWS, "test": []}])
def test_a_json_file_is_a_list_or_an_object_around_one(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    assert read(path) == ROWS


def test_a_json_file_that_holds_lines_is_read_as_lines(tmp_path):
    assert read(write_jsonl(tmp_path / "a.json", ROWS)) == ROWS


def test_a_json_file_with_splits_gives_the_one_asked_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": ROWS[:1], "test": ROWS[1:]}), encoding="utf-8")
    assert read(f"{path}@test") == ROWS[1:]


def test_a_broken_json_file_is_an_error_with_line_and_column(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n {"prompt": "a"},\n {"prompt" "b"}\n]', encoding="utf-8")
    with pytest.raises(ZooError, match=r"a\.json:3: broken JSON at column 12"):
        read(path)


@pytest.mark.parametrize("content", ["3", '{"prompt": "a"}', '{"a": [{}], "b": [{}]}'])
def test_a_json_file_without_rows_says_what_it_holds(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ZooError, match="must be a list of rows"):
        read(path)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_tables_of_text_keep_quotes_and_line_breaks_inside_of_cells(tmp_path, name, delimiter):
    assert read(write_csv(tmp_path / name, ROWS, delimiter)) == ROWS


def test_csv_cells_stay_text_but_lists_of_messages_and_ranks_are_decoded(tmp_path):
    messages = [{"role": "user", "content": "Q"}]
    rows = [{"prompt": json.dumps(messages), "completions": '["A", "B"]', "ranks": "[1, 2]", "note": "NA",
             "answer": '{"a": 1}'}]
    assert read(write_csv(tmp_path / "a.csv", rows)) == [
        {"prompt": messages, "completions": ["A", "B"], "ranks": [1, 2], "note": "NA", "answer": '{"a": 1}'}]


def test_a_csv_row_with_too_many_cells_is_a_row_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\nc,d,e\n", encoding="utf-8")
    lines = list(open_source(str(path), "demonstration").rows)
    assert [problem.code for problem in lines[1].problems] == ["E_TYPE"]


def test_a_csv_file_with_an_open_quote_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\na,b\n"c,d\n', encoding="utf-8")
    with pytest.raises(ZooError, match=r"a\.csv:3: broken csv"):
        read(path)


def test_a_column_named_twice_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,prompt\na,b\n", encoding="utf-8")
    with pytest.raises(ZooError, match="column 'prompt' twice"):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_file_in_utf16_is_told(tmp_path, name):
    (tmp_path / name).write_text('{"prompt": "a"}\n', encoding="utf-16")
    with pytest.raises(ZooError, match="UTF-16"):
        read(tmp_path / name)


def test_parquet_and_both_arrow_forms_are_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = arrow_table(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.OSFile(str(tmp_path / "stream.arrow"), "wb") as file, \
            pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pyarrow.OSFile(str(tmp_path / "file.arrow"), "wb") as file, \
            pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "stream.arrow", "file.arrow"):
        assert read(tmp_path / name) == ROWS


def test_keys_that_arrow_added_to_messages_are_removed(tmp_path):
    import pyarrow.parquet

    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "name": "x"}]}
    pyarrow.parquet.write_table(arrow_table([row]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [row]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_damaged_table_is_an_error_that_names_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a table at all")
    with pytest.raises(ZooError, match=f"{name} cannot be read as"):
        read(tmp_path / name)


def test_a_folder_gives_its_files_in_order_under_running_numbers(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", ROWS[1:])
    write_jsonl(tmp_path / "a.jsonl", ROWS[:1] * 2)
    (tmp_path / "README.md").write_text("words")
    source = open_source(str(tmp_path), "demonstration")
    lines = list(source.rows)
    assert [(line.number, line.row) for line in lines] == [(1, ROWS[0]), (2, ROWS[0]), (3, ROWS[1])]
    assert source.where(2) == f"{tmp_path / 'a.jsonl'}:2" and source.where(3) == f"{tmp_path / 'b.jsonl'}:1"


def test_file_names_in_a_folder_tell_the_split(tmp_path):
    write_jsonl(tmp_path / "data" / "train-00000-of-00001.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "data" / "my_test.jsonl", ROWS[1:])
    write_jsonl(tmp_path / "other.jsonl", ROWS)
    assert read(tmp_path) == ROWS[:1]
    assert read(f"{tmp_path}@test") == ROWS[1:]
    assert read(tmp_path, split="test") == ROWS[1:]
    assert "other.jsonl" in open_source(str(tmp_path), "demonstration").notes[0]
    with pytest.raises(ZooError) as caught:
        read(f"{tmp_path}@tset")
    assert "Did you mean 'test'" in caught.value.message and "test, train" in caught.value.hint


@pytest.mark.parametrize(("path", "split"), [
    ("train.jsonl", "train"), ("training-2.csv", "train"), ("my_val.json", "validation"),
    ("dev.json", "validation"),
    ("heldout.jsonl.gz", "heldout"), ("test/part-1.parquet", "test"), ("trainer.jsonl", ""),
    ("valuable.csv", ""),
])
def test_splits_are_words_of_a_name(path, split):
    from pathlib import Path

    assert split_of(Path(path)) == split


def test_a_folder_of_several_types_or_none_is_an_error(tmp_path):
    with pytest.raises(ZooError, match="no data files"):
        read(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_csv(tmp_path / "b.csv", ROWS)
    with pytest.raises(ZooError, match="several types"):
        read(tmp_path)


def test_folders_saved_by_the_datasets_library_are_read(tmp_path):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data.select([0]),
                          "test": data.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert read(tmp_path / "one") == ROWS
    assert read(tmp_path / "two") == ROWS[:1] and read(f"{tmp_path / 'two'}@test") == ROWS[1:]
    with pytest.raises(ZooError, match="no split 'tset'. Did you mean 'test'"):
        read(f"{tmp_path / 'two'}@tset")


def test_a_single_file_has_no_splits(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ZooError, match="single file, so it has no split 'test'"):
        read(f"{path}@test")


def test_an_at_sign_in_a_path_that_exists_is_part_of_the_path(tmp_path):
    assert read(write_jsonl(tmp_path / "me@home.jsonl", ROWS)) == ROWS


def test_a_missing_file_is_answered_with_the_nearest_name_in_its_folder(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(ZooError, match="Did you mean 'train.jsonl'"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(ZooError, match="does not exist"):
        read(tmp_path / "nowhere" / "train.jsonl")


def test_a_relative_missing_file_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.data.sources.open_hub", lambda *_: pytest.fail("asked the hub"))
    (tmp_path / "data").mkdir()
    for name in ("other/trian.jsonl", "data/trian", "./a/b", "/tmp/nowhere/x/y"):
        with pytest.raises(ZooError, match="There is no data at"):
            read(name)


def test_a_file_of_another_type_is_refused(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(ZooError) as caught:
        read(tmp_path / "a.docx")
    assert ".jsonl" in caught.value.hint


def test_named_sources_get_split_and_kind_and_win_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    asked = []

    def starter(split, kind):
        asked.append((split, kind))
        return [{**ROWS[0], "row": 9}, {**ROWS[1]}]

    lines = list(open_source("starter@heldout", "feedback", Reading(named_sources={"starter": starter})).rows)
    assert asked == [("heldout", "feedback")]
    assert [(line.number, line.row) for line in lines] == [(9, ROWS[0]), (2, ROWS[1])]
    with pytest.raises(ZooError, match="no data files"):
        read("./starter", named_sources={"starter": starter})


def test_a_misspelt_named_source_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match="Did you mean 'starter'"):
        read("startr", named_sources={"starter": lambda split, kind: []})


def test_fingerprints_change_with_the_content_and_not_with_the_place(tmp_path):
    def fingerprint(source, **options):
        return open_source(str(source), "demonstration", Reading(**options)).fingerprint

    one = write_jsonl(tmp_path / "one" / "a.jsonl", ROWS)
    two = write_jsonl(tmp_path / "two" / "a.jsonl", ROWS)
    assert fingerprint(one) == fingerprint(two) and fingerprint(one).startswith("sha256:")
    assert fingerprint(one) != fingerprint(write_jsonl(tmp_path / "three" / "a.jsonl", ROWS[::-1]))
    write_jsonl(tmp_path / "one" / "b.jsonl", ROWS)
    write_jsonl(tmp_path / "two" / "b.jsonl", ROWS)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    write_jsonl(tmp_path / "two" / "b.jsonl", ROWS[:1])
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    named = {"x": lambda split, kind: ROWS, "y": lambda split, kind: ROWS[:1]}
    assert fingerprint("x", named_sources=named) != fingerprint("y", named_sources=named)


def test_a_hub_data_set_is_asked_for_by_name_configuration_and_split(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("zoo.libraries.hub._can_look_up", lambda address: True)
    source = open_source("owner/name:small@test", "demonstration")
    assert [line.row for line in source.rows] == ROWS
    assert asked == [("owner/name", "small", "test")]
    assert source.fingerprint.startswith("datasets:")


@pytest.mark.parametrize(("error", "message"), [
    (ValueError("Unknown split 'x'. Should be one of ['train'].\nmore"), "Should be one of"),
    (FileNotFoundError("Dataset 'owner/name' doesn't exist"), "doesn't exist"),
])
def test_what_the_hub_refuses_is_told_in_a_line(monkeypatch, error, message):
    import datasets

    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("zoo.libraries.hub._can_look_up", lambda address: True)
    with pytest.raises(ZooError, match=message) as caught:
        open_source("owner/name", "demonstration")
    assert "\n" not in caught.value.message


def test_without_a_network_the_cache_is_asked_at_once_and_the_error_names_the_local_path(monkeypatch):
    import datasets

    seen = []

    def load_dataset(*_, **__):
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("zoo.libraries.hub._can_look_up", lambda address: False)
    with pytest.raises(ZooError, match="give the path of a local file or folder") as caught:
        open_source("owner/name", "demonstration")
    assert seen == [True] and datasets.config.HF_HUB_OFFLINE is False
    assert "\n" not in caught.value.message


def test_the_real_library_offline_gives_the_same_error(tmp_path):
    program = ("from zoo.data.sources import open_source\nfrom zoo.errors import ZooError\n"
               "try:\n    open_source('nobody/nothing', 'prompt')\n"
               "except ZooError as error:\n    print(error)")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path),
                   "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "nobody/nothing cannot be reached and is not in the local cache" in output.stdout, output.stderr


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name, says in {"gone": "gone.jsonl is a link to .*nothing.jsonl, where nothing", "loop": "leads back"}.items():
        for look in (lambda path: load(path, "demonstration"), stream_files):
            with pytest.raises(ZooError, match=says):
                look(str(tmp_path / f"{name}.jsonl"))
