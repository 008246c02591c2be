"""`compare` for programs: algorithms at equal compute, or finished runs side by side, as `zoo compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.comparison.entrants import PROCESSES, Settings, read_settings, refuse_processes
from zoo.comparison.finished import compare_runs
from zoo.comparison.runner import Comparison
from zoo.comparison.tuning import tune
from zoo.contract.lent import lending
from zoo.data.sources.given import giving, refuse_other_data
from zoo.errors import ZooError, in_words
from zoo.report.comparison_page import write_comparison_page
from zoo.runs import Run, find_run
from zoo.terminal import Console
from zoo.training.lending import name_of, named


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
    algos: str | Sequence[Any] | Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] | str | None = None,
    config: str | Path | None = None,
    sets: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    tune_by: str | None = None,
    tune_seeds: int | Sequence[int] | str | None = None,
    tokens: int | None = None,
    cases: int | None = None,
    answer_tokens: int = 96,
    out: str | None = None,
    quiet: bool = False,
    sources: Mapping[str, Any] | None = None,
    **options: Any,
) -> Compared:
    """Compare finished runs, `zoo.compare("first", "second")`, or train algorithms at equal compute and measure them:
    `zoo.compare(algos=["first", Mine], seeds=3, sets={"first.beta": 0.2}, data=rows)`.

    algos: names or classes, or a mapping of labels to them; sets: options of one algorithm; sweep: values to choose
    among before, `{"first.beta": [0.05, 0.1]}`, by tune_by; tokens, cases, answer_tokens, tune_by, tune_seeds: as of
    `zoo compare --help`; out: the folder of the comparison, where finished runs are reused; options: of all runs,
    where rows, a function and a model may stand as in `train`; sources: as of `train`. Returns what was found, which a
    notebook shows as a table. Raises ZooError.
    """
    asked = (algos, seeds, config, sets, sweep, tune_by, tune_seeds, tokens, cases, out, sources)
    if runs and (options or any(one is not None for one in asked)):
        raise ZooError("Finished runs are compared as they are.", "Give runs alone, or algos and their options.")
    if runs:
        return Compared(compare_runs([run if isinstance(run, Run) else find_run(str(run)) for run in runs]))
    for name in PROCESSES:
        if name in options:
            refuse_processes(name, name)
    if sweep is None and (tune_by, tune_seeds) != (None, None):
        raise ZooError("tune_by and tune_seeds are for sweep.", 'Add sweep={"label.option": [value, value]}.')
    names, classes = _named(algos)
    with lending(classes), named(options) as options, giving(options, sources) as options:
        settings = read_settings(
            names, _seeds(seeds), None if config is None else str(config),
            [f"{name}={value}" for name, value in (sets or {}).items()], options,
        )  # fmt: skip
        refuse_other_data(settings.common | settings.given, {}, sources or ())
        console = Console(quiet=quiet)

        def make(settings: Settings, out: str | None, **more: Any) -> Comparison:
            return Comparison(
                settings, console, out=out, tokens=tokens, cases=cases, answer_tokens=answer_tokens, **more
            )

        comparison = make(settings, out)
        if sweep is not None:
            texts = [f"{name}={','.join(map(str, values))}" for name, values in sweep.items()]
            comparison = tune(comparison, texts, tune_by, _seeds(tune_seeds), make).go(None)
        results = comparison.go(comparison.plan(), None)
        page = write_comparison_page(comparison.folder, results, comparison.command)
    return Compared({**results, "report": str(page)})


def _named(algos: str | Sequence[Any] | Mapping[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
    """Algorithms as `--algos` takes them, and the classes among them by their names. Raises ZooError."""
    if algos is None or isinstance(algos, str):
        return algos, {}
    listed = algos.items() if isinstance(algos, Mapping) else [(None, algo) for algo in algos]
    named = [(label, str(algo) if isinstance(algo, str | Path) else name_of(algo), algo) for label, algo in listed]
    classes: dict[str, Any] = {}
    for _, name, algo in named:
        if not isinstance(algo, str | Path) and classes.setdefault(name, algo) is not algo:
            raise ZooError(f"Two classes are called {algo.__name__}.", "Give one of them another name.")
    return ",".join(f"{label}={name}" if label else name for label, name, _ in named), classes


def _seeds(seeds: int | Sequence[int] | str | None) -> str | None:
    """Seeds as the command takes them: a number of them, or a list."""
    if seeds is None or isinstance(seeds, str):
        return seeds
    return str(seeds) if isinstance(seeds, int) else "".join(f"{seed}," for seed in seeds)
