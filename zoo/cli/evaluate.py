"""`zoo eval`: evaluations of a run or a model, and their list."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.completion import model_names
from zoo.cli.listings import NARROW_TABLE, Adapter, Json, TemplateArgs, show_entry
from zoo.errors import ZooError
from zoo.numbers import decimal
from zoo.options.config import DATA
from zoo.terminal import Console, print_json

EXAMPLES = (
    "zoo eval last --samples 3",
    "zoo eval smollm2-135m --eval instructions --limit 20 --json",
    "zoo eval last --against smollm2-135m --judge smollm2-135m",
    "zoo eval last --reward instructions",
    "zoo eval last --reward numeric --data questions.jsonl",
    'zoo eval last --eval "pass_at_k(data=questions.jsonl, reward=numeric, k=8)"',
    'zoo eval last --against smollm2-135m --eval "kl(data=starter)"',
    "zoo eval --eval lc_simulation",
    "zoo eval --list",
)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A run (path, name, last), its checkpoint (last@step-200) or a model (folder, hub name).",
            autocompletion=model_names,
        ),
    ] = "last",
    evals: Annotated[
        list[str] | None,
        typer.Option("--eval", help="An evaluation: name, or name(option=value, …); --list shows all."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure the mean of this reward over greedy answers to the prompts of --data (docs/rewards.md)."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Prompts for --reward and --judge: a file, folder, hub dataset or named source; by default starter."
        ),
    ] = None,
    columns: Annotated[str, typer.Option(help="Which column of --data is which: prompt=question.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer for --reward and --judge.")] = 96,
    against: Annotated[
        str | None, typer.Option(help="A run or model to compare with, for --judge, kl, forgetting and win_rate.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Measure how often this judge prefers the answer to that of --against: a model, a run, or "
            "https://host/v1#model (docs/judges.md).",
            autocompletion=model_names,
        ),
    ] = None,
    adapter: Adapter = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N cases.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Chat template: none, a name (zoo templates), or a .jinja file.", show_default="the model's own"
        ),
    ] = None,
    template_args: TemplateArgs = None,
    samples: Annotated[int, typer.Option(help="Number of answers to print.")] = 0,
    listed: Annotated[bool, typer.Option("--list", help="List the evaluations and their options.")] = False,
    out: Annotated[str, typer.Option(help="Folder that holds the runs.")] = "runs",
    as_json: Json = False,
) -> None:
    """Evaluate a run or a model.

    Without --eval, a run is measured by what it was scored by in its training. Where that is not set, a language model
    is measured on the starter set: instructions followed, held-out loss, preferences, refusals; a reward model is
    measured on held-out pairs and rankings. docs/evals.md describes every evaluation.
    """
    from zoo.data.encoding import named
    from zoo.data.encoding.named import AUTO, template_text
    from zoo.evals.chosen import choose
    from zoo.models.names import expect, with_adapter
    from zoo.training.outlook import evaluations

    catalogue = evaluations()
    if listed:
        _list(catalogue, as_json)
        return
    if limit is not None and limit < 1:
        raise ZooError(f"--limit {limit} leaves no cases to evaluate.", "Give 1 or more, or leave --limit out.")
    if not reward and judge is None and (data or columns):
        raise ZooError(
            "--data and --columns are for --reward and --judge, and neither is given.",
            f'Add one. An evaluation takes its data in parentheses: --eval "accuracy(data={data or DATA})".',
        )
    evals = [*(evals or []), *_judged(judge, against, data or DATA, columns, max_new_tokens, out)]
    template_text(AUTO if template is None else template)
    args = named.template_args(template_args)
    asked_for = choose(evals, catalogue)
    needs_model = bool(reward) or not asked_for or any(chosen.evaluation.head != "none" for chosen in asked_for)
    model = with_adapter(model, adapter, out) if needs_model else model
    for name in filter(None, (model, against)) if needs_model else ():
        expect(name, out)
    from zoo.evals.calls import measured, to_measure
    from zoo.evals.subject import load_subject
    from zoo.training.record.progress import counter

    console = Console(stderr=as_json)
    subject: Any = None
    if needs_model:
        progress = None if as_json else counter(console, "answers")
        subject = load_subject(
            model, out, console.say, against=against, limit=limit, progress=progress, asked=template, args=args
        )
    wanted = to_measure(
        subject, evals, reward or [], data or DATA, columns, max_new_tokens, out, console.say
    )  # fmt: skip
    _tell_of_starter(wanted, model if needs_model else None, out, console)
    results = {}
    for chosen, score in measured(subject, wanted):
        results[score.name] = {**score.as_json(), "samples": score.samples[:samples]}
        if not as_json:
            _show(console, score, chosen.evaluation.help, samples)
    if as_json:
        print_json(results)


def _tell_of_starter(wanted: list[Any], model: str | None, out: str, console: Console) -> None:
    """Say which evaluations of a run read the starter set, where the run learned from something else."""
    from zoo.evals.chosen import options_of
    from zoo.runs import find_run, is_run_name, split_checkpoint

    if model is None or not is_run_name(model, out):
        return
    learned = str(find_run(split_checkpoint(model)[0], out).config.get("data"))
    named = [
        chosen.label for chosen in wanted if "data" not in chosen.options
        for option in options_of(chosen.evaluation) if option.name == "data" and option.default == DATA
    ]  # fmt: skip
    if named and DATA not in learned:
        console.say(
            f"On the starter set, and not on the run's own data ({learned}): {', '.join(named)}. On other rows: --eval "
            f'"{named[0].partition("(")[0]}(data=FILE)"'
        )


def _show(console: Console, score: Any, about: str, samples: int) -> None:
    from zoo.training.record.report import printable

    console.print(Text.assemble((score.name, "bold"), f" {score.text()}  {about}"))
    for key, value in score.details.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            # A curve, whose numbers are also printed one by one.
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"  {str(key).replace('_', ' ')}  {shown}", style="dim")
    for sample in score.samples[:samples]:
        prompt = sample["prompt"] if isinstance(sample["prompt"], str) else sample["prompt"][-1]["content"]
        console.print(f"  prompt {printable(prompt)}")
        value = "–" if sample["score"] is None else decimal(sample["score"])
        console.print(f"  {value}    {printable(sample['answer'])}")


def _judged(
    judge: str | None, against: str | None, data: str, columns: str, max_new_tokens: int, out: str
) -> list[str]:  # fmt: skip
    """The win rate that --judge asks for, spelled out. Raises ZooError if nothing can be judged."""
    from zoo.judges.spelled import SELF, check_judge
    from zoo.options.spelling import spell

    if judge is None:
        return []
    if against is None:
        raise ZooError(
            "--judge compares the answers of two models, and --against names no second one.",
            f"Name it: zoo eval last --against smollm2-135m --judge {judge}. A judge alone gives grades: --reward "
            f'"judge(model={judge})".',
        )
    if judge == SELF:
        raise ZooError("--judge self would be one of the two models that are compared.", "Name another model.")
    check_judge(judge, out)
    options = {"data": data, "judge": judge, "columns": columns, "max_new_tokens": max_new_tokens}
    return [spell("win_rate", {name: value for name, value in options.items() if value})]


# -- the list ----------------------------------------------------------------------------------------------------

SORTS = {"lm": "a language model", "scalar": "a reward model", "none": "no model"}


def _list(available: dict[str, Any], as_json: bool) -> None:
    """Every evaluation: its type of model, its options with their defaults, and what it measures."""
    cards = [_card(name, evaluation) for name, evaluation in available.items()]
    if as_json:
        print_json(cards)
        return
    console = Console()
    table = Table("evaluation", "for", "what it measures", box=None, pad_edge=False)
    for card in cards:
        options = ", ".join(
            option["name"] if "default" not in option else f"{option['name']}={option['default']}"
            for option in card["options"]
        )
        name = card["name"] + ("*" if card["by_default"] else "")
        if console.width < NARROW_TABLE:
            show_entry(console, name, card["help"], ", ".join(filter(None, (f"for {SORTS[card['head']]}", options))))
            continue
        about = Text.assemble(card["help"], (f"\n{options}" if options else "", "dim"))
        table.add_row(name, SORTS[card["head"]], about)
    if table.row_count:
        console.print(table)
    console.print(
        '\n* runs when none is named. Options without = are required: zoo eval last --eval "accuracy(data=rows.jsonl, '
        'reward=numeric)". docs/evals.md explains each.',
    )


def _card(name: str, evaluation: Any) -> dict[str, Any]:
    from zoo.evals.chosen import options_of

    options = [
        {"name": option.name, "type": str(option.annotation).removeprefix("<class '").removesuffix("'>"),
         **({} if option.default is option.empty else {"default": option.default})}
        for option in options_of(evaluation)
    ]  # fmt: skip
    return {
        "name": name, "head": evaluation.head, "help": evaluation.help, "about": inspect.getdoc(evaluation.run) or "",
        "options": options, "details": list(evaluation.details), "by_default": evaluation.by_default,
    }  # fmt: skip
