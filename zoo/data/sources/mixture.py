"""Mixtures: several sources as the data of one run, in the language of rewards.

    0.7*chat.jsonl + 0.3*maths@train
    chat.jsonl(limit=1000) + maths.jsonl(columns='prompt=question,completion=answer', repeats=2)

A path that exists outranks the language: `a+b.jsonl` may be one file.
"""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.contract.registry import contributions, manager
from zoo.data.formats import columns_of
from zoo.data.sources import HUB_NAME, file_type, no_file_fits
from zoo.data.sources.given import PREFIX
from zoo.data.sources.named import WITH_SPLIT, source_defaults
from zoo.data.sources.reading import Reading
from zoo.data.sources.streamed import is_pattern
from zoo.errors import ZooError, nearest
from zoo.options.expression import OPERATIONS, QUOTED, Expression, Mention
from zoo.options.spelling import spell
from zoo.paths import typed_path

BRACKETS = re.compile(r"\([^()]*\)")
OPERATORS = re.compile(r"[+*]")
PATTERN = re.compile(r"(?<![^\s()+])((?:\d+\.?\d*|\.\d+)\*)?+([^\s()+'\"]*(?:/\*|\*(?:/|\.(?!\d)))[^\s()+'\"]*)")
"""A name that holds a star as patterns of files do, behind its weight: `0.7*shards/*.jsonl`."""
OPTIONS = ("columns", "format", "limit", "repeats", "split", "name")
"""What a part may set for itself."""
LONGEST_LABEL = 40


@dataclass(frozen=True)
class Part:
    """One source of a run's data. None: as the run's own option says, or as the size of the source does (weight).

    label: its name in metrics and reports; repeats: how often an epoch counts its records.
    """

    source: str
    label: str
    weight: Fraction | None = None
    columns: str | None = None
    format: str | None = None
    limit: int | None = None
    split: str | None = None
    repeats: Fraction = Fraction(1)

    def reading(self, of_run: Reading) -> Reading:
        """How it is read: as it says itself, else as the run's options say."""
        return replace(
            of_run, split=self.split or of_run.split, columns=columns_of(self.columns) or of_run.columns,
            format=self.format or of_run.format, limit=self.limit or of_run.limit,
        )  # fmt: skip


def read_mixture(text: str, named: Collection[str]) -> list[Part]:
    """The parts of what `--data` names; one part where that is a single source. Raises ZooError.

    named: the names of sources. Either all parts have a weight, or none has: their sizes then decide.
    """
    if _is_path(text) or HUB_NAME.fullmatch(text) or _is_of_a_named_source(text, named):
        return [Part(text, label_of(text))]
    if (pattern := PATTERN.fullmatch(text)) and not pattern[1]:
        raise no_file_fits(text)
    is_sum = is_mixture(text)
    try:
        parts = Mixture(text, named).parts
    except ZooError:
        if is_sum or _is_path(text.partition("(")[0]):
            raise
        return [Part(text, label_of(text))]
    alone = Part(parts[0].source, label_of(parts[0].source))
    if is_sum or parts != [alone]:
        return parts
    # The brackets of a single source are its own, whatever they hold.
    return [alone if QUOTED.fullmatch(text.strip()) else replace(alone, source=text)]


def _is_of_a_named_source(text: str, named: Collection[str]) -> bool:
    """Whether a text is a named source with its part, which may hold a `+` of its own: `reasoning-gym:a+b`."""
    name, colon, part = text.partition(":")
    return bool(colon) and name in named and not re.search(r"[\s*]", _bare(part))


def is_mixture(text: str) -> bool:
    """Whether a text that names no single source is written in the language of mixtures."""
    return not _is_path(text) and bool(OPERATORS.search(_bare(text)))


def _is_path(text: str) -> bool:
    """Whether a text is a path that exists, a pattern that files have, or an address."""
    if is_pattern(text):
        return True
    spelled = WITH_SPLIT.fullmatch(text)
    with contextlib.suppress(ZooError, OSError):
        return typed_path(text).exists() or (spelled is not None and typed_path(spelled[1]).exists())
    return False


def _bare(text: str) -> str:
    """A text without what stands in quotation marks and brackets."""
    text, before = QUOTED.sub("", text), ""
    while text != before:
        text, before = BRACKETS.sub("", text), text
    return text


class _Terms(dict[Mention, float | None]):
    """A sum of sources, each with its weight or None."""

    def __add__(self, other: Any) -> _Terms:
        return _Terms({**self, **other}) if isinstance(other, _Terms) else NotImplemented

    def __mul__(self, number: Any) -> _Terms:
        if isinstance(number, _Terms):
            return NotImplemented
        return _Terms({mention: number * (1 if weight is None else weight) for mention, weight in self.items()})

    __rmul__ = __mul__


