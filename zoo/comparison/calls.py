"""`compare` for programs: algorithms at equal compute, or finished runs side by side, as `zoo compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.comparison.entrants import PROCESSES, read_settings, refuse_processes
from zoo.comparison.finished import compare_runs
from zoo.comparison.runner import Comparison
from zoo.errors import ZooError, in_words
from zoo.report.comparison_page import write_comparison_page
from zoo.runs import Run, find_run
from zoo.terminal import Console


class Compared(dict[str, Any]):
    """The results of a comparison, as `zoo compare --json` prints them; `frame` is their table."""

    @property
    def frame(self) -> Any:
        """A frame of pandas: a row for each algorithm and the start, or for each run; a column for each number."""
        import pandas

        if "algorithms" in self:
            rows = {"start": {name: score["value"] for name, score in self["start"].items()}}
            for entrant in self["algorithms"]:
                rows[entrant["label"]] = {name: one["mean"] for name, one in entrant["measures"].items() if one}
            return pandas.DataFrame.from_dict(rows, orient="index")
        columns = {row["name"]: [one and one["value"] for one in row["values"]] for row in self["scores"]}
        columns |= {row["name"]: row["values"] for row in self["metrics"]}
        return pandas.DataFrame(columns, index=[run["name"] for run in self["runs"]])

    def _repr_html_(self) -> str:
        return str(self.frame.to_html())


@in_words
def compare(
    *runs: str | Path | Run,
    algos: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | str | None = None,
    config: str | Path | None = None,
    sets: Mapping[str, Any] | None = None,
    tokens: int | None = None,
    cases: int | None = None,
    answer_tokens: int = 96,
    out: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> Compared:
    """Compare finished runs, `zoo.compare("first", "second")`, or train algorithms at equal compute and measure them:
    `zoo.compare(algos=["first", "second"], seeds=3, sets={"first.beta": 0.2}, data="pairs.jsonl")`.

    sets: options of one algorithm; tokens, cases, answer_tokens: as of `zoo compare --help`; out: the folder of the
    comparison, where finished runs are reused; options: of all runs. Returns what was found, which a notebook shows as
    a table. Raises ZooError.
    """
    if runs and (algos or config or options):
        raise ZooError("Finished runs are compared as they are.", "Give runs alone, or algos and their options.")
    if runs:
        return Compared(compare_runs([run if isinstance(run, Run) else find_run(str(run)) for run in runs]))
    for name in PROCESSES:
        if name in options:
            refuse_processes(name, name)
    for name, value in options.items():
        if not isinstance(value, str | int | float | bool | Path | None):
            raise ZooError(
                f"{name} is a {type(value).__name__}, and a comparison takes what can be named again.",
                f"Write the rows to a file, and give its name: {name}='rows.jsonl'.",
            )
    settings = read_settings(
        algos if algos is None or isinstance(algos, str) else ",".join(algos), _seeds(seeds),
        None if config is None else str(config), [f"{name}={value}" for name, value in (sets or {}).items()], options,
    )  # fmt: skip
    comparison = Comparison(
        settings, Console(quiet=quiet), out=out, tokens=tokens, cases=cases, answer_tokens=answer_tokens
    )
    results = comparison.go(comparison.plan(), None)
    page = write_comparison_page(comparison.folder, results, comparison.command)
    return Compared({**results, "report": str(page)})


def _seeds(seeds: int | Sequence[int] | str | None) -> str | None:
    """Seeds as the command takes them: a number of them, or a list."""
    if seeds is None or isinstance(seeds, str):
        return seeds
    return str(seeds) if isinstance(seeds, int) else "".join(f"{seed}," for seed in seeds)
