"""`zoo reproduce`: run a recipe and judge its claims."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.listings import Json
from zoo.errors import ZooError, was_asked
from zoo.numbers import amount
from zoo.options.spelling import seeds as seeds_in
from zoo.recipes.find import SIZES, one_size
from zoo.recipes.verdicts import CONTRADICTED, LOOKS, NOT_TESTED, REPRODUCED, UNDECIDED
from zoo.terminal import Console, fitting, print_json
from zoo.workers.make import HELP, make_workers

if TYPE_CHECKING:
    from zoo.recipes.runner import Reproduction
    from zoo.recipes.schema import Recipe

MOST = LOOKS[-1]
HELPS = {size: f"{about[0].upper()}{about[1:]}." for size, about in SIZES.items()}
EXAMPLES = (
    "zoo reproduce ipo --laptop",
    "zoo reproduce ipo --laptop --seeds 101,102,103",
    "zoo reproduce ipo --laptop --until-decided",
    "zoo reproduce ./mine.yaml --laptop --dry-run",
    "zoo reproduce dpo --full --only sft --dry-run",
    "zoo reproduce --all --laptop",
    "zoo reproduce dpo --laptop --workers 2",
)
COLOURS = {REPRODUCED: "green", CONTRADICTED: "red", UNDECIDED: "yellow", NOT_TESTED: "yellow"}


def reproduce(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe by name (zoo recipes lists them), or a YAML file.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All recipes that have this size, one after the other.")] = False,
    laptop: Annotated[bool, typer.Option("--laptop", help=HELPS["laptop"])] = False,
    small: Annotated[bool, typer.Option("--small", help=HELPS["small"])] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help=HELPS["gpu"])] = False,
    full: Annotated[bool, typer.Option("--full", help=HELPS["full"])] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="A number of seeds, or a list (100,105,107 or 100,).", show_default="as many as the recipe says"
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Run this stage and the stages it needs (* for all); judge nothing."),
    ] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Go on with more seeds until each claim is decided.")
    ] = False,
    max_seeds: Annotated[int, typer.Option(min=LOOKS[0], max=MOST, help="The most seeds of --until-decided.")] = MOST,
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start a full-scale run without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Run all stages of a recipe and judge the paper's claims.

    The graph of stages is printed first. Run the same command again to continue after a stop: finished stages do not
    run again. A claim is *reproduced* if the interval of its mean lies on the claim's side, *contradicted* if it lies
    on the other side, and *undecided* between them; a small experiment says nothing about numbers at full scale.
    """
    from zoo.recipes.find import all_recipes
    from zoo.recipes.load import load_recipe

    if (recipe is None) != every:
        raise ZooError(
            "Which recipe?" if recipe is None else f"--all is given, and so is {recipe}.",
            "Give the name of one (zoo recipes lists them), or --all.",
        )
    size = one_size({"laptop": laptop, "small": small, "gpu": gpu, "full": full})
    if every and size is None:
        raise ZooError("--all needs a size.", "Add --laptop, --small, --gpu or --full.")
    names = [recipe] if recipe is not None else [entry.full_name for entry in all_recipes() if not entry.error]
    read = [load_recipe(name) for name in names]
    if every:
        read = [one for one in read if getattr(one, str(size)) is not None]
    elif size is None and not dry_run:
        _ask_for_a_size(read[0])
    size = size or "full"
    if size == "full" and not dry_run:
        _confirm(read, yes)
    # Imports that take seconds come only now, so that mistakes in the file are reported at once.
    from zoo.recipes.check import check_recipe
    from zoo.recipes.runner import Reproduction

    console = Console(stderr=as_json)
    chosen: int | list[int] | None = None
    if seeds is not None:
        listed = seeds_in(seeds)
        chosen = len(listed) if seeds.strip().isdigit() else listed
    recorded = record and only is None and not dry_run
    checked = [check_recipe(one, size) for one in read]
    if recorded:
        from zoo.recipes.registered import register

        register(checked, size)
    reproductions = [
        Reproduction(
            one, size, console, seeds=chosen, only=only, out=out, command=shlex.join(["zoo", *sys.argv[1:]]),
            workers=None if workers is None else make_workers(workers), most_seeds=max_seeds if until_decided else 0,
            recorded=recorded,
        )
        for one in checked
    ]  # fmt: skip
    if every:
        _all(reproductions, console, record=record, dry_run=dry_run, strict=strict, as_json=as_json)
        return
    (reproduction,) = reproductions
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


