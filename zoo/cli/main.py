"""The command `zoo`. Its commands load torch only if they need it."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import traceback
import warnings
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any

import typer

from zoo import __version__
from zoo.cli.completion import mend_zsh
from zoo.cli.help import App
from zoo.errors import PluginError, ZooError
from zoo.secrets import scrubbed
from zoo.terminal import Console, JsonLines, guard

app = App(
    name="zoo",
    help="Post-training algorithms for language models: train, compare, and add your own.\n\n"
    "Start with `zoo train`, look around with `zoo algos`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"zoo {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


COMMANDS = {
    "train": ("train", ""),
    "resume": ("train", "zoo resume last"),
    "launch": ("launch", ""),
    "algos": ("listings", "zoo algos    zoo algos dpo    zoo algos --json"),
    "environments": ("listings", "zoo environments    zoo environments --json"),
    "guards": ("listings", "zoo guards    zoo guards loss_spike    zoo guards --json"),
    "optimizers": ("listings", "zoo optimizers    zoo optimizers muon    zoo optimizers --json"),
    "schedules": ("listings", "zoo schedules    zoo schedules wsd    zoo schedules --json"),
    "templates": ("listings", "zoo templates    zoo templates chatml    zoo templates --json"),
    "data": ("data", "zoo data starter --for dpo    zoo data dedup rows.jsonl --near 0.8    "
                     "zoo data rows.jsonl --for preference --columns prompt=question"),
    "label": ("label", ""),
    "eval": ("evaluate", ""),
    "chat": ("models", 'zoo chat last --vs smollm2-135m    zoo chat last --prompt "Name three fruits."'),
    "runs": ("runs", "zoo runs    zoo runs last    zoo runs --sort steps    zoo runs --follow last    "
                     "zoo runs --delete sft-1    zoo runs --json"),
    "board": ("board", "zoo board    zoo board --port 0    zoo board --out other-runs"),
    "compare": ("compare", ""),
    "recipes": ("recipes", ""),
    "reproduce": ("reproduce", ""),
    "export": ("export", "zoo export last my-model --merge    zoo export last my-model --gguf q8_0    "
                         "zoo export last --push owner/name --dry-run"),
    "soup": ("models", 'zoo soup sft-1 sft-2 sft-3 --to mean    '
                       'zoo soup sft-1 sft-2 --to best --greedy instructions'),
    "convert-config": ("convert_config", ""),
    "new-plugin": ("new_plugin", ""),
    "check": ("check", "zoo check dpo    zoo check ./simpo.py:SimPO --only learns    zoo check dpo --json    "
                       "zoo check --environment ./shop.py:Shop"),
    "cache": ("cache", "zoo cache    zoo cache --kind data --json    zoo cache clear --older 30d"),
    "doctor": ("doctor", "zoo doctor --json"),
    "help": ("main", "zoo help    zoo help train    zoo help train dpo"),
}  # fmt: skip
"""Every command, in the order of the help page: its module in zoo.cli, and examples if that has none."""
FUNCTIONS = {"eval": "evaluate", "new-plugin": "new_plugin", "convert-config": "convert_config", "help": "show_help"}
"""The functions whose names differ from their command."""
MADE = ("compare", "label")
"""Commands whose flags are made from options."""


def command_names(incomplete: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(incomplete)]


def show_help(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="A command, and of train an algorithm.", autocompletion=command_names),
    ] = None,
) -> None:
    """Show the help of a command: `zoo help train` is `zoo train --help`."""
    command = words or []
    app.registered_commands.clear()
    add_commands(command)
    app(args=[*command, "--help"])


def add_commands(arguments: list[str]) -> None:
    """Add the command that the arguments name, or else all; the flags of `train` depend on the arguments."""
    named = [name for name in arguments[:1] if name in COMMANDS]
    for name in named or COMMANDS:
        _add(name, arguments)


def _add(name: str, arguments: list[str]) -> None:
    # Imported one by one, so that a command does not wait for the imports of another.
    module = import_module(f"zoo.cli.{COMMANDS[name][0]}")
    if name == "train":
        module.register(app, arguments)
        return
    examples = COMMANDS[name][1] or "    ".join(module.EXAMPLES)
    function = module.command() if name in MADE else getattr(module, FUNCTIONS.get(name, name))
    looks = {"cls": module.DataCommand} if name == "data" else {}
    if name == "launch":
        # What follows the name of the launched command is that command's own.
        looks["context_settings"] = {"allow_interspersed_args": False, "ignore_unknown_options": False}
    app.command(name, epilog=f"Examples: {examples}", **looks)(function)


def typed() -> list[str]:
    """The arguments; for a shell that asks for completions, those typed so far."""
    if "_ZOO_COMPLETE" not in os.environ:
        return sys.argv[1:]
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    with contextlib.suppress(ValueError):
        return shlex.split(line)[1:]
    return []


def main() -> None:
    """Run the command line; a user's mistake gives one red message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without Unicode shows question marks instead of a traceback in the middle of a run.
            stream.reconfigure(errors="replace")
    guard()
    if ("--log-format", "json") in pairwise(part for word in sys.argv for part in word.split("=", 1)):
        _main_in_json_lines()
        return
    if sys.argv[1:2] in (["--install-completion"], ["--show-completion"]):
        mend_zsh()
    try:
        add_commands(typed())
        app()
    except ZooError as error:
        show_error(_placed(error))
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        show_error(ZooError("Stopped by ctrl-C."))
        raise SystemExit(130) from None
    except Exception as error:
        from zoo.contract.faults import fault_of_plugin

        fault = fault_of_plugin(error)
        if fault is None:
            raise
        show_error(ZooError(fault.text(), keep_traceback(error)))
        raise SystemExit(1) from None


