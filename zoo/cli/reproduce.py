"""`zoo reproduce`: run a recipe and judge its claims."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.listings import Json
from zoo.options.spelling import seeds as seeds_in
from zoo.terminal import Console, print_json
from zoo.workers.make import HELP, make_workers

EXAMPLES = (
    "zoo reproduce ipo --laptop",
    "zoo reproduce ipo --laptop --seeds 10,11,12 --no-record",
    "zoo reproduce ./mine.yaml --laptop --dry-run",
    "zoo reproduce dpo --only sft --dry-run",
    "zoo reproduce dpo --laptop --workers 2",
)
COLOURS = {"reproduced": "green", "not reproduced": "red", "not tested here": "yellow"}


def reproduce(
    recipe: Annotated[str, typer.Argument(help="A recipe by name (zoo recipes lists them), or a YAML file.")],
    laptop: Annotated[bool, typer.Option("--laptop", help="The small experiment, in minutes on a CPU.")] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="A number of seeds (3 means 0, 1, 2), or a list (0,5,7 or 100,).", show_default="those of the recipe"
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage and the stages it needs; judge nothing.")
    ] = None,
    workers: Annotated[str | None, typer.Option(metavar="N", help=HELP)] = None,
    out: Annotated[str, typer.Option(help="Folder of reproductions; an unfinished one is continued.")] = (
        "runs/recipes"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; run nothing.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if a claim is not reproduced.")] = False,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Record the results next to the recipe, and update the table.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run all stages of a recipe and judge the paper's claims.

    The graph of stages is printed first. Run the same command again to continue after a stop: finished stages do not
    run again. A claim is *reproduced*, *not reproduced*, or *not tested here*: a small experiment says nothing about
    numbers at full scale.
    """
    from zoo.recipes.load import load_recipe

    read = load_recipe(recipe)
    # Imports that take seconds come only now, so that mistakes in the file are reported at once.
    from zoo.recipes.check import check_recipe
    from zoo.recipes.runner import Reproduction

    checked = check_recipe(read, laptop)
    console = Console(stderr=as_json)
    chosen = None if seeds is None else seeds_in(seeds)
    reproduction = Reproduction(
        checked,
        laptop,
        console,
        seeds=chosen,
        only=only,
        out=out,
        command=shlex.join(["zoo", *sys.argv[1:]]),
        workers=None if workers is None else make_workers(workers),
    )
    if dry_run:
        _dry_run(reproduction, console, as_json)
        return
    reproduction.draw()
    results = reproduction.go()
    if only is not None:
        return
    stored = reproduction.record(results) if record else None
    if as_json:
        print_json(results)
    else:
        _show(results, reproduction.folder, stored, console)
    _exit(results, strict)


def _exit(results: Mapping[str, Any], strict: bool) -> None:
    """Exit with 1 if a claim could not be judged or, with strict, is not reproduced."""
    judged = [claim["verdict"] for claim in results["claims"] if claim["seeds"]]
    if "not tested here" in judged or (strict and "not reproduced" in judged):
        raise typer.Exit(1)


def _show(results: Mapping[str, Any], folder: Path, stored: Path | None, console: Console) -> None:
    from zoo.report.pages import shown

    table = Table("claim", "seeds", "mean ± sd", "95 % interval", "verdict", box=None, pad_edge=False)
    for claim in results["claims"]:
        mean = shown(claim["mean"]) + (f" ± {shown(claim['sd'])}" if claim["sd"] is not None else "")
        interval = f"{shown(claim['low'])} to {shown(claim['high'])}" if claim["low"] is not None else "–"
        why = (f"\n{claim['why']}" if claim["why"] else "", "dim")
        verdict = Text.assemble((claim["verdict"], COLOURS[claim["verdict"]]), why)
        says = Text.assemble(claim["says"], (f"\n{claim['metric']} {claim['rule']}", "dim"))
        values = ", ".join(shown(value) for value in claim["values"])
        table.add_row(says, values, mean, interval, verdict)
    console.print()
    console.print(table)
    if results["full_scale"]:
        count = len(results["full_scale"])
        console.print(f"{count} claims at full scale are not tested here.", style="dim")
    verdict = results["verdict"]
    console.print(Text.assemble(f"\n{results['recipe']}: ", (verdict, f"bold {COLOURS[verdict]}")))
    if results["findings"]:
        console.print(f"Findings of the recipe's own run: {results['findings']}")
    if results["caveat"]:
        console.print(f"Caveat: {results['caveat']}")
    console.say(f"report  {folder / 'report.html'}")
    if stored is not None:
        console.say(f"kept    {stored}")


def _dry_run(reproduction: Any, console: Console, as_json: bool) -> None:
    plan = reproduction.plan()
    if reproduction.variant.name == "full":
        from zoo.testing.rehearsal import rehearse_all

        console.print("Rehearsing each training stage on a tiny model of the same architecture.", style="dim")
        told = rehearse_all(reproduction.rehearsed())
        plan["notes"] = [f"{name}: {sentence}" for name, sentence in told.items()]
    if as_json:
        print_json(plan)
        return
    reproduction.draw()
    for stage in plan["stages"]:
        state = "is finished" if stage["finished"] else "will run"
        console.print(Text.assemble("\n", (stage["name"], "bold"), f", seed {stage['seed']}: {state}"))
        for name, (value, origin) in stage["options"].items():
            if not origin.startswith(("default", "zoo reproduce")):
                console.print(Text.assemble(f"  {name}: {value}  ", (origin, "dim")), soft_wrap=True)
        for label, text in stage["evals"].items():
            console.say(f"  measures {label}: {text}")
    for line in plan["notes"]:
        console.say(line)