class Mixture(Expression):
    """A parsed mixture. `parts`: its sources. Raises ZooError that points at the place."""

    title, whole, item = "Mixture", "mixture", "source"
    # A source may begin with digits: `2024-a.jsonl` is no subtraction.
    number = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(?=[\s()+*,]|$)")
    operations = {ast.Add: OPERATIONS[ast.Add], ast.Mult: OPERATIONS[ast.Mult]}
    combinations: dict[str, Any] = {}
    allowed = "Write 0.7*chat.jsonl + 0.3*maths.jsonl; a name with a blank or one of + * ( ) , = needs quotation marks."

    def __init__(self, text: str, named: Collection[str]):
        super().__init__(text)
        self.named = named
        found = [replace(mention, name=_same_path(mention.name)) for mention in self._found]
        for place, mention in enumerate(self._found):
            if found[place] in found[:place]:
                hint = "Write it once, with the sum of its weights or with repeats=2."
                raise self.error(f"{mention.label} is there twice", mention.at, hint)
        self._labels: dict[str, Mention] = {}
        self.parts = labelled([self._part(mention, weight) for mention, weight in self._weights().items()])

    def _weights(self) -> dict[Mention, Fraction | None]:
        try:
            terms = self._tree({mention: _Terms({mention: None}) for mention in self.mentions})
        except TypeError:
            if pattern := PATTERN.search(self.text):
                quoted = PATTERN.sub(lambda found: f"{found[1] or ''}'{found[2]}'", self.text)
                at = pattern.start(2)
                raise self.error("a pattern needs quotation marks", at, f"Write {quoted}") from None
            raise self.error("a number has no source, or two sources are multiplied", 0, self.allowed) from None
        if all(weight is None for weight in terms.values()):
            return dict(terms)
        return {mention: self._weight(mention, 1 if weight is None else weight) for mention, weight in terms.items()}

    def _weight(self, mention: Mention, weight: float) -> Fraction:
        if not 0 < weight < math.inf:
            raise self.error(
                f"the weight of {mention.label} is {weight:g}", mention.at, "A weight is a number above 0."
            )
        return Fraction(repr(weight))

    def _part(self, mention: Mention, weight: Fraction | None) -> Part:
        options = dict(mention.options)
        own = {name: options.pop(name) for name in OPTIONS if name in options}
        if options and not {mention.name, mention.name.partition(":")[0]} & set(self.named):
            name = next(iter(options))
            hint = f"A part takes {', '.join(OPTIONS)}."
            raise self.error(f"{mention.name} has no option {name}", mention.at, hint, nearest(name, OPTIONS))
        source = spell(mention.name, options)
        label = self._name(mention, str(own.pop("name", ""))) or source
        repeats = Fraction(repr(self._number(mention, own, "repeats", 1)))
        limit = self._number(mention, own, "limit", None)
        texts = {name: str(value) for name, value in own.items()}
        return Part(source, label_of(label), weight, limit=limit, repeats=repeats, **texts)

    def _name(self, mention: Mention, name: str) -> str:
        """The name that a part gives itself. Raises ZooError for one that no metric can have, or that another has."""
        if name and label_of(name) != name:
            hint = f"Use letters, digits and _ . -, at most {LONGEST_LABEL}: name={label_of(name)}"
            raise self.error(f"{name!r} cannot be the name of a part", mention.at, hint)
        if name and self._labels.setdefault(name, mention) != mention:
            raise self.error(f"two parts have the name {name}", mention.at, "Give each part a name of its own.")
        return name

    def _number(self, mention: Mention, options: dict[str, Any], name: str, default: Any) -> Any:
        """A number above 0; `limit` is a whole one."""
        number = options.pop(name, default)
        wrong = isinstance(number, str) or not 0 < (number or 1) < math.inf or number == 0
        if wrong or (name == "limit" and number is not None and int(number) != number):
            kind = "a whole number" if name == "limit" else "a number"
            raise self.error(f"{name} must be {kind} above 0, not {number}", mention.at)
        return number


def _same_path(name: str) -> str:
    """A name, or the path of the file that it names in its shortest spelling."""
    with contextlib.suppress(ZooError, OSError):
        return os.path.normpath(name) if typed_path(name).exists() else name
    return name


def labelled(parts: Sequence[Part]) -> list[Part]:
    """The parts with labels of their own: chat, chat-2."""
    seen: Counter[str] = Counter()
    labelled = []
    for part in parts:
        seen[part.label] += 1
        number = seen[part.label]
        labelled.append(part if number == 1 else replace(part, label=f"{part.label}-{number}"))
    return labelled


def label_of(source: str) -> str:
    """`chat` for `data/chat.jsonl`, `maths` for `owner/maths@train`, `world-gold` for `world:gold(rows=5)`.

    `mine` for `python:mine`.
    """
    source = source.removeprefix(PREFIX)
    spelled = WITH_SPLIT.fullmatch(source)
    path = Path(re.sub(r"\(.*", "", spelled[1] if spelled else source))
    name = path.name.partition(".")[0] if file_type(path) else path.name
    label = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:LONGEST_LABEL] or "data"
    # A metric whose name ends in _max is no mean.
    return f"{label.removesuffix('_max')}-max" if label.endswith("_max") else label


def data_defaults(text: str, algorithm: type[Algorithm]) -> dict[str, Any]:
    """The options of the core that the data sets for an algorithm; of a mixture, those of its first part count most."""
    if not OPERATORS.search(text) and "(" not in text:
        return source_defaults(text, algorithm)
    parts = read_mixture(text, contributions(manager(), "sources"))
    defaults: dict[str, Any] = {}
    for part in reversed(parts):
        defaults |= source_defaults(part.source, algorithm)
    return defaults
