"""Another program's config file in zoo's words: the options, and everything that is not carried over, with the reason.

A table says for a key of the program one of these:

    lr                              the value is that of the option
    {to: [clip_low, clip_high]}     of several
    {to: max_steps, ignore: [-1]}   ignore: values that mean nothing
    {to: batch_size, times: true}   the option is the product of all such keys
    {to: optimizer, part: beta1}    it is an option of the option, if that takes it: adamw(beta1=0.9)
    {values: {"true": {lora: true}, "false": {}, hinge: {why: …}}}   for each value options, or why it is left out
    must: true                      beside values: a file with any other value is refused
    a list of these with `when`     the first whose `when` fits the file is taken
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.cards import described
from zoo.conversion.datasets import read_data
from zoo.conversion.tables import Table, choose
from zoo.errors import ZooError, nearest
from zoo.options.checks import check_values
from zoo.options.config import ONLINE_ONLY, TrainConfig
from zoo.options.effect import ADAPTERS, SAMPLING
from zoo.options.fields import build, options_of
from zoo.options.spelling import parse, spell
from zoo.options.strict_yaml import read_with_lines, spelled
from zoo.secrets import scrubbed

BOOLEANS = {"yes": "true", "on": "true", "off": "false"}
"""Words that these programs, which read YAML 1.1, take for true and false; `no` is looked up as it stands first."""
DEFAULT_OF = "'s default of "
WITH_PARTS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
"""Optimizers that take beta1, beta2 and eps."""


@dataclass
class Told:
    """A key that is not carried over, and why. line: 0 for one that the file does not have."""

    key: str
    value: Any
    line: int
    why: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        text = scrubbed(f"{place}{self.key}: {_short(self.value)}. {self.why}")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


@dataclass
class Converted:
    """Options in zoo's words, where each came from, and what is told about the rest of the file."""

    program: str
    algo: str
    options: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    left_out: list[Told] = field(default_factory=list)
    unknown: list[Told] = field(default_factory=list)
    needless: list[Told] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self, file: str) -> str:
        """The YAML file, with a comment for each line and for what was left out."""
        lines = [f"# {file} of {self.program}, converted by zoo convert-config.", f"algo: {self.algo}"]
        lines += [f"{spelled(name, value)}  # {self.origin[name]}" for name, value in self.options.items()]
        lines += [f"# {note}" for note in self.notes]
        for title, told in (("Left out", self.left_out), ("Not known", self.unknown)):
            lines += [f"# {title}, {one}" for one in told]
        return "".join(f"{line}\n" for line in lines)


def convert(path: Path, program: str | None = None, algo: str | None = None) -> Converted:
    """Convert a file. program: the name of its table, by default the one that fits best; algo: the algorithm, where the
    file does not say it. Raises ZooError."""
    content, lines = read_with_lines(path)
    keys = {key: value for key, value in _flat(content) if value is not None}
    table = choose(program, [*keys, *content])
    rule = _rule(table, keys, algo, path)
    file = _File(path, table.program, keys, _lines_of(keys, lines), _with_defaults(table, rule, keys, algo))
    forms = {**table.options, **table.own.get("any", {}), **table.own.get(rule["algo"], {})}
    result = Converted(f"{table.program} {table.version}", rule["algo"])
    products, late = _carry_over(result, file, forms)
    _multiply(result, file, products)
    for key, form in sorted(late.items(), key=lambda pair: "part" in pair[1]):
        _by_value(result, file, key, form)
    _imply(result, table, rule)
    for name, value, origin, told, notes in read_data(table.data, content, lines, path):
        if value is not None:
            _set(result, name, value, origin)
        result.notes += [scrubbed(note) for note in notes]
        result.left_out += [Told(*one) for one in told]
    _tell_the_rest(result, table, rule, forms, file)
    _check(result)
    return result


@dataclass
class _File:
    """A config file: its keys, the line of each, and `whole`: the keys, and what the program takes for others."""

    path: Path
    program: str
    keys: dict[str, Any]
    lines: dict[str, int]
    whole: dict[str, Any]

    def came(self, key: str) -> str:
        return f"line {self.lines[key]}: {key}" if key in self.lines else f"{self.program}{DEFAULT_OF}{key}"

    def told(self, key: str, why: str) -> Told:
        return Told(key, self.whole[key], self.lines.get(key, 0), why)


