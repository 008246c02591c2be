"""Strict YAML: `3e-7` is a number, `no` is a text, and two equal keys are an error.

PyYAML reads YAML 1.1, in which `no` is false, `3e-7` is a text, and the second of two equal keys silently wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ZooError


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


def read_with_lines(path: str | Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file as a mapping, and the lines of its keys. Raises ZooError with file and line."""
    file = Path(path)
    if not file.is_file():
        raise ZooError(
            f"There is no file {file}.", "Give the path of a YAML file with options, such as a run's run.yaml."
        )
    with file.open(encoding="utf-8") as stream:
        try:
            content, lines = _construct(stream)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{file}:{mark.line + 1}" if mark else str(file)
            raise ZooError(f"{where} is not valid YAML: {error}") from None
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise ZooError(f"{file} must hold `option: value` lines, not a {type(content).__name__}.")
    return content, lines


def _construct(stream: Any) -> tuple[Any, Lines]:
    loader = _StrictLoader(stream)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
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
    text = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
