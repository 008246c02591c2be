"""The card of a recipe: everything that its file says, with the source that it gives for each number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.text import Text

from zoo.recipes.claims import stated
from zoo.recipes.schema import Recipe, Stage, Variant
from zoo.terminal import Console

Setting = tuple[str, str, str]
"""An option, its value, and its source according to the recipe."""
COMMENT = re.compile(r"""(?:[^"'#]|"[^"]*"|(?<!\w)'[^']*'|(?<=\w)['"]|(?<!\s)#)*?\s#\s?(.*)""")
"""A line of YAML with a comment: a # after a space, outside quotation marks."""


def show_card(recipe: Recipe, verdict: Text, console: Console) -> None:
    """Print it. verdict: of the last run."""
    sources = Comments(recipe)
    version = f"({recipe.paper.version})" if recipe.paper.version else ""
    console.print(Text.assemble((recipe.name, "bold"), "  ", recipe.title))
    _facts({"paper": f"{recipe.paper.text} {version}", "hardware": recipe.hardware}, console)
    console.print(Text.assemble(f"{'last verdict':14}", verdict))
    console.say(f"{'file':14}{recipe.path}")
    if recipe.about:
        console.print(f"\n{_one_line(recipe.about)}")
    _variant(recipe.full, "At full scale", sources, console)
    if (laptop := recipe.laptop) is not None:
        _variant(laptop, "On a laptop", sources, console)
    if laptop is not None and (run := laptop.conditions) is not None:
        facts = {"tests": run.tests, "seeds": str(run.seeds), "minutes": f"{run.minutes:g}"}
        _facts({**facts, "caveat": run.caveat}, console)
        if run.findings:
            _facts({"findings": run.findings}, console)
    _lines("Deviations", recipe.deviations, console)
    _lines("Not reported", recipe.not_reported, console)
    _lines("Notes", filter(None, [recipe.notes]), console)


class Comments:
    """The comments after keys in the recipe's file, which give the source of each number."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.files: dict[str, list[str]] = {}

    def of(self, variant: Variant, *keys: str) -> str:
        """The comment on the line of a key; empty if there is none."""
        file, _, line = self.recipe.where(variant, *keys).rpartition(":")
        if file not in self.files:
            self.files[file] = Path(file).read_text(encoding="utf-8").splitlines() if Path(file).is_file() else []
        if not self.files[file]:
            return ""
        comment = COMMENT.match(self.files[file][int(line) - 1])
        return comment[1] if comment else ""


def _variant(variant: Variant, title: str, sources: Comments, console: Console) -> None:
    console.print(f"\n{title}", style="bold")
    written = {stage.sweep_of or stage.name: stage for stage in reversed(variant.stages.values())}
    stages = dict(reversed(written.items()))
    common = {setting for name, stage in stages.items() for setting in _common(stage, name, variant, sources)}
    if common:
        console.print("every stage")
        order = {
            key: i for i, key in enumerate(dict.fromkeys(key for stage in stages.values() for key in stage.options))
        }
        _settings(sorted(common, key=lambda setting: order.get(setting[0], len(order))), console)
    for name, stage in stages.items():
        console.print(Text.assemble(name, "  ", (_what(stage), "dim")))
        _settings(_own(stage, name, variant, sources), console)
    for claim in variant.claims:
        console.print(Text.assemble(("·", "bold"), " ", claim.says))
        console.print(Padding(Text(f"{claim.where}: {stated(claim)}", style="dim"), (0, 0, 0, 4)))


def _what(stage: Stage) -> str:
    if stage.label is not None:
        return "labels data"
    return f"trains with {stage.algo}" if stage.algo else "is only evaluated"


def _common(stage: Stage, name: str, variant: Variant, sources: Comments) -> Iterator[Setting]:
    """The settings of a stage that come from the keys for all stages."""
    for key, value in stage.options.items():
        if not _is_own(sources.recipe, variant, name, key, stage):
            yield key, str(value), sources.of(variant, "common", key)
    for label in stage.shared_evals:
        yield f"measures {label}", stage.evals[label], sources.of(variant, "evals", label)


def _own(stage: Stage, name: str, variant: Variant, sources: Comments) -> Iterator[Setting]:
    """The settings of a stage itself; all values of a sweep on one line."""
    options: Mapping[str, Any] = stage.options if stage.label is None else stage.label
    inside = () if stage.label is None else ("label",)
    for key, value in {**({"start": stage.start} if stage.start else {}), **options}.items():
        if key in stage.swept:
            values = ", ".join(other.swept[key] for other in variant.stages.values() if other.sweep_of == name)
            yield key, f"each of {values}", sources.of(variant, "stages", name, "sweep", key)
        elif stage.label is not None or _is_own(sources.recipe, variant, name, key, stage):
            yield key, str(value), sources.of(variant, "stages", name, *inside, key)
    for label, spelling in stage.evals.items():
        if label not in stage.shared_evals:
            yield f"measures {label}", spelling, sources.of(variant, "stages", name, "evals", label)


def _is_own(recipe: Recipe, variant: Variant, name: str, key: str, stage: Stage) -> bool:
    # A key from a merge (`<<`) has no line of its own, and is not a common key either.
    return key in stage.swept or recipe.has(variant, "stages", name, key) or not recipe.has(variant, "common", key)


# -- printing ----------------------------------------------------------------------------------------------------


def _settings(settings: Iterable[Setting], console: Console) -> None:
    for key, value, source in settings:
        behind = (f"  {source}" if source else "", "dim")
        console.print(Padding(Text.assemble(f"{key} {value}", behind), (0, 0, 0, 4)))


def _facts(facts: Mapping[str, str], console: Console) -> None:
    for title, value in facts.items():
        console.print(f"{title:14}{_one_line(value)}")


def _lines(title: str, lines: Iterable[str], console: Console) -> None:
    for i, line in enumerate(lines):
        if i == 0:
            console.print(f"\n{title}", style="bold")
        console.print(f"· {_one_line(line)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
