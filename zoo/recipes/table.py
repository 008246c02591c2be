"""The table of verdicts of a folder of recipes: README.md, made from the results that are stored with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.recipes.load import load_recipe
from zoo.recipes.schema import Recipe, Variant
from zoo.report.plots.standalone import label_of

TABLE = "README.md"
MARK = "<!-- Made by `zoo recipes --table` from results/; changes by hand are lost. -->"
RESULTS_FOLDER = "results"


def table_of(folder: Path) -> str:
    """The text of README.md: a row for each recipe, then the claims of each recipe that was run."""
    recipes = [load_recipe(file) for file in sorted(folder.glob("*.yaml"))]
    kept = {recipe.name: _kept(folder, recipe.name) for recipe in recipes}
    full = {recipe.name: _kept(folder, f"{recipe.name}-full") for recipe in recipes}
    lines = [
        MARK, "", "# Recipes", "",
        "Each file states what a paper claims, with the options that it reports, and a small experiment that tests the "
        "mechanism behind a claim. A verdict here is that of the small experiment and says nothing about the paper's "
        "own numbers. Seeds are fresh: experiments were designed with other seeds, unless the findings say otherwise. "
        "Wall-clock minutes depend on what else a machine does; if CPU minutes are missing, it may have done other "
        "work at the same time.", "",
        "| recipe | paper | verdict | claims | seeds | minutes | CPU minutes | date | zoo, torch |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(recipe, kept[recipe.name]) for recipe in recipes),
    ]  # fmt: skip
    for recipe in recipes:
        if (results := kept[recipe.name]) is not None and recipe.laptop is not None:
            lines += _details(recipe, results, recipe.laptop, _picture(folder, recipe.name))
        if (results := full[recipe.name]) is not None:
            lines += _details(recipe, results, recipe.full, _picture(folder, f"{recipe.name}-full"))
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


def _kept(folder: Path, name: str) -> dict[str, Any] | None:
    file = folder / RESULTS_FOLDER / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _picture(folder: Path, name: str) -> list[str]:
    """The picture of what the claims compare, if there is one, with its label as alternative text."""
    file = folder / RESULTS_FOLDER / f"{name}.svg"
    if not file.is_file():
        return []
    return ["", f"![{cell(label_of(file.read_text(encoding='utf-8')))}]({RESULTS_FOLDER}/{file.name})"]


def _row(recipe: Recipe, results: Mapping[str, Any] | None) -> str:
    name = f"[{recipe.name}]({recipe.path.name})"
    paper = recipe.paper.text
    if recipe.paper.arxiv:
        paper = f"[{paper}](https://arxiv.org/abs/{recipe.paper.arxiv})"
    if results is None:
        return f"| {name} | {paper} | not run | | | | | | |"
    judged = [claim for claim in results["claims"] if claim["seeds"]]
    held = sum(claim["verdict"] == "reproduced" for claim in judged)
    versions = f"{results['versions']['zoo']}, {results['versions']['torch']}"
    cells = [name, paper, f"**{results['verdict']}**", f"{held} of {len(judged)}", _listed(results["seeds"]),
             f"{results['minutes']:g}", f"{results.get('cpu_minutes', '')}", results["date"], versions]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _details(recipe: Recipe, results: Mapping[str, Any], variant: Variant, picture: Sequence[str]) -> list[str]:
    conditions = variant.conditions
    tests = conditions.tests if conditions else "At full scale."
    lines = ["", f"## {recipe.name}", "", cell(f"{recipe.title}. {tests}"), ""]
    lines += ["| claim | judged | values by seed | mean ± sd | 95 % interval | verdict |", "|---|---|---|---|---|---|"]
    for claim in results["claims"]:
        if not claim["seeds"]:
            continue
        values = ", ".join(shown(value) for value in claim["values"])
        spread = shown(claim["mean"]) + (f" ± {shown(claim['sd'])}" if claim["sd"] is not None else "")
        interval = f"{shown(claim['low'])} to {shown(claim['high'])}" if claim["low"] is not None else "–"
        verdict = claim["verdict"] + (f": {claim['why']}" if claim["why"] else "")
        judged = f"`{claim['metric']}` {claim['rule']}"
        lines.append(f"| {' | '.join(cell(x) for x in (claim['says'], judged, values, spread, interval, verdict))} |")
    lines += picture
    if left := sum(not claim["seeds"] for claim in results["claims"]):
        lines += ["", f"{left} claims of the paper are not tested at this scale."]
    if conditions:
        texts = {"Findings": conditions.findings, "Caveat": conditions.caveat}
        lines += [line for name, text in texts.items() if text for line in ("", f"{name}: {cell(text)}")]
    return [*lines, "", f"`{results['command']}`, seeds {_listed(results['seeds'])}, {results['date']}."]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def cell(text: str) -> str:
    """Text on one line, escaped for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
