"""`zoo train` and `zoo resume`. The flags of `train` are generated from the options of the core and the algorithm."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cards import described
from zoo.cli.completion import algorithm_names, is_completion, model_names, run_names
from zoo.cli.help import Command
from zoo.contract import registry
from zoo.errors import ZooError, nearest_names
from zoo.numbers import amount
from zoo.options.config import DEFAULT, FORMER, OTHER_NAMES, Resolved, TrainConfig
from zoo.options.fields import Option, options_of
from zoo.options.points import shown
from zoo.options.roles import model_options
from zoo.options.strict_yaml import read_yaml
from zoo.recipes.find import SIZES, one_size
from zoo.secrets import scrubbed
from zoo.terminal import Console, JsonLines, fitting, print_json

if TYPE_CHECKING:
    from zoo.training.outlook import Outlook

EPILOG = (
    "Examples: zoo train    zoo train dpo --beta 0.2 --lora    zoo train dpo --help    "
    "zoo train --data rows.jsonl --max-length 512    zoo train dpo --dry-run    "
    "zoo train --config runs/sft-smollm2-135m-1/run.yaml    zoo train --recipe ipo --stage 'ipo(tau=0.1)' --laptop"
)

SMALLER = {size: about for size, about in SIZES.items() if size != "full"}
MODELS = (*model_options(), "reward", "gold_reward")
"""Options behind which a shell offers runs and their checkpoints."""


class LogFormat(StrEnum):
    text = "text"
    json = "json"

    def console(self) -> Console:
        """Where a run prints its messages."""
        return JsonLines() if self is LogFormat.json else Console()


LOG_FORMAT: Any = typer.Option(
    "--log-format",
    help="What is printed: text, or one JSON object a line with time, level, event, step, metrics and message.",
)


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `train` to the app, with the flags of the algorithm that the arguments name."""
    algorithm_options: list[Option] = []
    defaults: Mapping[str, Any] = {}
    if arguments[:1] == ["train"]:
        name = _named_algorithm(arguments)
        if name is not None or not {"--help", "-h"} & set(arguments):
            # When a completion is requested, the name may be incomplete.
            with contextlib.suppress(*([ZooError] if is_completion() else [])):
                short, cls = described(name or registry.default_name())
                algorithm_options = [replace(option, group=f"Algorithm {short}") for option in options_of(cls.Config)]
                defaults = {name: shown(value) for name, value in cls.defaults.items()}
    app.command("train", epilog=EPILOG, cls=TrainCommand)(_command(algorithm_options, defaults))


