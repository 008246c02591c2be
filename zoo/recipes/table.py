"""The table of verdicts of a folder of recipes: README.md, made from the results that are stored with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.recipes.form import Claim
from zoo.recipes.load import load_recipe
from zoo.recipes.schema import Recipe, Variant
from zoo.recipes.verdicts import CONTRADICTED, NOT_TESTED, REPRODUCED, UNDECIDED

TABLE = "README.md"
MARK = "<!-- Made by `zoo recipes --table` from results/; changes by hand are lost. -->"
RESULTS_FOLDER = "results"
STALE, NOT_RUN = "stale", "not run"


ORDER = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_TESTED, STALE, NOT_RUN)


@dataclass(frozen=True)
class Kept:
    """A recipe at one scale, with its recorded results. stale: they are of an experiment that was changed since."""

    recipe: Recipe
    variant: Variant
    results: dict[str, Any]
    picture: str
    stale: bool


def table_of(folder: Path) -> str:
    """The text of README.md: a row for each claim, then each recipe that was run, with the values of each seed."""
    recipes = [load_recipe(file) for file in sorted(folder.glob("*.yaml"))]
    kept = [of_it for recipe in recipes for of_it in _kept(folder, recipe)]
    rows = _rows(recipes, kept)
    lines = [
        MARK, "", "# Recipes", "",
        "Each file states what a paper claims, with the options that it reports, and a small experiment that tests the "
        "mechanism behind a claim. A verdict here is that of the small experiment and says nothing about the paper's "
        "own numbers. Experiments were designed on other seeds than those that they were judged on. How verdicts come "
        "about: docs/recipes.md.", "",
        f"Of {amount(len(rows), 'claim')} {_counted([verdict for verdict, _ in rows])}.", "",
        "| claim | recipe | verdict | effect | interval | seeds | CPU minutes of the recipe |",
        "|---|---|---|---|---|---|---|",
        *(row for _, row in sorted(rows, key=lambda row: ORDER.index(row[0]))),
    ]  # fmt: skip
    for of_it in kept:
        lines += _details(of_it)
    return "\n".join(lines) + "\n"


def write_table(folder: Path) -> Path:
    """Write README.md of a folder of recipes. Raises ZooError if there is a README.md that zoo did not write."""
    file = folder / TABLE
    if file.is_file() and not is_table(file):
        raise ZooError(f"{file} was not made by zoo and is left alone.", "Rename it, then: zoo recipes --table")
    file.write_text(table_of(folder), encoding="utf-8")
    return file


def is_table(file: Path) -> bool:
    return file.read_text(encoding="utf-8").startswith(MARK)


def keeps_results(folder: Path) -> bool:
    """Whether results are stored with the recipes of this folder: it belongs to a package or has a table already."""
    file = folder / TABLE
    return is_table(file) if file.is_file() else (folder / "__init__.py").is_file()


def _kept(folder: Path, recipe: Recipe) -> list[Kept]:
    """The recorded results of a recipe, by scale."""
    found = []
    for variant in recipe.variants:
        file = recipe.results_path(variant.name)
        if file.is_file():
            results = json.loads(file.read_text(encoding="utf-8"))
            picture = file.with_suffix(".svg")
            link = f"{RESULTS_FOLDER}/{picture.name}" if picture.is_file() else ""
            found.append(Kept(recipe, variant, results, link, results.get("digest") != variant.digest))
    return found


def _rows(recipes: Sequence[Recipe], kept: Sequence[Kept]) -> list[tuple[str, str]]:
    """The verdict and the row of each claim that a machine without a GPU can test."""
    results = {(of_it.recipe.name, of_it.variant.name): of_it for of_it in kept}
    return [
        _row(recipe, variant, claim, results.get((recipe.name, variant.name)))
        for recipe in recipes for variant in recipe.variants if variant.name in ("laptop", "small")
        for claim in variant.claims if claim.untested is None
    ]  # fmt: skip


def _row(recipe: Recipe, variant: Variant, claim: Claim, kept: Kept | None) -> tuple[str, str]:
    size = "" if variant.name == "laptop" else f", {variant.name}"
    first = [cell(claim.says), f"[{recipe.name}]({recipe.path.name}){size}"]
    found = None if kept is None else _found(claim, kept.results)
    if kept is None or found is None:
        return NOT_RUN, f"| {' | '.join([*first, NOT_RUN, '', '', '', ''])} |"
    verdict = STALE if kept.stale else found["verdict"]
    interval = f"{shown(found['low'])} to {shown(found['high'])}" if found["low"] is not None else "–"
    cells = [*first, verdict, shown(found["mean"]), interval, str(len(found["seeds"])), _minutes(kept.results)]
    return verdict, f"| {' | '.join(cells)} |"


def _minutes(results: Mapping[str, Any]) -> str:
    """CPU minutes, which other work on the machine changes little; empty for results that lack them."""
    return f"{results['cpu_minutes']:g}" if results.get("cpu_minutes") is not None else ""


def _found(claim: Claim, results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recorded claim, by its id; in older results by its words."""
    return next(
        (found for found in results["claims"] if found.get("id", claim.id if found["says"] == claim.says else None)
         == claim.id),
        None,
    )  # fmt: skip


def _counted(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{verdicts.count(name)} are {name}" for name in ORDER if name in verdicts)


def _details(kept: Kept) -> list[str]:
    recipe, results, conditions = kept.recipe, kept.results, kept.variant.conditions
    tests = conditions.tests if conditions else "At full scale."
    paper = recipe.paper.text
    if recipe.paper.arxiv:
        paper = f"[{paper}](https://arxiv.org/abs/{recipe.paper.arxiv})"
    lines = [
        "",
        f"## {recipe.name}{'' if kept.variant.name == 'laptop' else f', {kept.variant.name}'}",
        "",
        f"{cell(f'{recipe.title}. {tests}')} ({paper})",
        "",
    ]
    if kept.stale:
        lines += ["**Stale**: the experiment was changed after these results.", ""]
    lines += [
        "| claim | judged | values by seed | mean ± sd | verdict |",
        "|---|---|---|---|---|",
    ]
    for claim in results["claims"]:
        if not claim["seeds"]:
            continue
        values = ", ".join(shown(value) for value in claim["values"])
        spread = shown(claim["mean"]) + (f" ± {shown(claim['sd'])}" if claim["sd"] is not None else "")
        verdict = claim["verdict"] + (f": {claim['why']}" if claim["why"] else "")
        judged = f"`{claim['metric']}` {claim['rule']}"
        lines.append(f"| {' | '.join(cell(x) for x in (claim['says'], judged, values, spread, verdict))} |")
    if left := sum(not claim["seeds"] for claim in results["claims"]):
        lines += ["", f"{amount(left, 'claim')} of the paper {'is' if left == 1 else 'are'} not tested at this scale."]
    if conditions:
        texts = {"Findings": conditions.findings, "Caveat": conditions.caveat}
        lines += [line for name, text in texts.items() if text for line in ("", f"{name}: {cell(text)}")]
    seeds, took = _listed(results["seeds"]), _minutes(results) or "?"
    made = f"`{results['command']}`, seeds {seeds}, {results['date']}, {took} CPU minutes"
    versions = f"zoo {results['versions']['zoo']}, torch {results['versions']['torch']}"
    picture = f" [Picture]({kept.picture})." if kept.picture else ""
    return [*lines, "", f"{made}, {versions}.{picture}"]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def cell(text: str) -> str:
    """Text on one line, escaped for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
