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
from zoo.recipes.verdicts import CONTRADICTED, LOOKS, NOT_TESTED, REPRODUCED, UNDECIDED
from zoo.terminal import Console, print_json
from zoo.workers.make import HELP, make_workers

EXAMPLES = (
    "zoo reproduce ipo --laptop",
    "zoo reproduce ipo --laptop --seeds 101,102,103",
    "zoo reproduce ipo --laptop --until-decided",
    "zoo reproduce ./mine.yaml --laptop --dry-run",
    "zoo reproduce dpo --only sft --dry-run",
    "zoo reproduce dpo --laptop --workers 2",
)
COLOURS = {REPRODUCED: "green", CONTRADICTED: "red", UNDECIDED: "yellow", NOT_TESTED: "yellow"}


def reproduce(
    recipe: Annotated[str, typer.Argument(help="A recipe by name (zoo recipes lists them), or a YAML file.")],
    laptop: Annotated[bool, typer.Option("--laptop", help="The small experiment, in minutes on a CPU.")] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="A number of seeds, or a list (100,105,107 or 100,).", show_default="as many as the recipe says"
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage and the stages it needs; judge nothing.")
    ] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Go on with more seeds until each claim is decided.")
    ] = False,
    max_seeds: Annotated[int, typer.Option(min=3, max=LOOKS[-1], help="The most seeds of --until-decided.")] = LOOKS[
        -1
    ],
    workers: Annotated[str | None, typer.Option(metavar="N", help=HELP)] = None,
    out: Annotated[str, typer.Option(help="Folder of reproductions; an unfinished one is continued.")] = (
        "runs/recipes"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; run nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 unless every claim is reproduced.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="A judging run: store the results next to the recipe; seeds are fresh.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run all stages of a recipe and judge the paper's claims.

    The graph of stages is printed first. Run the same command again to continue after a stop: finished stages do not
    run again. A claim is *reproduced* if the interval of its mean lies on the claim's side, *contradicted* if it lies
    on the other side, and *undecided* between them; a small experiment says nothing about numbers at full scale.
    """
    from zoo.recipes.load import load_recipe

    read = load_recipe(recipe)
    # Imports that take seconds come only now, so that mistakes in the file are reported at once.
    from zoo.recipes.check import check_recipe
    from zoo.recipes.runner import Reproduction

    checked = check_recipe(read, laptop)
    console = Console(stderr=as_json)
    chosen: int | list[int] | None = None
    if seeds is not None:
        listed = seeds_in(seeds)
        chosen = len(listed) if seeds.strip().isdigit() else listed
    reproduction = Reproduction(
        checked,
        laptop,
        console,
        seeds=chosen,
        only=only,
        out=out,
        command=shlex.join(["zoo", *sys.argv[1:]]),
        workers=None if workers is None else make_workers(workers),
        most_seeds=max_seeds if until_decided else 0,
        recorded=record and only is None and not dry_run,
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
    if NOT_TESTED in results["counts"] or (strict and set(results["counts"]) != {REPRODUCED}):
        raise typer.Exit(1)


def _show(results: Mapping[str, Any], folder: Path, stored: Path | None, console: Console) -> None:
    from zoo.report.pages import shown

    interval_title = f"{100 * results['level']:g} % interval"
    table = Table("claim", "seeds", "mean ± sd", interval_title, "verdict", box=None, pad_edge=False)
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
    colour = next((COLOURS[name] for name in (CONTRADICTED, UNDECIDED) if name in results["counts"]), "green")
    console.print(Text.assemble(f"\n{results['recipe']}: ", (results["verdict"], f"bold {colour}")))
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
