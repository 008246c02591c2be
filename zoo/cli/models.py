"""`zoo chat` and `zoo soup`: using trained models."""

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
from zoo.paths import refuse_existing
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
    from zoo.evals.calls import Chat
    from zoo.evals.episodes import played
    from zoo.evals.subject import load_subject
    from zoo.rollout.engine import Sampling

    console = Console()
    pool = make_pool(environment, contributions(manager(), "environments"), WAIT) if environment else None
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    chats = {
        name: Chat(name, load_subject(name, out, console.say, head="lm", asked=template, args=args), system, sampling,
                   seed)
        for name in [model, *([versus] if versus else [])]
    }  # fmt: skip
    turn = 0
    while question := (prompt if prompt is not None else _ask(console)):
        for name, conversation in chats.items():
            said = (f"{name} " if versus else "", "bold")
            if pool is None:
                console.print(Text.assemble(said, conversation(question)))
                continue
            conversation.messages.append({"role": "user", "content": question})
            try:
                record = {"prompt": conversation.messages}
                [answer] = played(conversation.subject, pool, [record], sampling, seed + turn, max_turns)
            except RowError as error:
                raise ZooError(f"The chat template of {name} rejects this conversation: {error.message}.") from None
            conversation.messages += _shown(console, said, answer)
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
    refuse_existing(to)
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
