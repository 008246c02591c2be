"""`zoo eval`, `zoo chat`, `zoo export`: using what was trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from zoo import registry
from zoo.cli.listings import Json, print_json
from zoo.errors import ZooError, nearest

Out = Annotated[str, typer.Option(help="Folder that holds the runs.")]


def _say(console: Console) -> Any:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def evaluate(
    model: Annotated[str, typer.Argument(help="A run (path, name, last) or a model (folder, hub name).")] = "last",
    evals: Annotated[list[str] | None, typer.Option("--eval", help="Which evaluations; all by default.")] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Mean reward of greedy answers to the starter set's held-out prompts (docs/rewards.md)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N cases only.")] = None,
    samples: Annotated[int, typer.Option(help="Answers to print.")] = 0,
    out: Out = "runs",
    as_json: Json = False,
) -> None:
    """Evaluate a run or a model.

    A language model: instructions followed, held-out loss, preference accuracy, or any reward. A reward model:
    accuracy on held-out pairs and rankings.
    """
    from zoo.models.scalar import is_scorer
    from zoo.training.checks import fitting
    from zoo.training.progress import counter
    from zoo.training.subject import load_subject

    if limit is not None and limit < 1:
        raise ZooError(f"--limit {limit} leaves nothing to evaluate.", "Give 1 or more, or leave --limit out.")
    plugins = registry.manager()
    available = registry.contributions(plugins, "evals")
    for name in evals or []:
        if name not in available:
            known = "\n".join(f"  {key}: {value.help}" for key, value in available.items())
            raise ZooError(f"No evaluation is called '{name}'.{nearest(name, available)}", f"There are:\n{known}")
    console = Console(stderr=as_json)
    progress = None if as_json else counter(console, "answers")
    available |= _as_evals(reward or [], registry.contributions(plugins, "rewards"), out, _say(console))
    subject = load_subject(model, out, _say(console), limit=limit, progress=progress)
    wanted = [*(evals or []), *(reward or [])]
    head = "scalar" if is_scorer(subject.model) else "lm"
    scores = [available[name].run(subject) for name in fitting(wanted, available, head)]
    if as_json:
        print_json({score.name: {**score.as_json(), "samples": score.samples[:samples]} for score in scores})
        return
    from zoo.training.report import printable

    for score in scores:
        console.print(
            f"[bold]{escape(score.name)}[/bold] {score.text()}  {available[score.name].help}", highlight=False
        )
        for key, value in score.details.items():
            console.print(f"  {escape(str(key).replace('_', ' '))}  {value}", highlight=False, style="dim")
        for sample in score.samples[:samples]:
            prompt = sample["prompt"] if isinstance(sample["prompt"], str) else sample["prompt"][-1]["content"]
            console.print(f"  prompt {escape(printable(prompt))}", highlight=False)
            console.print(f"  {sample['score']}    {escape(printable(sample['answer']))}", highlight=False)


def _as_evals(texts: list[str], named: dict[str, Any], out: str, say: Any) -> dict[str, Any]:
    """An evaluation for each reward, on the starter set's held-out prompts."""
    if not texts:
        return {}
    import torch

    from zoo.data import starter
    from zoo.data.starter.plugin import greedy
    from zoo.evals import Eval
    from zoo.evals.answers import reward_eval
    from zoo.rewards.reward import Reward

    def evaluation(text: str) -> Eval:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # There is one batch, so a reward that fails on all of it is an error at once.
        reward = Reward(text, named, out, device, say=say, patience=1, max_new_tokens=greedy().max_new_tokens)
        prompts = starter.records("heldout", "prompt")
        return Eval(
            "Mean reward of greedy answers to the starter set's held-out prompts.",
            lambda subject: reward_eval(text, subject, prompts, reward, greedy()),
        )

    return {text: evaluation(text) for text in texts}


def chat(
    model: Annotated[str, typer.Argument(help="A run (path, name, last) or a model.")] = "last",
    versus: Annotated[str | None, typer.Option("--vs", help="A second one that answers the same.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Ask this and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    out: Out = "runs",
) -> None:
    """Talk to a run or model; an empty line or ctrl-D ends it."""
    from zoo.data.formats.message import RowError
    from zoo.evals.answers import answer_texts
    from zoo.rollout.engine import Sampling
    from zoo.training.subject import load_subject

    console = Console()
    subjects = {
        name: load_subject(name, out, _say(console), head="lm") for name in [model, *([versus] if versus else [])]
    }
    start = [{"role": "system", "content": system}] if system else []
    histories: dict[str, list[dict[str, str]]] = {name: list(start) for name in subjects}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    turn = 0
    while question := (prompt if prompt is not None else _ask(console)):
        for name, subject in subjects.items():
            histories[name].append({"role": "user", "content": question})
            try:
                text = answer_texts(subject, [histories[name]], sampling, seed + turn)[0]
            except RowError as error:
                raise ZooError(f"The chat template of {name} cannot take this: {error.message}.") from None
            histories[name].append({"role": "assistant", "content": text})
            label = f"[bold]{escape(name)}[/bold] " if versus else ""
            console.print(
                f"{label}{escape(''.join(c for c in text if c.isprintable() or c in chr(10)))}", highlight=False
            )
        turn += 1
        if prompt is not None:
            return


def _ask(console: Console) -> str:
    try:
        return (console.input("[bold]you[/bold] ") if sys.stdin.isatty() else input()).strip()
    except EOFError:
        return ""


def export(
    run: Annotated[str, typer.Argument(help="A run: path, name or last.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the model.")],
    merge: Annotated[bool, typer.Option(help="Merge adapters into the weights they were trained on.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    out: Out = "runs",
) -> None:
    """Copy a run's model to a folder of its own, adapters merged if asked for."""
    import torch

    from zoo.models.loading import is_adapted, load_model, load_tokenizer, resolve_model
    from zoo.runs import find_run
    from zoo.training.setup import export_model

    if folder.exists():
        raise ZooError(f"{folder} exists already.", "Name a folder that is not there.")
    if dtype not in ("float32", "bfloat16"):
        raise ZooError(f"--dtype {dtype} is not offered.", "Choose float32 or bfloat16.")
    source = resolve_model(str(find_run(run, out).path))
    model = load_model(source, getattr(torch, dtype))
    if merge:
        if not is_adapted(model):
            raise ZooError(f"The run {run} has no adapters to merge.", f"Leave --merge out: zoo export {run} {folder}")
        model = model.merge_and_unload()
    folder.parent.mkdir(parents=True, exist_ok=True)
    export_model(model, load_tokenizer(source), folder)
    Console().print(f"Written to {folder}", highlight=False)
