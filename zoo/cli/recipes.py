"""`zoo recipes`: list the recipes, show one in full, or copy one to change it."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.listings import NARROW_TABLE, Json, show_entry
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.terminal import Console, print_json

if TYPE_CHECKING:
    from zoo.recipes.find import RecipeEntry

EXAMPLES = (
    "zoo recipes",
    "zoo recipes ipo",
    "zoo recipes ipo --copy mine.yaml",
    "zoo recipes --schema > recipe.schema.json",
)
TITLES = ("name", "paper", "algorithms", "hardware of the paper", "laptop", "last verdict")
WIDE = 120
"""Columns of a terminal in which all of these fit."""


def recipes(
    name: Annotated[str | None, typer.Argument(help="One recipe, or a YAML file; by default all are listed.")] = None,
    file: Annotated[Path | None, typer.Argument(help="File for --copy; by default NAME.yaml here.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the recipe to a file, for you to change.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of recipes, for your editor.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Rewrite README.md of the recipes' folder from the recorded results.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the recipes, or show one: its paper, stages with the source of each number, claims, and the last verdict.

    A recipe is a file that states what a paper claims. To run it: `zoo reproduce NAME --laptop`.
    """
    if file is not None and not copy:
        raise ZooError(
            f"{file} is given without --copy.", f"To copy the recipe there: zoo recipes {name} --copy {file}"
        )
    if schema:
        from zoo.recipes.form import json_schema

        print_json(json_schema())
    elif table:
        _write_tables(name)
    elif name is None:
        if copy:
            raise ZooError("--copy needs the name of a recipe.", "Write zoo recipes NAME --copy.")
        _list(as_json)
    elif copy:
        _copy(name, file)
    else:
        _card(name, as_json)


# -- all ---------------------------------------------------------------------------------------------------------


def _list(as_json: bool) -> None:
    from zoo.recipes.find import all_recipes

    entries = all_recipes()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    names = [entry.name for entry in entries]
    console = Console()
    # Without room for it, the hardware is only on the recipe's card.
    shown = [title for title in TITLES if console.width >= WIDE or title != "hardware of the paper"]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    longest = max((len(name) for entry in entries for name in entry.algorithms), default=0)
    for title in shown:
        # The name of an algorithm, with its comma, is never wrapped.
        least = longest + 1 if title == "algorithms" else None
        table.add_column(title, no_wrap=title in ("name", "paper"), overflow="fold", min_width=least)
    for entry in entries:
        name = entry.name if names.count(entry.name) == 1 else entry.full_name
        verdict = _verdict(entry.verdict, entry.date, entry.stale, short=True)
        paper, algorithms, hardware, laptop = _cells(entry)
        if console.width < NARROW_TABLE:
            show_entry(console, name, verdict, ", ".join(filter(None, (paper, algorithms, laptop))))
            continue
        cells: tuple[Text | str, ...] = (name, paper, algorithms, hardware, laptop, verdict)
        table.add_row(*(cell for title, cell in zip(TITLES, cells, strict=True) if title in shown))
    if table.row_count:
        console.print(table)
    for entry in entries:
        if entry.error:
            console.print(f"{entry.full_name}: {entry.error}", style="red")
    if not entries:
        console.print("No installed package has recipes.")
    console.print("\nzoo recipes NAME shows one; zoo reproduce NAME --laptop runs its small experiment.")


def _cells(entry: RecipeEntry) -> tuple[str, str, str, str]:
    if entry.error:
        return "cannot be read", "", "", ""
    minutes = f"{entry.minutes:g} min" if isinstance(entry.minutes, int | float) else "–"
    return entry.paper.removeprefix("arXiv:"), ", ".join(entry.algorithms), entry.hardware, minutes


def _verdict(verdict: str, date: str, stale: bool, short: bool = False) -> Text:
    """The last verdict; short: `5 of 6 claims`, or `stale`."""
    if not verdict:
        return Text("not run", style="dim")
    if stale:
        return Text("stale" if short else "stale: the experiment was changed since", style="yellow")
    whole = re.match(r"(\d+) of (\d+) reproduced", verdict)
    colour = "green" if whole and whole[1] == whole[2] else "yellow"
    text = f"{whole[1]} of {amount(int(whole[2]), 'claim')}" if whole and short else verdict
    return Text.assemble((text, colour), (f" {date}" if date else "", "dim"))


def _write_tables(name: str | None) -> None:
    """The table of one recipe's folder, or of every folder with results that is writable."""
    from zoo.recipes.find import all_recipes, find_recipe
    from zoo.recipes.table import write_table

    folders = [find_recipe(name)[0].parent] if name else sorted({Path(entry.path).parent for entry in all_recipes()})
    for folder in folders:
        Console().say(f"Written: {write_table(folder)}")


# -- one ---------------------------------------------------------------------------------------------------------


def _copy(name: str, file: Path | None) -> None:
    from zoo.recipes.find import find_recipe

    source = find_recipe(name)[0]
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise ZooError(f"{target} already exists.", f"Name another file: zoo recipes {name} --copy FILE")
    if not target.parent.is_dir():
        raise ZooError(f"The folder {target.parent} does not exist.", f"Create it first: mkdir -p {target.parent}")
    shutil.copyfile(source, target)
    Console().say(f"Copied to {target}. Change it, then: zoo reproduce {_typed(target)} --laptop --dry-run")


def _typed(path: Path) -> str:
    return str(path) if path.is_absolute() or len(path.parts) > 1 else f"./{path}"


def _card(name: str, as_json: bool) -> None:
    from zoo.cli.recipe_card import show_card
    from zoo.recipes.find import last_result, read
    from zoo.recipes.load import load_recipe

    recipe = load_recipe(name)
    last = last_result(recipe.path, read(recipe.path)[0])
    if as_json:
        print_json({**recipe.model_dump(mode="json", exclude={"lines"}), "last": last})
        return
    verdict = _verdict(last.get("verdict", ""), last.get("date", ""), last.get("stale", False))
    show_card(recipe, verdict, Console())
    ways = ["--laptop"] if recipe.laptop else []
    Console().say("\n" + "\n".join(f"zoo reproduce {name} {way}" for way in [*ways, "--dry-run"]))