def _placed(error: ZooError) -> ZooError:
    if not isinstance(error, PluginError):
        return error
    from zoo.contract.faults import placed

    return placed(error)


def show_error(error: ZooError) -> None:
    """What happened, in red, and what to type next."""
    console = Console(stderr=True)
    console.say(error.message, style="red")
    if error.hint:
        console.say(error.hint)


def _main_in_json_lines() -> None:
    """The same for programs that read the log: warnings, mistakes and faults are JSON objects too, on stdout."""
    console = JsonLines()

    def warn(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        console.say(f"{category.__name__}: {message}", event="warning", level="warning")

    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            add_commands(typed())
            status = app(standalone_mode=False)
        except KeyboardInterrupt:
            console.say("Stopped by ctrl-C.", event="error", level="error")
            status = 130
        except Exception as error:
            status = _say_error(console, error)
    if status:
        raise SystemExit(status)


def _say_error(console: JsonLines, error: Exception) -> int:
    """Say what went wrong; returns the exit status. Mistakes in the flags come from the library below typer."""
    from zoo.contract.faults import fault_of_plugin

    status = 1
    if isinstance(error, ZooError):
        error = _placed(error)
        text, status = " ".join(filter(None, (error.message, error.hint))), error.exit_status
    elif hasattr(error, "format_message"):
        text, status = error.format_message(), getattr(error, "exit_code", 2)
    elif (fault := fault_of_plugin(error)) is not None:
        text = f"{fault.text()} {keep_traceback(error)}"
    else:
        text = "".join(traceback.format_exception(error)).rstrip()
    console.say(text, event="error", level="error")
    return status


def keep_traceback(error: Exception) -> str:
    """Write the traceback of a plugin's bug to a file, and return a sentence that says where it is."""
    from zoo.paths import cache_folder

    file, text = cache_folder() / "traceback.txt", scrubbed("".join(traceback.format_exception(error)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError:
        Console(stderr=True).say(text)
        return "This is a bug of the plugin; the traceback is above."
    return f"This is a bug of the plugin. The whole traceback: {file}"


if __name__ == "__main__":
    main()