class TrainCommand(Command):
    """Says which algorithms have an option that the chosen one lacks, and translates the names of other trainers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            flag = getattr(error, "option_name", None)
            if flag is None:
                raise
            name = flag.removeprefix("--").replace("-", "_")
            flags = [option for parameter in self.get_params(ctx) for option in parameter.opts]
            ours = OTHER_NAMES.get(name, name)
            meant = f"--{ours.replace('_', '-')}"
            error.possibilities = [meant] if meant in flags else nearest_names(flag, flags)  # type: ignore
            if meant not in flags and (owners := _owners(name)):
                error.possibilities = []  # type: ignore
                error.message += f". It is an option of {', '.join(owners)}: zoo train --algo {owners[0]} {meant} …"  # type: ignore
            raise


def _owners(name: str) -> list[str]:
    """The algorithms that have an option of this name; those that do not load are left out."""
    owners = []
    for entry in registry.algorithms():
        with contextlib.suppress(ZooError):
            if name in [option.name for option in options_of(described(entry.full_name)[1].Config)]:
                owners.append(entry.name)
    return owners


def _named_algorithm(arguments: list[str]) -> str | None:
    """The first word, or the value of --algo, or the `algo` of the file of --config, or of the stage of a recipe."""
    algo, config = _one_algorithm(_word(arguments), _value(arguments, "--algo")), _value(arguments, "--config")
    recipe = _value(arguments, "--recipe")
    if algo is None and recipe is not None:
        from zoo.recipes.single import find_stage

        sizes = {size: f"--{size}" in arguments for size in SMALLER}
        return find_stage(recipe, _value(arguments, "--stage"), one_size(sizes) or "full")[2].algo
    if algo is None and config is not None:
        from zoo.training.run import judge_config

        judge_config(config, [word[2:].partition("=")[0].replace("-", "_") for word in arguments if word[:2] == "--"])
        algo = read_yaml(config).get("algo")
    return algo


def _word(arguments: list[str]) -> str | None:
    """The algorithm of `zoo train dpo`."""
    return next((word for word in arguments[1:2] if not word.startswith("-")), None)


def _one_algorithm(word: str | None, algo: str | None) -> str | None:
    """The algorithm that is named by its word or by --algo. Raises ZooError where these are two."""
    if word and algo and word != algo:
        raise ZooError(f"Two algorithms are named: {word}, and --algo {algo}.", f"Name one: zoo train {word} …")
    return word or algo


def _value(arguments: list[str], flag: str) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == flag:
            return following
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _command(algorithm_options: list[Option], defaults: Mapping[str, Any]) -> Any:
    """The command with the flags of the algorithm and of the core. defaults: those that the algorithm changes."""
    options = [replace(o, default=defaults.get(o.name, o.default)) for o in options_of(TrainConfig)]
    options.sort(key=lambda option: _GROUPS.index(option.group))

    def train(**typed: Any) -> None:
        """Train a model with one of the installed algorithms.

        Without options, it trains the default algorithm on the starter set. `zoo train NAME --help` also shows that
        algorithm's options.
        """
        algo = _one_algorithm(typed.pop("algorithm"), typed.pop("algo"))
        config, dry_run = typed.pop("config"), typed.pop("dry_run")
        as_json, log_format, elsewhere = typed.pop("as_json"), typed.pop("log_format"), typed.pop("elsewhere")
        for flag, given in (("--json", as_json), ("--elsewhere", elsewhere)):
            if given and not dry_run:
                raise ZooError(f"{flag} is only for --dry-run.", f"Add --dry-run, or leave {flag} out.")
        asked = typed.pop("resume")
        recipe, stage, sizes = typed.pop("recipe"), typed.pop("stage"), {size: typed.pop(size) for size in SMALLER}
        typed = {name: value for name, value in typed.items() if value is not None}
        between = _from_recipe(recipe, stage, sizes, {**typed, "algo": algo, "config": config})
        from zoo.training.outlook import look
        from zoo.training.run import execute, go_on, judge_config, resolve_options

        judge_config(config, [*typed, *(["algo"] if algo else [])])
        resolved, cls = resolve_options(between[0] or algo, config, typed, "command line", between[1])
        if recipe is not None:
            resolved.origin["algo"] = f"recipe {recipe}"
        if dry_run:
            outlook, missing = look(resolved, cls, elsewhere=elsewhere)
            if as_json:
                print_json(as_json_types(resolved, outlook, missing))
            else:
                show(resolved, Console())
                tell(outlook, missing is None, Console())
            if missing:
                raise missing
        elif not go_on(resolved, asked, console := log_format.console()):
            execute(resolved, cls, console, command=shlex.join(["zoo", *sys.argv[1:]]))

    fixed = [
        (
            "algorithm", str,
            typer.Argument(help="The algorithm: a name from `zoo algos`, or ./file.py:Class. It comes before options.",
                           autocompletion=algorithm_names),
        ),
        ("algo", str, typer.Option(help="The same as an option.", show_default="default",
                                   autocompletion=algorithm_names)),
        ("config", str, typer.Option(help="A YAML file of options, such as the run.yaml of a run.", metavar="FILE")),
        ("recipe", str, typer.Option(help="Train one --stage of this recipe (`zoo recipes` lists them).")),
        ("stage", str, typer.Option(help="The stage of the recipe; other options override its own.")),
        *[(size, bool, typer.Option(f"--{size}", help=f"Of the recipe: {about}.")) for size, about in SMALLER.items()],
        ("resume", bool, typer.Option("--resume", help="Go on with the run of this --name, if these options have begun "
                                      "it before; else begin it.")),
        ("dry_run", bool, typer.Option("--dry-run", help="Check that everything the run needs is there; print the "
                                       "options with their origin, and what the run will write.")),
        ("elsewhere", bool, typer.Option("--elsewhere", hidden=True, help="With --dry-run: a launcher starts the run, "
                                         "maybe on other machines, whose devices are not looked for.")),
        ("as_json", bool, typer.Option("--json", help="Print JSON, with --dry-run.")),
        ("log_format", LogFormat, LOG_FORMAT),
    ]  # fmt: skip
    unset = {bool: False, LogFormat: LogFormat.text}
    parameters = [parameter(name, kind, info, unset.get(kind)) for name, kind, info in fixed]
    parameters += [parameter(o.name, bool if o.is_flag else str, flag_of(o)) for o in [*algorithm_options, *options]]
    parameters += [parameter(name, str, typer.Option(hidden=True)) for name in FORMER]
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__annotations__ = {p.name: p.annotation for p in parameters}
    return train


def _from_recipe(
    recipe: str | None, stage: str | None, sizes: Mapping[str, bool], typed: Mapping[str, Any]
) -> tuple[str | None, list[tuple[str, Mapping[str, Any]]]]:
    """The algorithm of a recipe's stage, and its options as a layer; neither without --recipe."""
    if recipe is None:
        if stage is not None or any(sizes.values()):
            raise ZooError("--stage and the flag of a size need a recipe.", "Add --recipe NAME.")
        return None, []
    from zoo.recipes.single import stage_options

    for flag in ("algo", "config"):
        if typed[flag] is not None:
            raise ZooError(f"--{flag} cannot be combined with --recipe: the stage sets it.", f"Leave --{flag} out.")
    algo, options = stage_options(recipe, str(stage), one_size(sizes) or "full", typed)
    return algo, [(f"recipe {recipe}", options)]


