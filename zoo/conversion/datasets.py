"""What a config file of another program says about data, as zoo's `data` and `eval_data`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.options.strict_yaml import Lines

Left = tuple[str, Any, int, str]
"""A key, its value, its line, and why it is left out."""
Read = tuple[str | None, list[Left], list[str]]
"""The value of an option, what is left out, and notes."""
Found = tuple[str, Any, str, list[Left], list[str]]
"""An option, its value (None for none), where it came from, what is left out, and notes."""
PARTS = ("path", "split", "name", "data_files", "type", "ds_type", "fraction")
TYPED = "zoo finds the format by itself; `zoo data` shows what it reads."


def read_data(roles: Mapping[str, str], content: Mapping[str, Any], lines: Lines, file: Path) -> Iterator[Found]:
    """The data that a file names.

    roles: their key → `OPTION of FORM`, with a form of READERS; or `beside` for a key that a reader looks at.
    """
    for key, role in roles.items():
        option, _, form = role.partition(" of ")
        if form and content.get(key) not in (None, "", []):
            value, left, notes = READERS[form](key, content, lines, file)
            yield option, value, f"line {lines[(key,)]}: {key}", left, notes


def _hub(key: str, content: Mapping[str, Any], lines: Lines, file: Path) -> Read:
    """`dataset_name`, with the configuration that `dataset_config` names."""
    config = content.get("dataset_config")
    return f"{content[key]}:{config}" if config else str(content[key]), [], []


def _list(key: str, content: Mapping[str, Any], lines: Lines, file: Path) -> Read:
    """A list of mappings with a `path`."""
    parts, left = [], list[Left]()
    entries = content[key] if isinstance(content[key], list) else [content[key]]
    for number, entry in enumerate(entries):
        entry = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not entry.get("path"):
            left.append((key, entry, lines.get((key, number), lines[(key,)]), "It names no path."))
            continue
        files = entry.get("data_files")
        names = files if isinstance(files, list) else [files] if files else [entry["path"]]
        if entry.get("name") and not files:
            names = [f"{entry['path']}:{entry['name']}"]
        for name in names:
            split = entry.get("split")
            mentioned = _quoted(str(name)) if len(entries) * len(names) > 1 else str(name)
            mentioned += f"@{split}" if split and split != "train" else ""
            parts.append(f"{entry['fraction']}*{mentioned}" if entry.get("fraction") else mentioned)
        for name, value in entry.items():
            line = lines.get((key, number, name), lines[(key,)])
            if value is not None and (name in ("type", "ds_type") or name not in PARTS):
                left.append((f"{key}.{name}", value, line, TYPED if name in ("type", "ds_type") else
                             "zoo reads columns by their names; --columns says other ones."))  # fmt: skip
    return " + ".join(parts) or None, left, []


def _registered(key: str, content: Mapping[str, Any], lines: Lines, file: Path) -> Read:
    """Names that a `dataset_info.json` in `dataset_dir` leads to files and hub datasets."""
    folder = Path(str(content.get("dataset_dir", "data")))
    known = _registry(folder)
    names = content[key] if isinstance(content[key], list) else str(content[key]).split(",")
    parts, left, notes = [], list[Left](), list[str]()
    for name in (str(one).strip() for one in names):
        entry = known.get(name)
        if not isinstance(entry, dict) or not (entry.get("file_name") or entry.get("hf_hub_url")):
            parts.append(name)
            if not Path(name).exists():
                why = f"{folder / 'dataset_info.json'} does not say which file it is"
                hint = "write the path, or the hub's owner/name, in its place"
                notes.append(f"{key} {name} is taken as it stands, for {why}: {hint}.")
            continue
        parts.append(str(folder / entry["file_name"]) if entry.get("file_name") else entry["hf_hub_url"])
        for option in ("columns", "tags", "formatting", "subset", "split", "num_samples"):
            if entry.get(option):
                left.append((f"{key}.{name}.{option}", entry[option], lines[(key,)], TYPED))
    return " + ".join(map(_quoted, parts)) if len(parts) > 1 else parts[0], left, notes


def _registry(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _quoted(name: str) -> str:
    """A name as a mixture takes it."""
    return f"'{name}'" if set(name) & set(" +*(),=") else name


READERS = {"hub": _hub, "list": _list, "names": _registered}
