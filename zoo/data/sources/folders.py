"""Folders of data: which files belong to a split, and folders that `save_to_disk` wrote."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.limits import FILES

# Common names for the files of a split; a split with another name is searched for under that name.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "heldout": "heldout",
    "eval": "eval",
}
HELD_OUT = ("heldout", "validation", "eval")
"""Splits that validation runs on, the first that a folder has. A `test` split is for the end."""
# Files that describe data or a folder and hold no rows.
_NO_DATA = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
    "package.json",
    "manifest.json",
    "metadata.json",
}


def files_of_split(folder: Path, split: str, file_type: Callable[[Path], str]) -> tuple[list[Path], list[str]]:
    """The files of one type in a folder that hold the split, in sorted order, and notes about the other files.

    A file belongs to the split that its name or its folder's name contains as a word ("train-0001",
    "my_test", "test/part.jsonl"). If no name contains a split, all files are "train". Raises ZooError.
    """
    files = _data_files(folder, file_type)
    if not files:
        raise ZooError(
            f"The folder {folder} holds no data files.",
            hint="Accepted are .jsonl, .json, .csv, .tsv, .parquet and .arrow files.",
        )
    splits = {path: split_of(path.relative_to(folder)) for path in files}
    wanted = SPLIT_WORDS.get(split, split)
    if not any(splits.values()) and wanted == "train":
        chosen = files
    else:
        chosen = [path for path in files if splits[path] == wanted or split in _words(path.relative_to(folder))]
    if not chosen:
        names = sorted({name for name in splits.values() if name}) or ["train"]
        raise NoSuchSplit(
            f"The folder {folder} has no files of a split '{split}'.{nearest(split, names)}",
            hint=f"It has: {', '.join(names)}. Write {folder}@{names[0]}",
        )
    types = sorted({file_type(path) for path in chosen})
    if len(types) > 1:
        raise ZooError(
            f"The folder {folder} holds files of several types for split '{split}': {', '.join(types)}.",
            hint=f"Name one file, for example {chosen[0]}",
        )
    unnamed = [path.name for path in files if not splits[path]] if any(splits.values()) else []
    unnamed = [name for name in unnamed if name not in {path.name for path in chosen}]
    notes = [f"{len(unnamed)} file(s) without a split in their names are not read: {', '.join(unnamed[:5])}"]
    return chosen, notes if unnamed else []


def held_out_split(folder: Path, file_type: Callable[[Path], str]) -> str | None:
    """The split of a folder that validation runs on; None if it has none. Raises ZooError."""
    if not is_saved(folder):
        has = {split_of(path.relative_to(folder)) for path in _data_files(folder, file_type)}
        # A folder of held-out files alone is trained on whole, or not at all.
        return next((name for name in HELD_OUT if name in has), None) if "train" in has else None
    return next((name for name in HELD_OUT if (folder / name / "state.json").is_file()), None)


def _data_files(folder: Path, file_type: Callable[[Path], str]) -> list[Path]:
    return [
        path
        for path in _entries(folder)
        if path.is_file()
        and file_type(path)
        and path.name not in _NO_DATA
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _entries(folder: Path) -> list[Path]:
    """Everything below a folder, sorted. Raises ZooError for a whole disk."""
    try:
        entries = list(itertools.islice(folder.rglob("*"), FILES + 1))
    except OSError as error:
        raise ZooError(f"The folder {folder} cannot be read: {error.strerror}: {error.filename}.") from None
    if len(entries) > FILES:
        raise ZooError(f"The folder {folder} holds more than {FILES:,} files and folders.", "Name a folder inside it.")
    return sorted(entries)


def split_of(path: Path) -> str:
    """The split that a relative path names, its file name first; "" if it names none."""
    return next((SPLIT_WORDS[word] for word in _words(path) if word in SPLIT_WORDS), "")


def _words(path: Path) -> list[str]:
    parts = [path.name.split(".")[0], *reversed(path.parts[:-1])]
    return [word for part in parts for word in re.split(r"[^a-z]+", part.lower()) if word]


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of the datasets library wrote this folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def saved(folder: Path, split: str) -> tuple[list[Path], Any]:
    """The arrow files of a saved data set and its batches. Raises ZooError for an unknown split."""
    from zoo.libraries import tables

    try:
        table: Any = tables.load_saved(folder)
    except ZooError:
        raise
    except Exception as error:
        raise ZooError(
            f"The saved data set {folder} cannot be read: {error}", hint="Save it again with save_to_disk."
        ) from None
    place = folder
    if tables.is_mapping_of_splits(table):
        if split not in table:
            raise NoSuchSplit(
                f"The saved data set {folder} has no split '{split}'.{nearest(split, table)}",
                hint=f"It has: {', '.join(table)}. Write {folder}@{next(iter(table))}",
            )
        table, place = table[split], folder / split
    elif split != "train":
        raise NoSuchSplit(f"The saved data set {folder} has no splits, so no '{split}'.", hint="Leave out the split.")
    return sorted(place.glob("*.arrow")), tables.batches(table)
