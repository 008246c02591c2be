"""`zoo convert-config`: another program's config file in zoo's words."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from zoo.conversion.convert import Converted, Told, convert
from zoo.errors import ZooError
from zoo.paths import typed_path, write_text
from zoo.terminal import Console

EXAMPLES = ("zoo convert-config factory.yaml", "zoo convert-config trl.yaml --from trl --algo dpo --out ours.yaml")


def convert_config(
    file: Annotated[str, typer.Argument(help="A config file of TRL, LLaMA-Factory or axolotl: YAML or JSON.")],
    program: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="The program: trl, llama-factory, axolotl; by default found out."),
    ] = None,
    algo: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The algorithm, if the file does not say it: TRL's is the word after `trl`."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write the options; by default FILE.zoo.yaml.")
    ] = None,
) -> None:
    """Write another program's config file as one for `zoo train --config`, and say what was left out and why."""
    source = typed_path(file)
    target = typed_path(out) if out is not None else Path(f"{source.stem}.zoo.yaml")
    if target.exists():
        raise ZooError(f"{target} is there already, and would be overwritten.", "Give another --out, or remove it.")
    result = convert(source, program, algo)
    if not target.parent.is_dir():
        raise ZooError(f"There is no folder {target.parent}.", "Make it, or give another --out.")
    write_text(target, result.text(source.name))
    show(result, target, Console())


def show(result: Converted, target: Path, console: Console) -> None:
    console.say(f"Written to {target}: {len(result.options) + 1} options, read as a file of {result.program}.")
    for note in result.notes:
        console.say(note)
    _list("Left out:", result.left_out, console)
    _list("Not known, and left out:", result.unknown, console)
    if result.needless:
        keys: dict[str, list[str]] = {}
        for one in result.needless:
            keys.setdefault(one.why, []).append(one.key)
        console.say("Needed no line here:")
        for why, names in keys.items():
            console.say(f"  {', '.join(names)}. {why}")
    console.say(f"next    zoo train --config {shlex.quote(str(target))} --dry-run")


def _list(title: str, told: Iterable[Told], console: Console) -> None:
    told = list(told)
    if told:
        console.say(title)
        for one in told:
            console.say(f"  {one}")
