"""`zoo compare`: algorithms at equal compute, or finished runs side by side."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from zoo.cli.train import flag_of, parameter
from zoo.comparison.entrants import DECIDED, PROCESSES, TUNING, TUNING_SEEDS, refuse_processes
from zoo.errors import ZooError
from zoo.numbers import amount, decimal, signed
from zoo.options.config import TrainConfig
from zoo.options.fields import options_of
from zoo.terminal import Console, fitting, print_json
from zoo.workers.make import HELP, make_workers
from zoo.workers.tasks import Workers

if TYPE_CHECKING:
    from zoo.comparison.entrants import Settings
    from zoo.comparison.runner import Comparison

EXAMPLES = (
    "zoo compare --algos dpo,kto,simpo --seeds 3",
    "zoo compare --algos sft,dpo --data pairs.jsonl --max-steps 20 --dry-run",
    "zoo compare --algos mild=dpo,strong=dpo --set mild.beta=0.5 --set strong.beta=0.02",
    "zoo compare --algos dpo,kto --sweep dpo.beta=0.05,0.1 --sweep kto.beta=0.05,0.1 --tune-by instructions",
    "zoo compare --config compare.yaml --out comparisons/mine --json",
    "zoo compare --algos dpo,kto --seeds 3 --workers 2",
    "zoo compare runs/first runs/second",
)
ANSWER_TOKENS = 96
OF_RUNS = ("algos", "config", "out", "as_json")
"""Own options that finished runs take, or that are refused with words of their own."""
OWN: list[tuple[str, type, Any, Any]] = [
    ("algos", str, typer.Option(metavar="NAME,…", help="Names separated by commas; label=name to list one twice."),
     None),
    ("seeds", str, typer.Option(help="A number of seeds (3 means 0, 1, 2), or a list (0,5,7). A seed determines the "
                                "order of the data and everything else random.", show_default="1"), None),
    ("sets", list[str], typer.Option("--set", metavar="LABEL.OPTION=VALUE", help="An option of one algorithm."), None),
    ("sweeps", list[str], typer.Option("--sweep", metavar="LABEL.OPTION=VALUE,…", help="Values to choose from for one "
                                       "algorithm, on prompts cut off the training part (repeat it for several)."),
     None),
    ("tune_by", str, typer.Option(metavar="REWARD", help="What --sweep chooses by: a reward of greedy answers "
                                  "(instructions), preference_accuracy, or plain_accuracy."), None),
    ("tune_seeds", str, typer.Option(help="Seeds of --sweep.", show_default=f"{TUNING_SEEDS[0]},"), None),
    ("config", str, typer.Option(metavar="FILE", help="YAML: common options, algos, seeds, and options under a label."),
     None),
    ("out", str, typer.Option(metavar="FOLDER", help="Folder of runs and report; an existing one is continued.",
                              show_default="comparisons/data-model"), None),
    ("tokens", int, typer.Option(help="Tokens that each run trains on.", show_default="those of the shortest"), None),
    ("cases", int, typer.Option(help="Number of held-out prompts and pairs to measure on.", show_default="all"), None),
    ("answer_tokens", int, typer.Option("--answer-tokens", help="Maximum length of a measured answer, in tokens.",
                                        show_default=str(ANSWER_TOKENS)), None),
    ("workers", str, typer.Option(metavar="N", help=HELP), None),
    ("only", str, typer.Option(metavar="RUN", help="Make this run alone, named LABEL-seedN: a part for a job of its "
                               "own. Without --only the same command then compares."), None),
    ("dry_run", bool, typer.Option("--dry-run", help="Print the plan without training."), False),
    ("as_json", bool, typer.Option("--json", help="Print JSON."), False),
]  # fmt: skip


def command() -> Any:
    """The function behind `zoo compare`, with a flag for every option that is common to all runs."""

    def compare(runs: Any = None, **core_options: Any) -> None:
        """Compare algorithms at equal compute, or finished runs.

        Algorithms (--algos, or as words) are trained from the same model on the same number of tokens, and measured
        on the same held-out rows; finished runs in the folder are reused. With two or more runs: the options that
        differ, and the results.
        """
        own = {name: core_options.pop(name) for name, *_ in OWN}
        for name in PROCESSES:
            if core_options.pop(name) is not None:
                refuse_processes(name, f"--{name.replace('_', '-')}")
        if runs and not (own["algos"] or own["config"]) and are_algorithms(runs):
            own["algos"], runs = ",".join(runs), None
        if runs and (own["algos"] or own["config"]):
            raise ZooError("Give either runs or --algos, not both.", "Compare finished runs, or train with --algos.")
        if runs:
            _refuse_without_effect({**{k: v or None for k, v in own.items() if k not in OF_RUNS}, **core_options})
            _compare_runs(list(runs), own)
        else:
            _compare_algorithms(own, core_options)

    parameters = [
        inspect.Parameter(
            "runs", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None,
            annotation=Annotated[
                list[str] | None, typer.Argument(metavar="RUN|ALGORITHM", help="Paths, names, or last; or algorithms.")
            ],
        )
    ]  # fmt: skip
    parameters += [parameter(name, kind, info, default) for name, kind, info, default in OWN]
    common = [option for option in options_of(TrainConfig) if option.name not in DECIDED]
    parameters += [parameter(o.name, bool if o.is_flag else str, flag_of(o)) for o in common]
    # They are refused with a reason.
    parameters += [parameter(name, str, typer.Option(hidden=True)) for name in PROCESSES]
    compare.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    compare.__annotations__ = {p.name: p.annotation for p in parameters}
    return compare


def are_algorithms(words: list[str]) -> bool:
    """Whether words such as `dpo kto`, `dpo,kto` or `mild=dpo kto` are meant as algorithms.

    They are where one of them names an algorithm and none a run, so that the others are looked for among algorithms.
    """
    from zoo.contract.registry import algorithms
    from zoo.runs import is_run_name

    known = {name for entry in algorithms() for name in (entry.name, entry.full_name)}
    named = {name.partition("=")[2] or name for word in words for name in word.split(",")}
    return bool(known & named) and not any(is_run_name(word) for word in words)


def _refuse_without_effect(typed: dict[str, Any]) -> None:
    """Raises ZooError for options of training and measuring beside finished runs. typed: by name, None where not."""
    names = [name for name, value in typed.items() if value is not None]
    if names:
        spelled = {"sets": "set", "sweeps": "sweep"}
        flags = ", ".join("--" + spelled.get(name, name).replace("_", "-") for name in names)
        raise ZooError(
            f"Finished runs are compared as they are; {flags} would have no effect.",
            f"Leave {flags} out, or name algorithms to train with --algos.",
        )


def _compare_algorithms(own: dict[str, Any], core_options: dict[str, Any]) -> None:
    own["answer_tokens"] = ANSWER_TOKENS if own["answer_tokens"] is None else own["answer_tokens"]
    for name in ("tune_by", "tune_seeds"):
        if own[name] is not None and not own["sweeps"]:
            raise ZooError(f"--{name.replace('_', '-')} is for --sweep.", "Add --sweep LABEL.OPTION=VALUE,VALUE.")
    for name in ("tokens", "cases", "answer_tokens"):
        if own[name] is not None and own[name] < 1:
            flag = "--" + name.replace("_", "-")
            raise ZooError(f"{flag} must be at least 1, not {own[name]}.", f"Give 1 or more, or leave {flag} out.")
    from zoo.comparison.entrants import read_settings

    settings = read_settings(own["algos"], own["seeds"], own["config"], own["sets"] or [], core_options)
    from zoo.comparison.runner import Comparison
    from zoo.report.comparison_page import write_comparison_page

    workers = _workers(own)
    console = Console(stderr=own["as_json"])

    def comparison_of(settings: Settings, out: str | None, **more: Any) -> Comparison:
        return Comparison(
            settings, console, out=out, tokens=own["tokens"], cases=own["cases"], answer_tokens=own["answer_tokens"],
            arguments=sys.argv[1:], **more,
        )  # fmt: skip

    comparison = comparison_of(settings, own["out"])
    if own["sweeps"]:
        from zoo.comparison.tuning import tune

        tuned = tune(comparison, own["sweeps"], own["tune_by"], own["tune_seeds"], comparison_of)
        _show_plan(tuned.plan, tuned.comparison, console)
        if own["dry_run"]:
            return
        if (own["only"] or "").startswith(f"{TUNING}/"):
            _only(tuned.comparison, tuned.plan, own["only"].partition("/")[2], own["as_json"])
            return
        comparison = tuned.go(workers)
        workers = _workers(own)
    plan = comparison.plan()
    _show_plan(plan, comparison, console)
    if own["dry_run"]:
        return
    if own["only"]:
        _only(comparison, plan, own["only"], own["as_json"])
        return
    results = comparison.go(plan, workers)
    page = write_comparison_page(comparison.folder, results, comparison.command)
    if own["as_json"]:
        print_json({**results, "report": str(page)})
    else:
        _show_results(results, console)
        console.say(f"report  {page}")
    if results["failed"]:
        raise typer.Exit(1)


def _only(comparison: Comparison, plan: Any, name: str, as_json: bool) -> None:
    run = comparison.make(plan, name)
    if as_json:
        print_json({"run": run.name, "path": str(run.path), "scores": run.read_json("measures.json")["scores"]})


def _workers(own: dict[str, Any]) -> Workers | None:
    if own["workers"] is None:
        return None
    if own["only"]:
        raise ZooError("--only makes one run, which needs no --workers.", "Leave one of the two out.")
    return make_workers(own["workers"])


def _show_plan(plan: Any, comparison: Any, console: Console) -> None:
    console.print(plan.definition())
    table = Table("", "steps", "of", "passes", "tokens", box=None, pad_edge=False)
    for planned in plan.runs:
        if planned.seed == plan.runs[0].seed:
            table.add_row(
                planned.entrant.label, str(planned.steps), str(planned.resolved.core.batch_size),
                f"{planned.passes:.2f}", f"{planned.tokens:,}",
            )  # fmt: skip
    console.print(fitting(table, console))
    held_out, count = comparison.held_out, len(plan.runs)
    console.print(
        f"{amount(count, 'run')} in {comparison.folder}, measured on "
        f"{amount(len(held_out.prompts), 'held-out prompt')} and {amount(len(held_out.pairs), 'pair')}.",
        soft_wrap=True,
    )  # fmt: skip
    for note in plan.notes:
        console.say(note)


def _show_results(results: dict[str, Any], console: Console) -> None:
    """The league table, what the columns mean, and what should not be overlooked."""
    from zoo.report.comparison_page import columns
    from zoo.report.pages import interval, shown

    names = columns(results)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        # A word a line: the table then fits 80 columns.
        table.add_column(name.replace("cpu_seconds", "CPU_s").replace("_", "\n"), justify="right")
    table.add_row("start", *(shown(results["start"].get(name, {}).get("value")) for name in names))
    for entrant in results["algorithms"]:
        table.add_row(entrant["label"], *(_cell(entrant["measures"].get(name)) for name in names))
    console.print()
    console.print(fitting(table, console))
    seeds = max(entrant["seeds"] for entrant in results["algorithms"])
    console.print(f"\n± is the sample standard deviation over {seeds} seeds." if seeds > 1 else "")
    for name in names:
        console.print(f"{name}: {results['measures'][name]}")
    for row in results["differences"]:
        other = "the start" if row["from"] == "start" else row["from"]
        console.print(
            f"{row['score']} of {row['to']} against {other}: {signed(row['change'])} (95 % interval "
            f"{interval(row)}, {amount(row['n'], 'prompt')})"
        )
    for line in [*results["warnings"], *(f"{row['run']} failed: {row['error']}" for row in results["failed"])]:
        console.print(line, style="yellow")


def _cell(value: dict[str, Any] | None) -> str:
    from zoo.report.pages import shown

    if value is None:
        return "–"
    return shown(value["mean"]) + (f"\n± {value['std']:.2g}" if value["std"] is not None else "")


# -- finished runs -------------------------------------------------------------------------------------------------


def _compare_runs(names: list[str], own: dict[str, Any]) -> None:
    from pathlib import Path

    from zoo.runs import find_run

    runs = [find_run(name) for name in names]
    from zoo.comparison.finished import compare_runs

    comparison = compare_runs(runs)
    console = Console(stderr=own["as_json"])
    if own["as_json"]:
        print_json(comparison)
    else:
        _show_runs(comparison, console)
    if own["out"]:
        from zoo.report.comparison_page import write_runs_page

        page = write_runs_page(Path(own["out"]), comparison, runs)
        console.say(f"report  {page}")


def _show_runs(comparison: dict[str, Any], console: Console) -> None:
    from zoo.report.pages import interval, shown

    titles = [run["name"] for run in comparison["runs"]]
    if not comparison["same_data"]:
        console.print("The runs were not trained on the same data.", style="yellow")
    if not comparison["same_algorithm"]:
        console.print(
            "Each algorithm has a loss and metrics of its own: compare the runs by evaluations.", style="yellow"
        )
    options = Table("option", *titles, box=None, pad_edge=False)
    for name, values in comparison["options"].items():
        options.add_row(name, *(str(value) if value is not None else "–" for value in values))
    console.print(fitting(options, console) if comparison["options"] else "No option differs.")
    numbers = Table("", *titles, box=None, pad_edge=False)
    for row in comparison["scores"]:
        cells = [
            f"{decimal(v['value'])} ({decimal(v['low'])} to {decimal(v['high'])}, n {v['n']})" if v else "–"
            for v in row["values"]
        ]
        changes = ["" if d is None else f"\n{signed(d['change'])} ({interval(d)})" for d in row["differences"]]
        numbers.add_row(row["name"], *(cell + change for cell, change in zip(cells, changes, strict=True)))
    for row in comparison["metrics"]:
        deltas = ["" if delta is None else f" ({delta:+.4g})" for delta in row["deltas"]]
        values = [shown(value) + delta for value, delta in zip(row["values"], deltas, strict=True)]
        numbers.add_row(row["name"], *values)
    console.print()
    console.print(fitting(numbers, console))
