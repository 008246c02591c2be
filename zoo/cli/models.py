"""`zoo chat`, `zoo export` and `zoo soup`: using trained models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from zoo.cli.completion import model_names
from zoo.cli.listings import Adapter, Json, TemplateArgs
from zoo.environments import content_of
from zoo.errors import ZooError
from zoo.terminal import Console, print_json

WAIT = 30.0
"""Seconds for an answer of an environment."""
Out = Annotated[str, typer.Option(help="Folder that holds the runs.")]


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="A run (path, name, last), its checkpoint (last@step-200) or a model.", autocompletion=model_names
        ),
    ] = "last",
    versus: Annotated[
        str | None,
        typer.Option("--vs", help="A second run or model that answers the same questions.", autocompletion=model_names),
    ] = None,
    adapter: Adapter = None,
    prompt: Annotated[str | None, typer.Option(help="Ask only this, and exit.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Chat template: none, a name (zoo templates), or a .jinja file.", show_default="the model's own"
        ),
    ] = None,
    template_args: TemplateArgs = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 for greedy decoding.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 256,
    environment: Annotated[
        str | None,
        typer.Option(help="What the model may use or play: calculator, mine.py:Class (docs/environments.md)."),
    ] = None,
    max_turns: Annotated[int, typer.Option(help="Turns of the model before it answers to you.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    out: Out = "runs",
) -> None:
    """Chat with a run or model; an empty line or ctrl-D ends the chat."""
    from zoo.data.encoding import named
    from zoo.data.encoding.named import AUTO, NONE, template_text
    from zoo.models.names import expect, with_adapter

    if template == NONE:
        raise ZooError(
            "A chat is made of messages, and --template none writes raw text only.",
            "Leave --template out for the model's own, or name another one (`zoo templates`).",
        )
    template_text(AUTO if template is None else template)
    args = named.template_args(template_args)
    model = with_adapter(model, adapter, out)
    for name in filter(None, (model, versus)):
        expect(name, out)
    from zoo.contract.registry import contributions, manager
    from zoo.data.row_errors import RowError
    from zoo.environments.named import make_pool
    from zoo.evals.answers import answer_texts
    from zoo.evals.episodes import played
    from zoo.evals.subject import load_subject
    from zoo.rollout.engine import Sampling

    console = Console()
    pool = make_pool(environment, contributions(manager(), "environments"), WAIT) if environment else None
    subjects = {
        name: load_subject(name, out, console.say, head="lm", asked=template, args=args)
        for name in [model, *([versus] if versus else [])]
    }
    start = [{"role": "system", "content": system}] if system else []
    histories: dict[str, list[dict[str, Any]]] = {name: list(start) for name in subjects}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    turn = 0
    while question := (prompt if prompt is not None else _ask(console)):
        for name, subject in subjects.items():
            histories[name].append({"role": "user", "content": question})
            said = (f"{name} " if versus else "", "bold")
            try:
                if pool is not None:
                    record = {"prompt": histories[name]}
                    [answer] = played(subject, pool, [record], sampling, seed + turn, max_turns)
                    histories[name] += _shown(console, said, answer)
                    continue
                text = answer_texts(subject, [histories[name]], sampling, seed + turn)[0]
            except RowError as error:
                raise ZooError(f"The chat template of {name} rejects this conversation: {error.message}.") from None
            histories[name].append({"role": "assistant", "content": text})
            console.print(Text.assemble(said, text))
        turn += 1
        if prompt is not None:
            return


def _shown(console: Console, said: tuple[str, str], answer: Any) -> list[dict[str, Any]]:
    """Prints the turns of an episode, the environment's after their role, and gives their messages."""
    episode = answer.episode
    for message in episode.messages:
        own = message["role"] == "assistant"
        speaker = said if own else (f"{message['role']} ", "bold")
        console.print(Text.assemble(speaker, content_of(message)), style=None if own else "dim")
    if ending := episode.failure or ("the episode was cut" if answer.cut else ""):
        console.print(f"{ending[0].upper()}{ending[1:]}.", style="dim")
    if episode.reward is not None:
        console.print(f"reward {episode.reward:g}", style="dim")
    return list(episode.messages)


