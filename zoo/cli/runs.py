"""`zoo runs`: the runs of a folder, one run, what a run does while it goes on, and deleting one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.padding import Padding
from rich.text import Text

from zoo.cli.completion import run_names
from zoo.cli.listings import Json
from zoo.errors import ZooError, nearest
from zoo.numbers import decimal
from zoo.options.strict_yaml import read_some
from zoo.terminal import Console, plain, print_json

COLUMNS = ("run", "status", "algo", "model", "data", "steps", "before → after")
SHOWN_OPTIONS = ("algo", "model", "data")
"""Options that a list of runs shows."""
SORTED_BY = ("name", "status", *SHOWN_OPTIONS, "steps")
"""What a list of runs can be sorted by, besides the scores after training."""


def runs(
    name: Annotated[
        str | None, typer.Argument(help="One run: path, name or last; by default all.", autocompletion=run_names)
    ] = None,
    out: Annotated[str, typer.Option(help="Folder that holds the runs.")] = "runs",
    follow: Annotated[
        bool, typer.Option(help="Show what the run does until it ends: state, time left, curves, alarms, answers.")
    ] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            show_default="age",
            help="Sort by name, status, algo, model, data, steps or a score; the largest comes last.",
        ),
    ] = None,
    delete: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Delete this run, after a question.", autocompletion=run_names),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --delete: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """List the runs, or show one: scores before and after, why it stopped, options that were given, and its files."""
    from zoo.runs import find_run, find_runs

    if delete is not None:
        _delete(find_run(delete, out), out, yes)
        return
    if yes:
        raise ZooError("--yes is for --delete.", "Leave it out.")
    if follow:
        if as_json:
            raise ZooError("--json and --follow cannot be combined.", "Read metrics.jsonl in the folder of the run.")
        from zoo.report.follow import follow as follow_run

        raise typer.Exit(follow_run(find_run(name or "last", out), Console()))
    selected = [find_run(name, out)] if name else find_runs(out)
    rows = [_run_row(run) if name else _readable_row(run) for run in selected]
    if sort is not None:
        rows.sort(key=_order(sort, rows))
    if as_json:
        print_json(
            rows if name is None else {**rows[0], "config": selected[0].config, "metrics": selected[0].log_history[-1:]}
        )
        return
    if not rows:
        Console().print(f"No runs in {out}/ yet. Start one with `zoo train`.")
        return
    _show_runs(rows)
    if name:
        _show_run(selected[0], rows[0]["status"])


def _order(key: str, rows: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    """What a list is sorted by; rows without it come first. Raises ZooError for a key that no row has."""
    scores = {name for row in rows for name in row["after"]}
    if key not in SORTED_BY and key not in scores:
        known = [*SORTED_BY, *sorted(scores)]
        raise ZooError(f"Runs cannot be sorted by '{key}'.{nearest(key, known)}", f"There are: {', '.join(known)}.")

    def value(row: dict[str, Any]) -> tuple[bool, Any]:
        found = row[key] if key in SORTED_BY else row["after"].get(key)
        number = isinstance(found, int | float)
        return (number, found if number else 0) if key in scores or key == "steps" else (True, str(found))

    return value


def _delete(run: Any, out: str, yes: bool) -> None:
    """Delete a run of the folder. Raises ZooError for one that goes on, and for what is not in the folder."""
    from zoo.paths import typed_path
    from zoo.runs import find_runs, remove_run

    if run.path.is_symlink() or run.path.resolve().parent != typed_path(out).resolve():
        raise ZooError(
            f"{run.path} is not a folder in {out}/, and only those are deleted.", "Name its folder with --out FOLDER."
        )
    state = _readable_row(run)["status"]
    if state == "training":
        raise ZooError(
            f"The run {run.name} is being trained.", f"Stop it with ctrl-C or let it end. zoo runs --follow {run.typed}"
        )
    later = [other for other in find_runs(out) if other.name != run.name and _begins_with(other, run)]
    names = ", ".join(other.name for other in later)
    needed = f" {names} began with its model, which adapters still need." if later else ""
    size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    if not yes:
        if not sys.stdin.isatty():
            raise ZooError(f"{run.path} is deleted only after a question.", f"zoo runs --delete {run.name} --yes")
        asked = Text(f"Delete {run.path} ({state}, {size / 1e6:,.1f} MB)?{needed} [y/N] ")
        if Console().input(asked).strip().lower() not in ("y", "yes"):
            Console().say("Nothing is deleted.")
            return
    remove_run(run)
    Console().say(f"Deleted {run.path} ({size / 1e6:,.1f} MB).{needed if yes else ''}")


def _begins_with(other: Any, run: Any) -> bool:
    """Whether a run began with the model of another one, or with a checkpoint of it."""
    model = str(read_some(other.path / "run.yaml", ("model",)).get("model", "")).partition("@")[0]
    return model in (run.name, str(run.path)) or Path(model).resolve() in (run.path.resolve(), run.model_path.resolve())


def _show_runs(rows: list[dict[str, Any]]) -> None:
    """A table if it fits; otherwise one paragraph each, so that names can be copied."""
    console, table, paragraphs = Console(), [list(COLUMNS)], []
    for row in rows:
        model, data = (Path(str(row[name])).name for name in ("model", "data"))
        measured = [name for name in row["after"] if name in row["before"]][:4]
        changes = [f"{name} {decimal(row['before'][name])} → {decimal(row['after'][name])}" for name in measured]
        steps = str(row["steps"])
        if row.get("total_steps"):
            steps = f"{steps}/{row['total_steps']}"
            changes = [row["pace"]] if row["pace"] else []
        cells = [row["name"], row["status"], row["algo"], model, data, steps, "\n".join(changes)]
        table.append(cells)
        facts = f"{row['status']}, {steps} step{'' if steps == '1' else 's'}, {row['algo']} of {model} on {data}"
        paragraphs.append((row["name"], [facts, *changes]))
    lines = _aligned(table)
    if max(map(cell_len, lines)) <= console.width:
        console.print(Text(lines[0], style="bold"), soft_wrap=True)
        console.print(Text("\n".join(lines[1:])), soft_wrap=True)
        paragraphs = []
    for name, lines in paragraphs:
        console.print(Text(name, style="bold"), soft_wrap=True)
        console.print(Padding(Text("\n".join(lines), overflow="fold"), (0, 0, 0, 2)))
    for row in rows:
        if "error" in row:
            console.say(row["error"])


def _aligned(table: list[list[str]]) -> list[str]:
    """The lines of a table, whose cells may have several. Rich's own takes seconds for a thousand rows."""
    split = [[plain(cell).split("\n") for cell in cells] for cells in table]
    widths = [max(cell_len(line) for cells in split for line in cells[i]) for i in range(len(table[0]))]
    return [
        "  ".join(set_cell_size(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for cells in split for line in zip_longest(*cells, fillvalue="")
    ]  # fmt: skip


def _readable_row(run: Any) -> dict[str, Any]:
    """The row of a run in a list; one with a damaged file does not hide the others."""
    try:
        return _run_row(run)
    except ZooError as error:
        unknown = dict.fromkeys(("algo", "model", "data", "steps"), "?")
        facts = {"name": run.name, "path": str(run.path), "status": "damaged", **unknown}
        return {**facts, "before": {}, "after": {}, "error": error.message}


def _run_row(run: Any) -> dict[str, Any]:
    from zoo.training.record.heartbeat import read_beat, state_of

    summary, beat = run.summary, read_beat(run)
    state = state_of(summary, beat)
    now: dict[str, Any] = {}
    if state == "training":
        from zoo.report.follow import Followed
        from zoo.training.record.progress import pace_of

        followed = Followed(run)
        followed.look()
        now = {"total_steps": followed.steps, **followed.pace, "pace": pace_of(followed.pace)}
    return {
        "name": run.name,
        "path": str(run.path),
        "status": state,
        **dict.fromkeys(SHOWN_OPTIONS, "?"),
        **read_some(run.path / "run.yaml", SHOWN_OPTIONS),
        "steps": beat.step if beat and state in ("training", "dead") else summary.get("steps", "?"),
        "before": summary.get("before", {}),
        "after": summary.get("after", {}),
        **now,
    }


def _show_run(run: Any, state: str) -> None:
    from zoo.options.config import TrainConfig, is_default
    from zoo.runs import saved_steps

    console = Console()
    if state != "training" and "reason" in run.summary:
        console.say(f"  {run.summary['reason']} {run.summary.get('hint', '')}")
    defaults = {"algo": run.config.get("algo"), **asdict(TrainConfig())}
    origins = run.read_json("origins.json")
    for name, value in run.config.items():
        # A run of an older version has no origins.
        if not is_default(origins[name]) if name in origins else name not in defaults or value != defaults[name]:
            console.print(f"  {name} {value}")
    for file in sorted(run.path.iterdir()):
        console.say(f"  {file}")
    if steps := saved_steps(run):
        console.say(f"checkpoints {', '.join(f'{run.typed}@step-{step}' for step in steps)}")
    if run.command:
        console.say(f"command: {run.command}")
