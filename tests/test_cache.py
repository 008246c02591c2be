"""`zoo cache`: what the cache holds, and clearing it by kind and age."""

import json
import os
import shutil
import time
from unittest import mock

import pytest
import typer

from zoo.cli.cache import cache
from zoo.errors import ZooError
from zoo.runs import hold


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with a store, one that is being made, a model, and log-probs that were not used for 40 days."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    for name, content in {
        "data/whole/manifest.json": json.dumps({"source": "rows.jsonl", "kind": "preference", "rows": 12000}),
        "data/whole/00000.encoded.arrow": "x" * 3_000_000, "data/begun/00000.told.arrow": "x",
        "data/files.sqlite": "", "models/mine/config.json": "{}", "reference/abc.sqlite": "x" * 9_000_000,
        "key": "secret",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    old = time.time() - 40 * 86400
    os.utime(tmp_path / "reference" / "abc.sqlite", (old, old))
    return tmp_path


def listed(capsys, **options):
    cache(as_json=True, **options)
    return [(entry["kind"], entry["what"]) for entry in json.loads(capsys.readouterr().out)]


def test_the_list_says_what_there_is_the_largest_first(folder, capsys):
    assert listed(capsys) == [
        ("reference", "abc"), ("data", "rows.jsonl as preference, 12,000 rows"), ("models", "mine"),
        ("data", "encoding that is not finished"),
    ]  # fmt: skip
    cache()
    # A long path is wrapped.
    text = "".join(capsys.readouterr().out.split())
    assert "9MB" in text and "40d" in text and f"12MBin{folder}" in text


def test_what_is_cleared_goes_by_kind_and_age_and_is_named(folder, capsys):
    cache("clear", older="30d")
    assert "Removed reference: abc (9 MB, 40 d old)" in capsys.readouterr().out
    assert not (folder / "reference" / "abc.sqlite").exists() and (folder / "models" / "mine").exists()
    cache("clear", kind="data")
    assert "2 removed" in capsys.readouterr().out
    assert not (folder / "data" / "whole").exists() and (folder / "models" / "mine").exists()
    cache("clear", everything=True)
    capsys.readouterr()
    assert listed(capsys) == [] and (folder / "key").exists()


def test_data_that_is_being_encoded_stays(folder, capsys):
    with hold(folder / "data" / "begun", "", ""):
        cache("clear", kind="data")
    assert "begun is in use" in capsys.readouterr().out and (folder / "data" / "begun").exists()
    assert not (folder / "data" / "whole").exists()


def test_what_cannot_be_removed_is_named_and_the_status_says_so(folder, capsys):
    remove = shutil.rmtree

    def refused(path):
        if path.name == "whole":
            raise OSError(30, "Read-only file system", str(path))
        remove(path)

    with mock.patch("shutil.rmtree", refused), pytest.raises(typer.Exit) as ended:
        cache("clear", kind="data")
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.exit_code == 1 and "data/whole cannot be removed: Read-only file system." in text
    assert "1 removed, 1 kB." in text and not (folder / "data" / "begun").exists()


def test_sizes_are_those_of_what_was_removed(folder, capsys):
    cache("clear", kind="judgements")
    assert "0 removed, 0 kB." in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    ({"everything": True}, "Write zoo cache clear --all"),
    ({"verb": "claer"}, "Did you mean 'clear'"), ({"verb": "clear"}, "What is to be cleared"),
    ({"kind": "dota"}, "no kind 'dota'"), ({"older": "soon"}, "is no time"),
])  # fmt: skip
def test_mistakes_are_named(folder, options, message):
    with pytest.raises(ZooError) as refused:
        cache(**{"verb": None, **options})
    assert message in str(refused.value)
    assert (folder / "data" / "whole").exists()


def test_an_empty_cache_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "none"))
    cache()
    assert "holds nothing" in capsys.readouterr().out
