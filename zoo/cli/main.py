"""The command `zoo`. Commands load torch only when they need it."""

from __future__ import annotations

import io
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from zoo import __version__
from zoo.cli import (
    check,
    compare,
    data,
    doctor,
    evaluate,
    label,
    listings,
    models,
    new_plugin,
    recipes,
    reproduce,
    train,
)
from zoo.cli.help import App
from zoo.errors import ZooError
from zoo.faults import fault_of_plugin

app = App(
    name="zoo",
    help="Post-training algorithms for language models: train, compare, and add your own.\n\n"
    "Start with `zoo train`, look around with `zoo algos`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"zoo {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def add_commands(arguments: list[str]) -> None:
    """Every command, in the order of the help page; the flags of `train` depend on the arguments."""
    train.register(app, arguments)
    app.command(epilog="Example: zoo resume last")(train.resume)
    app.command(epilog="Examples: zoo algos    zoo algos dpo    zoo algos --json")(listings.algos)
    app.command(
        cls=data.DataCommand,
        epilog="Examples: zoo data starter --for dpo    zoo data dedup rows.jsonl --near 0.8    "
        "zoo data rows.jsonl --for preference --columns prompt=question",
    )(data.data)
    app.command(epilog="Examples: " + "    ".join(label.EXAMPLES))(label.label)
    app.command("eval", epilog="Examples: " + "    ".join(evaluate.EXAMPLES))(evaluate.evaluate)
    app.command(epilog='Examples: zoo chat last --vs smollm2-135m    zoo chat last --prompt "Name three fruits."')(
        models.chat
    )
    app.command(epilog="Examples: zoo runs    zoo runs last    zoo runs --json")(listings.runs)
    app.command("compare", epilog="Examples: " + "    ".join(compare.EXAMPLES))(compare.command())
    app.command(epilog="Examples: " + "    ".join(recipes.EXAMPLES))(recipes.recipes)
    app.command(epilog="Examples: " + "    ".join(reproduce.EXAMPLES))(reproduce.reproduce)
    app.command(epilog="Examples: zoo export last my-model    zoo export last my-model --merge")(models.export)
    app.command("new-plugin", epilog=new_plugin.EPILOG)(new_plugin.new_plugin)
    app.command(epilog="Examples: zoo check dpo    zoo check ./simpo.py:SimPO --only learns    zoo check dpo --json")(
        check.check
    )
    app.command(epilog="Example: zoo doctor --json")(doctor.doctor)


def main() -> None:
    """Run the command line; a mistake of the user's is one red message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without Unicode gets question marks, not a traceback in the middle of a run.
            stream.reconfigure(errors="replace")
    try:
        add_commands(sys.argv[1:])
        app()
    except ZooError as error:
        show_error(error)
        raise SystemExit(error.exit_status) from None
    except Exception as error:
        fault = fault_of_plugin(error)
        if fault is None:
            raise
        show_error(ZooError(fault.text(), keep_traceback(error)))
        raise SystemExit(1) from None


def show_error(error: ZooError) -> None:
    """What happened, in red, and what to type next."""
    console = Console(stderr=True)
    console.print(f"[red]{escape(error.message)}[/red]", highlight=False, soft_wrap=True)
    if error.hint:
        console.print(escape(error.hint), highlight=False, soft_wrap=True)


def keep_traceback(error: Exception) -> str:
    """Write the traceback of a plugin's bug to a file; says where it is."""
    from zoo.paths import cache_folder

    file = cache_folder() / "traceback.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        traceback.print_exception(error)
        return "It is a bug of the plugin; the traceback stands above."
    return f"It is a bug of the plugin. The whole traceback: {file}"


if __name__ == "__main__":
    main()
