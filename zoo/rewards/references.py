"""The reference answer of a record, and the part of an answer that is compared with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.rewards.missing import Missing

FIELDS = ("answer", "target", "ground_truth", "solution", "reference", "reward_model.ground_truth")
"""The columns that are searched for a reference answer, in this order; a dot leads into an object."""

BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([-+]?\d+(?:[.,/]\d+)*)")


def reference_of(record: Mapping[str, Any], field: str = "") -> Any:
    """The reference answer of a record, or the reason why it has none. field: its column, if not one of FIELDS."""
    return value_of(record, [field] if field else FIELDS, "reference answer")


def value_of(record: Mapping[str, Any], names: Sequence[str], what: str) -> Any:
    """The first value that a record has under one of these names, or the reason why it has none. what: it is."""
    for name in names:
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value != "" and value != []:
            return value
    columns = ", ".join(sorted(set(record) - {"row"})) or "nothing"
    where = f"no column {names[0]}" if len(names) == 1 else f"none of the columns {', '.join(names)}"
    return Missing(f"no {what}: {where} (the row has {columns})")


def references_of(record: Mapping[str, Any], field: str = "") -> list[str] | Missing:
    """The reference answers as texts, any of which is right: a column may hold several."""
    value = reference_of(record, field)
    if isinstance(value, Missing):
        return value
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [str(reference).strip() for reference in (value if several else [value])]


def against(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], field: str,
    right: Callable[[str, list[str]], float | Missing],
) -> list[float | None | Missing]:  # fmt: skip
    """The result of `right` for each answer and its record's reference answers; missing if the record has none."""
    pairs = ((text, references_of(record, field)) for text, record in zip(completions, records, strict=True))
    return [references if isinstance(references, Missing) else right(text, references) for text, references in pairs]


def tagged(text: str, tag: str) -> str | None:
    """The content of the last <tag>…</tag> of a text, None if there is none; without a tag, the text itself."""
    if not tag:
        return text.strip()
    _, opened, rest = text.rpartition(f"<{tag}>")
    inside, closed, _ = rest.partition(f"</{tag}>")
    return inside.strip() if opened and closed else None


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{…} or \fbox{…}, with matching braces; also of \boxed 5."""
    text = BARE_BOX.sub(r"\\boxed{\1}", text)
    rest = text[max((found.end() for found in BOX.finditer(text)), default=len(text)) :]
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[:i].strip()
    return None