# -- reading the file ----------------------------------------------------------------------------------------------


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with their values; a key of a mapping inside is `trl.beta`."""
    for key, value in content.items():
        yield f"{above}{key}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")


def _lines_of(keys: Mapping[str, Any], lines: Mapping[tuple[Any, ...], int]) -> dict[str, int]:
    """The line of each key; a key of a mapping that stands in one line has the line of the mapping."""
    return {key: lines.get(tuple(key.split(".")), lines.get((key.partition(".")[0],), 0)) for key in keys}


def _with_defaults(table: Table, rule: Mapping[str, Any], keys: dict[str, Any], algo: str | None) -> dict[str, Any]:
    """The keys, with the program's own values for those that the file does not have."""
    silent = {**table.defaults.get("any", {}), **table.defaults.get(rule["algo"], {}), **rule.get("defaults", {})}
    defaults = {key: value for key, value in silent.items() if key not in keys}
    whole = {**defaults, **keys, **({} if algo is None else {"algo": algo})}
    _fill_in(whole, defaults)
    return whole


def _word(value: Any) -> str:
    """How a value is looked up: the one in a list of one, in lower case."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    word = str(value).lower()
    return BOOLEANS.get(word, word)


def _fits(when: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether each key has the value, or one of the values; `null` stands for a key that is not there."""
    for key, wanted in when.items():
        allowed = [_word(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
        if _word(whole.get(key)) not in allowed:
            return False
    return True


def _rule(table: Table, file: Mapping[str, Any], algo: str | None, path: Path) -> dict[str, Any]:
    """The rule that names the algorithm."""
    whole = {**table.defaults.get("any", {}), **file, **({} if algo is None else {"algo": algo})}
    for rule in table.algorithms:
        if _fits(rule.get("when", {}), whole):
            if "refuse" in rule:
                raise ZooError(f"{path}: {rule['refuse']}", "`zoo algos` lists the algorithms.")
            return {**rule, "algo": rule.get("algo") or algo}
    named = [rule.get("when", {}).get("algo", rule.get("algo", [])) for rule in table.algorithms]
    known = sorted({name for one in named for name in ([one] if isinstance(one, str) else one)})
    if algo is None:
        raise ZooError(f"{path} does not say which algorithm it is for.", f"Add --algo {'|'.join(known)}.")
    raise ZooError(f"{table.program} has no algorithm '{algo}' that zoo can convert.{nearest(algo, known)}",
                   f"Write --algo {'|'.join(known)}.")  # fmt: skip


def _fill_in(whole: dict[str, Any], defaults: dict[str, Any]) -> None:
    """A default `{twice: key}` is two times another key."""
    for key, value in defaults.items():
        if isinstance(value, dict) and "twice" in value:
            whole[key] = 2 * whole[value["twice"]] if isinstance(whole[value["twice"]], int) else None


def _fitting(form: Any, whole: Mapping[str, Any]) -> dict[str, Any] | None:
    for one in form if isinstance(form, list) else [form]:
        one = {"to": one} if isinstance(one, str) else one
        if _fits(one.get("when", {}), whole):
            return one
    return None


# -- carrying over -------------------------------------------------------------------------------------------------


def _set(result: Converted, name: str, value: Any, origin: str) -> None:
    """Set an option; a later line replaces an earlier one, and a default replaces no line."""
    before = re.fullmatch(r"line (\d+): (.*)", result.origin.get(name, ""))
    if before and DEFAULT_OF in origin and not origin.startswith(before[0]):
        return
    if before and before[0] not in origin:
        why = f"Another line says {name} too: {_short(value)}."
        result.left_out.append(Told(before[2], result.options[name], int(before[1]), why))
    result.options[name], result.origin[name] = value, origin


def _carry_over(
    result: Converted, file: _File, forms: Mapping[str, Any]
) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    """Set what a key gives as it is. Returns the factors of each product, and the keys that wait for all others."""
    products: dict[str, list[str]] = {}
    late: dict[str, dict[str, Any]] = {}
    for key in (key for key in forms if key in file.whole):
        form = _fitting(forms[key], file.whole)
        if form is None:
            if key in file.lines:
                result.left_out.append(file.told(key, "It has no effect with the other lines."))
        elif "values" in form or "part" in form:
            late[key] = form
        elif file.whole[key] not in form.get("ignore", ()):
            for name in form["to"] if isinstance(form["to"], list) else [form["to"]]:
                if form.get("times"):
                    products.setdefault(name, []).append(key)
                else:
                    _set(result, name, file.whole[key], file.came(key))
    return products, late


def _multiply(result: Converted, file: _File, products: Mapping[str, list[str]]) -> None:
    for name, keys in products.items():
        factors = [file.whole[key] for key in keys]
        if not all(isinstance(factor, int) for factor in factors):
            result.left_out += [file.told(key, "It is no number.") for key in keys]
            continue
        product = math.prod(factors)
        _set(result, name, product, " × ".join(f"{key} {file.whole[key]}" for key in keys))
        result.notes.append(f"{name} {product} is that of one process. If yours had N, multiply it by N.")


def _imply(result: Converted, table: Table, rule: Mapping[str, Any]) -> None:
    """Set what the program does without saying it."""
    implied = {**table.implied.get("any", {}), **table.implied.get(rule["algo"], {}), **rule.get("set", {})}
    for name, value in implied.items():
        if name not in result.options:
            _set(result, name, value, f"as {table.program} does")


def _by_value(result: Converted, file: _File, key: str, form: Mapping[str, Any]) -> None:
    value, line = file.whole[key], file.lines.get(key, 0)
    if "part" in form:
        name, options = parse(str(result.options.get(form["to"], getattr(TrainConfig, form["to"]))))
        if name in WITH_PARTS:
            _set(result, form["to"], spell(name, {**options, form["part"]: value}),
                 "; ".join(filter(None, (result.origin.get(form["to"]), file.came(key)))))  # fmt: skip
        elif line:
            result.left_out.append(file.told(key, f"{name} does not take it."))
        return
    values, word = form["values"], _word(value)
    word = "false" if word == "no" and "no" not in values else word
    if word not in values:
        why = f"These are converted: {', '.join(values)}."
        if form.get("must"):
            place = f"{file.path}:{line}" if line else str(file.path)
            raise ZooError(f"{place}: {key}: {_short(value)} cannot be converted.",
                           f"{why} Choose one of them, or leave the line out.")  # fmt: skip
        if line:
            result.left_out.append(file.told(key, why))
        return
    chosen = values[word]
    if "why" in chosen:
        if line:
            result.left_out.append(file.told(key, chosen["why"]))
        return
    for name, content in chosen.items():
        _set(result, name, content, file.came(key))


def _tell_the_rest(
    result: Converted,
    table: Table,
    rule: Mapping[str, Any],
    forms: Mapping[str, Any],
    file: _File,
) -> None:
    """Tell what no form has carried over."""
    handled = {*forms, *table.data, *rule.get("when", {})}
    known = table.known()
    # What is inside of a key that is told as a whole.
    whole = {key for key in known if not any(other.startswith(f"{key}.") for other in known)}
    for key, value in file.keys.items():
        if key in handled or any(key[: place.start()] in whole for place in re.finditer(r"\.", key)):
            continue
        if isinstance(value, dict) and key not in whole:
            continue
        if key in table.needless:
            result.needless.append(file.told(key, table.needless[key]))
        elif key in table.left_out:
            result.left_out.append(file.told(key, table.left_out[key]))
        elif key in known:
            result.left_out.append(file.told(key, f"It has no effect with {result.algo}."))
        else:
            why = f"No such key of {table.program} is known.{nearest(key, known)}"
            result.unknown.append(file.told(key, why))


def _check(result: Converted) -> None:
    """Leave out what zoo refuses, and what has no effect in such a run."""
    cls = described(result.algo)[1]
    own = {option.name for option in options_of(cls.Config)}
    for name, value in list(result.options.items()):
        why = ""
        if name in ADAPTERS and not result.options.get("lora"):
            why = "Without adapters it has no effect."
        elif name in (*ONLINE_ONLY, *SAMPLING) and not cls.online():
            why = f"{result.algo} writes no answers."
        else:
            try:
                core = name not in own
                built = build(TrainConfig if core else cls.Config, {name: value}, what="zoo", where={name: "file"})
                if core:
                    check_values(built, {name: "file"})
            except ZooError as error:
                why = " ".join(error.message.split())
        if why:
            place = re.search(r"line (\d+): (\S+)$", result.origin[name])
            del result.options[name], result.origin[name]
            if place:
                result.left_out.append(Told(place[2], value, int(place[1]), why))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
