"""`zoo new-plugin`: a package to start your own algorithm from."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from zoo.contract.algorithm import DATA_KINDS
from zoo.errors import ZooError
from zoo.paths import typed_path
from zoo.terminal import Console

EXAMPLES = ("zoo new-plugin mine --data preference", "zoo new-plugin mine --data feedback --out ~/plugins")


def new_plugin(
    name: Annotated[str, typer.Argument(help="The name for --algo: lower-case letters, digits, - and _.")],
    data: Annotated[str | None, typer.Option(help=f"The kind of data: {', '.join(DATA_KINDS)}.")] = None,
    out: Annotated[str, typer.Option(help="Folder to write the package into.")] = ".",
) -> None:
    """Write a small package for your own algorithm. It installs, passes its tests and trains unchanged."""
    from zoo.scaffold import check_name, new_plugin, train_command

    check_name(name)
    if data is None:
        raise ZooError(
            "Say which kind of data the algorithm learns from.",
            f"zoo new-plugin {name} --data {'|'.join(DATA_KINDS)}",
        )
    folder = new_plugin(name, data, typed_path(out))
    console = Console(soft_wrap=True)
    console.print(f"Written to {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    steps = [f"cd {shlex.quote(str(folder))}", "pip install -e .", f"zoo check {name}", train_command(name, data)]
    for i, step in enumerate(steps):
        console.print(f"{'' if i else 'next':8}{step}")