_GROUPS = [(inspect.getdoc(base) or "").strip().rstrip(".") for base in reversed(TrainConfig.__mro__[1:-1])]


def flag_of(option: Option) -> Any:
    """The typer option for an option of zoo."""
    names = [f"{option.flag}/--no-{option.flag[2:]}"] if option.is_flag else [option.flag]
    metavar = None if option.is_flag else option.value_name
    return typer.Option(
        *names, help=option.help, rich_help_panel=option.group, metavar=metavar, show_default=option.default_text,
        autocompletion=model_names if option.name in MODELS else None,
    )  # fmt: skip


def parameter(name: str, kind: type, info: Any, default: Any = None) -> inspect.Parameter:
    """A parameter of a command that is generated from options."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind | None, info]
    )


def show(resolved: Resolved, console: Console) -> None:
    """The options that were given or chosen, then the algorithm's defaults, and how many have the core's default."""
    table = Table("option", "value", "from", box=None, pad_edge=False)
    values = resolved.as_dict()
    named = [name for name in values if resolved.came(name) != DEFAULT]
    kept = {name for name in named if resolved.origin[name].startswith(DEFAULT) and name not in resolved.choices}
    for name in sorted(named, key=kept.__contains__):
        table.add_row(name, str(values[name]), resolved.came(name))
    console.print(fitting(table, console))
    more = amount(len(values) - len(named), "more option")
    how = f"zoo train --algo {resolved.algo} --help explains them, --dry-run --json lists all"
    console.print(Text(f"{more} with the default: {how}."))


def tell(outlook: Outlook, complete: bool, console: Console) -> None:
    """What was found, and what the run will write. complete: nothing is missing."""
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in outlook.facts.items():
        table.add_row(name, scrubbed(text))
    console.print(table)
    if complete and outlook.of_hub:
        whether = " and ".join(dict.fromkeys(map(scrubbed, outlook.of_hub)))
        console.print(f"\nWhether the hub has {whether} shows when the run starts. Everything else is there.")
    elif complete:
        console.print("\nEverything that the run needs is there. Leave --dry-run out to start it.")


def as_json_types(resolved: Resolved, outlook: Outlook, missing: ZooError | None = None) -> dict[str, Any]:
    """The same as JSON types."""
    options: dict[str, Any] = {
        name: {"value": value, "from": resolved.origin[name]} for name, value in resolved.as_dict().items()
    }
    for name, reason in resolved.reasons.items():
        options[name]["reason"] = reason
    return {
        "options": options,
        "found": outlook.as_json(),
        **({"missing": missing.message.splitlines()} if missing else {}),
    }


def resume(
    run: Annotated[str, typer.Argument(help="A run: its path, its name, or last.", autocompletion=run_names)] = "last",
    allow_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Resume although this has changed: data, model, lr … (repeat it for several)."
        ),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the code that this run names, although another user began it.")
    ] = False,
    allow_data_change: Annotated[bool, typer.Option("--allow-data-change", hidden=True)] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the hub model.")] = False,
    devices: Annotated[int | None, typer.Option(help="Go on with this many processes on each machine.")] = None,
    num_nodes: Annotated[int | None, typer.Option(help="Go on with this many machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Go on with another strategy: ddp or fsdp.")] = None,
    tensor_parallel: Annotated[int | None, typer.Option(help="Go on with tensor groups of this size.")] = None,
    max_time: Annotated[
        str | None, typer.Option(help="Save and end before this much time has passed: 90s, 3h50m; none for no limit.")
    ] = None,
    log_format: Annotated[LogFormat, LOG_FORMAT] = LogFormat.text,
) -> None:
    """Continue a stopped run from its last checkpoint."""
    if allow_data_change:
        raise ZooError("--allow-data-change is one of the changes to allow by now.", "Write --allow-change data.")
    from zoo.training.run import resume_with

    console, allowed = log_format.console(), allow_change or ()
    given = {
        "devices": devices, "num_nodes": num_nodes, "strategy": strategy, "tensor_parallel": tensor_parallel,
        "max_time": max_time,
    }  # fmt: skip
    resume_with(
        console, run, allow_change=allowed, allow_code=allow_code, trust_remote_code=trust_remote_code,
        changed={name: value for name, value in given.items() if value is not None},
    )  # fmt: skip
