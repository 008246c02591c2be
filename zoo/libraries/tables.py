"""Tables of the datasets library: saved folders, and hub datasets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.libraries.hub import offline_without_network
from zoo.libraries.reliance import importing, relies_on, require

ROWS_AT_ONCE = 1000


def load_hub(path: str, config: str | None, split: str, streaming: bool = False) -> Any:
    """A table from the hub or its cache. streaming: one that is read as it comes. Raises what the library raises."""
    require("datasets")
    with importing("datasets"):
        import datasets
    with offline_without_network():
        options = {"streaming": True} if streaming else {}
        return datasets.load_dataset(path, config, split=split, **options)


def load_saved(folder: Path) -> Any:
    """What `save_to_disk` wrote: a table, or a mapping of split to table. Raises what the datasets library raises."""
    require("datasets")
    with importing("datasets"):
        import datasets

    return datasets.load_from_disk(str(folder))


def is_mapping_of_splits(table: Any) -> bool:
    return isinstance(table, Mapping)


def batches(table: Any) -> Iterator[Any]:
    """The rows of a table, as pyarrow tables."""
    return table.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)


def is_table(value: Any) -> bool:
    """Whether a value is a table of the datasets library, in memory or read as it comes."""
    return all(hasattr(value, name) for name in ("with_format", "skip", "shard"))


def parts(table: Any) -> list[Any]:
    """The parts in which a table that is read as it comes lies; any other table is one part."""
    count = getattr(table, "num_shards", 1)
    return [table] if hasattr(table, "num_rows") else [table.shard(count, number) for number in range(count)]


def batches_behind(table: Any, rows: int) -> Iterator[Any]:
    """The rows of a table behind so many, as pyarrow tables."""
    return batches(table.skip(rows) if rows else table)


def about(table: Any) -> str:
    """What a table that is read as it comes says of its content, in one line."""
    info = table.info
    names = ("builder_name", "dataset_name", "config_name", "version", "download_size", "dataset_size")
    return ", ".join(f"{name} {getattr(info, name)}" for name in names if getattr(info, name, None) is not None)


def fingerprint(table: Any) -> str:
    """A value that changes whenever the rows change."""
    return str(table._fingerprint)


# -- checks --------------------------------------------------------------------------------------------------------


def _saved(rows: list[dict[str, Any]], splits: bool) -> Any:
    """A small table, saved and loaded, and its rows."""
    import datasets

    table = datasets.Dataset.from_list(rows)
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        (datasets.DatasetDict({"train": table}) if splits else table).save_to_disk(folder)
        loaded = datasets.load_from_disk(folder)
        if not shown:
            datasets.enable_progress_bars()
        found = loaded["train"] if splits and is_mapping_of_splits(loaded) else loaded
        return found, [row for batch in batches(found) for row in batch.to_pylist()]


@relies_on("datasets", "A saved table can be loaded, and gives its rows in order as pyarrow tables.")
def tables_give_their_rows() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    for splits in (False, True):
        found = _saved(rows, splits)[1]
        assert found == rows, f"for {rows} it gives {found}"


@relies_on("datasets", "A table's `_fingerprint` differs when its rows do.")
def tables_have_fingerprints() -> None:
    first, second = (fingerprint(_saved([{"a": value}], False)[0]) for value in (1, 2))
    assert first and first != second, f"two tables have {first} and {second}"


@relies_on("datasets", "A table that is read as it comes can be cut into its parts, and each read behind some rows.")
def streamed_tables_can_be_read_in_parts() -> None:
    import datasets

    rows = [{"a": number} for number in range(7)]
    table = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=2)
    found = [[row for batch in batches_behind(part, 1) for row in batch.to_pylist()] for part in parts(table)]
    assert found == [rows[1:4], rows[5:]], f"for {rows} it gives {found}"