def _ask_for_a_size(recipe: Recipe) -> None:
    """Raises ZooError that names the sizes of a recipe and what each takes."""
    lines = []
    for variant in recipe.variants:
        took = f"about {variant.conditions.minutes:g} minutes" if variant.conditions else recipe.hardware
        lines.append(f"  --{variant.name:8}{SIZES[variant.name]} ({took})")
    raise ZooError(
        f"Which size of {recipe.name}?\n" + "\n".join(lines), f"Such as: zoo reproduce {recipe.name} --laptop"
    )


def _confirm(recipes: Sequence[Recipe], yes: bool) -> None:
    """Ask before a run at the paper's scale. Raises ZooError without a terminal to ask on."""
    if yes:
        return
    needs = "; ".join(f"{recipe.name} (hardware: {recipe.hardware})" for recipe in recipes)
    if not sys.stdin.isatty():
        raise ZooError(
            f"A run at the paper's scale is not started without being asked: {needs}.", "Add --yes, or --dry-run."
        )
    if not typer.confirm(f"The paper's scale: {needs}. Start it?"):
        raise typer.Exit(0)


def _all(
    reproductions: Sequence[Reproduction],
    console: Console,
    *,
    record: bool,
    dry_run: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Run one recipe after the other. One that fails stops no other.

    record: store the results of each; what is recorded already is not run again.
    """
    told = [(one, one.settled() if record else None) for one in reproductions]
    minutes = sum(one.minutes for one, settled in told if settled is None)
    count = sum(settled is None for _, settled in told)
    console.say(
        f"{count} of {amount(len(told), 'recipe')} are to be run, about {amount(round(minutes), 'minute')}; "
        "finished stages take none."
    )
    if dry_run:
        for one, settled in told:
            state = f"about {one.minutes:.2g} minutes" if settled is None else f"recorded: {settled['verdict']}"
            console.say(f"  {one.recipe.name}: {amount(len(one.seeds), 'seed')}, {state}")
        return
    found: list[dict[str, Any]] = []
    for one, settled in told:
        results = settled
        if settled is None:
            one.draw()
            try:
                results = one.go()
            except ZooError as error:
                if was_asked(error):
                    raise
                console.print(f"{error.message}\n{error.hint}", style="red")
                found.append({"recipe": one.recipe.name, "error": error.message})
                continue
            if one.recorded:
                one.record(results)
        if results is not None:
            found.append(results)
    if as_json:
        print_json(found)
    else:
        _summary(found, console)
    failed = any("error" in results for results in found)
    if failed or any(_fails(results, strict) for results in found):
        raise typer.Exit(1)


def _summary(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A line for each recipe, and the sums."""
    table = Table("recipe", "verdict", "seeds", "CPU minutes", box=None, pad_edge=False)
    judged = [results for results in found if "error" not in results]
    for results in found:
        if "error" in results:
            table.add_row(results["recipe"], Text("failed", "red"), "", "")
        else:
            table.add_row(
                results["recipe"],
                Text(results["verdict"], _colour(results)),
                str(len(results["seeds"])),
                f"{_total(results, 'cpu_minutes'):g}",
            )
    counts: Counter[str] = sum((Counter(results["counts"]) for results in judged), Counter())
    cpu, clock = (sum(_total(results, name) for results in judged) for name in ("cpu_minutes", "minutes"))
    console.print(fitting(table, console))
    verdicts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    console.say(f"{verdicts}; {cpu:,.0f} CPU minutes in all, {clock:,.0f} minutes on the clock.")


def _total(results: Mapping[str, Any], name: str) -> float:
    """Minutes over all stages, those that were run before among them; of what is recorded or has just been made."""
    return float(results.get(name, results.get("made", {}).get(name)) or 0)


def _colour(results: Mapping[str, Any]) -> str:
    return next((COLOURS[name] for name in (CONTRADICTED, UNDECIDED, NOT_TESTED) if name in results["counts"]), "green")


def _fails(results: Mapping[str, Any], strict: bool) -> bool:
    """Whether a claim could not be judged or, with strict, is not reproduced."""
    return NOT_TESTED in results["counts"] or (strict and set(results["counts"]) != {REPRODUCED})


def _exit(results: Mapping[str, Any], strict: bool) -> None:
    if _fails(results, strict):
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
    console.print(fitting(table, console))
    if results["full_scale"]:
        count = len(results["full_scale"])
        console.print(f"Not tested here: {amount(count, 'claim')} at full scale.", style="dim")
    console.print(Text.assemble(f"\n{results['recipe']}: ", (results["verdict"], f"bold {_colour(results)}")))
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
