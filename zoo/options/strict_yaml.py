"""Strict YAML: `3e-7` is a number, `no` is a text, and two equal keys are an error.

PyYAML reads YAML 1.1, in which `no` is false, `3e-7` is a text, and the second of two equal keys silently wins.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ZooError
from zoo.limits import DEPTH, YAML_BYTES, YAML_VALUES, size


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2 scalars (3e-7 is a number, no is text), and two equal keys are an error."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


_FLOAT = re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:e[-+]?[0-9]+)?|\.inf)$|^\.nan$", re.I)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.I), list("tTfF"))
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    _FLOAT,
    list("-+.0123456789"),
)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


_MERGE = "tag:yaml.org,2002:merge"

Lines = dict[tuple[str | int, ...], int]
"""The line of every key and list item, by its path from the top."""


def _no_duplicates(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE:
            # `<<: *other`: keys of this mapping have priority over those of the other mapping.
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise ZooError(f"{node.start_mark.name}:{line}: a key must be a plain word.")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ZooError(f"{node.start_mark.name}:{line}: the key '{key}' occurs twice (first on line {seen[key]}).")
        seen[key] = line
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a mapping. Raises ZooError with file and line."""
    return read_with_lines(path)[0]


def read_some(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Those of these keys that a file written by `write_yaml` has. Other lines are not parsed, so it takes a tenth.

    Raises ZooError as `read_yaml` does.
    """
    try:
        # A long value goes on in lines that are indented.
        found = re.findall(rf"^(?:{'|'.join(names)}):.*\n(?:[ -].*\n|\n)*", _text_of(path), re.MULTILINE)
        content = _construct(_Text("".join(found), str(path)))[0] or {}
    except Exception:
        # Read whole, it raises what says the line.
        content = {}
    return content if content.keys() >= set(names) else read_yaml(path)


def read_with_lines(path: str | Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file as a mapping, and the lines of its keys. Raises ZooError with file and line."""
    file = Path(path)
    if not file.is_file():
        raise ZooError(
            f"There is no file {file}.", "Give the path of a YAML file with options, such as a run's run.yaml."
        )
    try:
        content, lines = _construct(_Text(_text_of(file), str(file)))
    except ZooError:
        raise
    except Exception as error:
        # Beside its own errors, yaml raises whatever a tag's value makes Python raise: `!!int x`, `!!timestamp x`.
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        what = str(error) if isinstance(error, yaml.YAMLError | ValueError) else "a value does not fit its tag"
        raise ZooError(f"{where} is not valid YAML: {what}") from None
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise ZooError(f"{file} must hold `option: value` lines, not a {type(content).__name__}.")
    return content, lines


class _Text(io.StringIO):
    """A text with the name of its file, which yaml's errors give."""

    def __init__(self, text: str, name: str):
        super().__init__(text)
        self.name = name


def _text_of(file: Path) -> str:
    with file.open("rb") as stream:
        content = stream.read(YAML_BYTES + 1)
    if len(content) > YAML_BYTES:
        raise ZooError(f"{file} is larger than {size(YAML_BYTES)}, the most that a file of options may be.")
    text = content.decode("utf-8")
    if (bracket := _too_deep(text)) >= 0:
        line = text.count("\n", 0, bracket) + 1
        raise ZooError(f"{file}:{line}: lists or mappings are inside each other, more than {DEPTH} deep.")
    return text


def _too_deep(text: str) -> int:
    """The position of the bracket that is open too deep, -1 if there is none; brackets in texts count as well.

    yaml's own parser would run out of its stack, which ends the process.
    """
    depth = 0
    for match in _BRACKET.finditer(text):
        depth = max(0, depth + (1 if match[0] in "[{" else -1))
        if depth > DEPTH:
            return match.start()
    return -1


_BRACKET = re.compile(r"[][{}]")


def _check_size(node: yaml.Node, file: str) -> None:
    """Raises ZooError for aliases of aliases that hold more values than anyone can read, or that hold themselves."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node, depth: int) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if depth > DEPTH or counts.get(id(node)) == 0:
            raise ZooError(f"{file}:{node.start_mark.line + 1}: it holds itself, or is more than {DEPTH} deep.")
        if id(node) not in counts:
            counts[id(node)] = 0
            inside = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            counts[id(node)] = 1 + sum(count(part, depth + 1) for part in inside)
        if counts[id(node)] > YAML_VALUES:
            raise ZooError(
                f"{file}:{node.start_mark.line + 1}: with its aliases written out, it holds more than "
                f"{YAML_VALUES:,} values."
            )
        return counts[id(node)]

    count(node, 0)


def _construct(stream: Any) -> tuple[Any, Lines]:
    loader = _StrictLoader(stream)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _check_size(node, stream.name)
        content, lines = loader.construct_document(node), Lines()
        _collect(node, (), lines, set())
        return content, lines
    finally:
        loader.dispose()


def _collect(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, seen: set[int]) -> None:
    """Record the lines below a node; a key of this mapping comes after the same key from a merge, and replaces it.

    The content of an alias is recorded once, where it is written: aliases of aliases would never end.
    """
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value]
    else:
        children = [(i, item, item) for i, item in enumerate(node.value)]
    for name, where, value in children:
        lines[(*path, name)] = where.start_mark.line + 1
        _collect(value, (*path, name), lines, seen)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping such that `read_yaml` returns it."""
    path.write_text(as_yaml(content), encoding="utf-8")


def as_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as a text that is read as the same."""
    return str(yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_front(text: str) -> dict[str, Any]:
    """The front matter of a page, the mapping between its first two lines `---`; {} where none can be read."""
    found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|\Z)", text[:YAML_BYTES], re.DOTALL)
    if found is None or _too_deep(found[1]) >= 0:
        return {}
    try:
        content = _construct(_Text(found[1], "front matter"))[0]
    except Exception:
        # Another program's file: whatever is wrong with it, it says nothing here.
        return {}
    return content if isinstance(content, dict) else {}


def spelled(name: str, value: Any) -> str:
    """One option in one line, such that `read_yaml` returns it."""
    inside = yaml.dump({name: value}, Dumper=_Dumper, allow_unicode=True, default_flow_style=True, width=10**6)
    return inside.strip()[1:-1]