def _ask(console: Console) -> str:
    try:
        return (console.input(Text("you ", style="bold")) if sys.stdin.isatty() else input()).strip()
    except EOFError:
        return ""


def export(
    run: Annotated[
        str,
        typer.Argument(help="A run (path, name, last), or its checkpoint (last@step-200).", autocompletion=model_names),
    ],
    folder: Annotated[Path, typer.Argument(help="New folder for the model.")],
    merge: Annotated[bool, typer.Option(help="Merge adapters into the weights they were trained on.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    adapter: Adapter = None,
    out: Out = "runs",
) -> None:
    """Copy a run's model, or an adapter of a folder, to a new folder, with --merge as one model without adapters."""
    from zoo.models.names import adapters_in, with_adapter
    from zoo.paths import typed_path
    from zoo.runs import find_run, split_checkpoint

    if folder.exists():
        raise ZooError(f"{folder} already exists.", "Name a folder that does not exist.")
    if dtype not in ("float32", "bfloat16"):
        raise ZooError(f"--dtype does not take '{dtype}'.", "Choose float32 or bfloat16.")
    if adapter is None and not adapters_in(typed_path(run)):
        find_run(split_checkpoint(run)[0], out)
    run = with_adapter(run, adapter, out)
    import torch

    from zoo.libraries.adapters import merged
    from zoo.libraries.architecture import ending_ids, is_tied
    from zoo.libraries.wrappers import is_adapted
    from zoo.models.card import base_named, base_of, write_card
    from zoo.models.loading import load_model, load_template
    from zoo.models.names import run_of
    from zoo.models.start import export_model, resolve_start

    source = resolve_start(run, out, Console().say)
    model = load_model(source, getattr(torch, dtype))
    if merge:
        if not is_adapted(model):
            raise ZooError(f"The run {run} has no adapters to merge.", f"Leave --merge out: zoo export {run} {folder}")
        was_tied = is_tied(model)
        model = merged(model)
        if was_tied and not is_tied(model):
            Console().say(
                "Embedding and head have weights of their own now: one of the two was trained without the other."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    template = load_template(source, eos_ids=ending_ids(model))
    export_model(model, template.trained_tokenizer(), folder, template.ends)
    trained = run_of(source)
    bases = [base_named(str(trained.config["model"]), out) if trained else base_of(source)]
    step = split_checkpoint(source.name)[1]
    write_card(
        folder, bases, trained, step=int(step.removeprefix("step-")) if step else None,
        how=f"The adapters were merged into the weights, which are in {dtype}." if merge else "",
    )  # fmt: skip
    Console().print(f"Written to {folder}")


def soup(
    models: Annotated[
        list[str],
        typer.Argument(help="Two or more runs or models that began with the same weights.", autocompletion=model_names),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="New folder for the model.")],
    greedy: Annotated[
        str | None,
        typer.Option(
            metavar="EVALUATION",
            help="Keep only models that do not lower this held-out score of the mean: instructions.",
        ),
    ] = None,
    out: Out = "runs",
    as_json: Json = False,
) -> None:
    """Average the weights of several models into one: of all, or with --greedy of those that help."""
    if to.exists():
        raise ZooError(f"{to} already exists.", "Name a folder that does not exist.")
    from zoo.evals.soup import Soup, scoring

    console = Console(stderr=as_json)
    mixed = Soup(models, out, console.say)
    model, ingredients = mixed.greedy(scoring(greedy, mixed)) if greedy else mixed.uniform()
    to.parent.mkdir(parents=True, exist_ok=True)
    taken = [ingredient.name for ingredient in ingredients if ingredient.taken]
    mixed.write(model, to, taken)
    if as_json:
        print_json([asdict(ingredient) for ingredient in ingredients])
    else:
        console.say(f"Written to {to}: the mean of {', '.join(taken)}")
