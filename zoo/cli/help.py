"""Help pages that can be read at any width: each flag with its type, its text next to it, one example per line.

typer's own pages have separate columns for names, negations and types, which leaves no room for the text at 80 columns
and cuts the flags themselves.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from zoo.errors import ZooError
from zoo.terminal import Console, plain

WIDEST_FLAG = 30
"""Characters of a flag and its value that fit on one line; the choices of longer ones are put into the text."""

NARROW = 60
"""Columns below which flags and their text do not fit next to each other."""


@contextlib.contextmanager
def _quoting() -> Iterator[None]:
    """What was typed wrong is quoted by typer's own message, which goes past zoo's console."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):
            error.message = plain(str(error.message))  # type: ignore[attr-defined]
        raise


class Group(TyperGroup):
    """The page of all commands. One that ctrl-C stops says so, with the exit status that a shell expects."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _quoting():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _quoting():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            stopped = ZooError("Stopped by ctrl-C.")
            stopped.exit_status = 130
            raise stopped from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Also suggests the commands that a word is a part of: new-plugin for new."""
        parts = [name for name in self.commands if args[0] in name.split("-") and args[0] != name]
        if parts and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(map(repr, parts))}?")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Console()
        _print_head(self, ctx, console)
        console.print(Text("Commands", style="bold"))
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        _print_commands(commands, console)
        console.print()
        console.print(Text("Options", style="bold"))
        _print_options(self.get_params(ctx), ctx, console)
        console.print(Text(f"\nFor more: {ctx.command_path} COMMAND --help"))


class App(typer.Typer):
    """A typer app whose commands have these help pages."""

    def __init__(self, **options: Any):
        super().__init__(**{"cls": Group, **options})

    def command(self, name: str | None = None, **options: Any) -> Any:  # type: ignore[override]
        return super().command(name, **{"cls": Command, **options})


class Command(TyperCommand):
    """A command with such a page.

    `verbs` are commands that may replace its first argument: `zoo data dedup rows.jsonl` next to `zoo data rows.jsonl`.
    """

    def verbs(self) -> Mapping[str, Any]:
        return {}

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args and args[0] in self.verbs():
            return self.verbs()[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _refuse_repeated(self.make_parser(ctx).parse_args(args=list(args))[2], args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Console()
        _print_head(self, ctx, console)
        groups: dict[str, list[Any]] = {}
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False):
                groups.setdefault(_group(parameter), []).append(parameter)
        for group, parameters in groups.items():
            console.print(Text(group, style="bold"))
            _print_options(parameters, ctx, console)
            console.print()
        if self.verbs():
            console.print(Text("Commands", style="bold"))
            _print_verbs(self.verbs(), ctx.command_path, console)
        if any(parameter.secondary_opts for parameter in self.get_params(ctx)):
            console.print(Text("To turn a switch off, put --no- before its name.\n"))
        title, examples = examples_in(self.epilog or "")
        if examples:
            console.print(Text(title, style="bold"))
        for example in examples:
            # Never cut or wrapped, so that it can be copied.
            console.print(Text(f"  {example}"), soft_wrap=True)


def _refuse_repeated(order: Sequence[Any], args: Sequence[str]) -> None:
    """Raises ZooError for an option that takes one value and is given twice; typer would silently use the last.

    order: the parameters in the order in which they were typed.
    """
    for parameter in dict.fromkeys(typed for typed in order if order.count(typed) > 1):
        values = _typed(parameter, args)
        single = parameter.param_type_name == "option" and not parameter.multiple and not parameter.count
        if single and not (parameter.is_flag and len(set(values)) < 2):
            flag = values[0] if parameter.is_flag else parameter.opts[0]
            times = "twice" if len(values) == 2 else f"{len(values)} times"
            raise ZooError(f"{flag} is given {times}: {' and '.join(values)}.", _instead(parameter, values))


def _typed(parameter: Any, args: Sequence[str]) -> list[str]:
    """The values that follow each flag of a parameter; for a switch, the flags."""
    flags, values = (*parameter.opts, *parameter.secondary_opts), []
    for argument, following in zip(args, [*args[1:], ""], strict=True):
        if argument == "--":
            break
        flag, equals, value = argument.partition("=")
        if flag in flags:
            values.append(argument if parameter.is_flag else value if equals else following)
    return values


def _instead(parameter: Any, values: Sequence[str]) -> str:
    """What to type instead of an option that is given twice."""
    flag = parameter.opts[0]
    if parameter.name == "data":
        return f"Give one: {flag} {values[0]}. The files of one folder are read together: {flag} FOLDER"
    if parameter.is_flag:
        return f"Give one of them: {values[-1]}"
    if str(parameter.metavar).endswith(",…"):
        return f"Give one list, separated by commas: {flag} {','.join(values)}"
    return f"Give one of them: {flag} {values[-1]}"


def examples_in(epilog: str) -> tuple[str, list[str]]:
    """The title and the commands of `Examples: zoo one    zoo two`, separated by at least three spaces."""
    title, _, rest = epilog.partition(":")
    return f"{title}:", [example for example in re.split(r"\s{3,}|\n", rest.strip()) if example]


def _group(parameter: Any) -> str:
    named = getattr(parameter, "rich_help_panel", None)
    return str(named or ("Arguments" if parameter.param_type_name == "argument" else "Options"))


def _print_head(command: Any, ctx: Any, console: Console) -> None:
    """What is typed, and what it does."""
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    console.print(Text(f"Usage: {usage}\n", overflow="fold"))
    for paragraph in (command.help or "").split("\n\n"):
        console.print(Text(" ".join(paragraph.split()) + "\n", overflow="fold"))


def _print_options(parameters: Iterable[Any], ctx: Any, console: Console) -> None:
    """Flags in one column and their text in the next; in a narrow terminal the text is below."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for parameter in parameters:
        names = sorted(parameter.opts, key=len, reverse=True)
        flag = parameter.name if parameter.param_type_name == "argument" else ", ".join(names)
        value, words = _value_name(parameter, ctx), (parameter.help or "").strip()
        if value and len(f"{flag} {value}") > WIDEST_FLAG:
            words, value = f"{words} One of {value.replace('|', ', ')}.", "name"
        facts = Text.assemble("  ", (str(flag), "cyan"), (f" {value}" if value else "", "dim"))
        explained = Text.assemble(words, (_default(parameter), "dim"))
        if console.width < NARROW:
            console.print(facts, overflow="fold")
            console.print(Padding(explained, (0, 0, 0, 6)))
        else:
            table.add_row(facts, explained)
    if table.row_count:
        console.print(table)


def _print_verbs(verbs: Mapping[str, Any], path: str, console: Console) -> None:
    _print_commands(verbs, console)
    first = next(iter(verbs))
    console.print(Text(f"\nFor more: {path} {first} --help. To read a file of that name, write ./{first}\n"))


def _print_commands(commands: Mapping[str, Any], console: Console) -> None:
    """The first paragraph of each."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, command in commands.items():
        words = (command.help or "").strip().split("\n\n")[0]
        table.add_row(Text.assemble("  ", (name, "cyan")), " ".join(words.split()))
    console.print(table)


def _value_name(parameter: Any, ctx: Any) -> str:
    """The name of a flag's value; empty for a switch and for an argument."""
    if getattr(parameter, "is_flag", False) or parameter.param_type_name == "argument":
        return ""
    if parameter.metavar:
        return str(parameter.metavar)
    # Newer versions of typer have a name for people; older ones the type of the library below.
    newer = getattr(parameter, "display_type_rich", None)
    if newer is not None:
        return str(newer(ctx) or "").strip("<>").removeprefix("list[").removesuffix("]").removesuffix(" range")
    if choices := getattr(parameter.type, "choices", None):
        return "|".join(map(str, choices))
    name = str(parameter.type.name).removesuffix(" range")
    return {"integer": "int", "text": "str"}.get(name, name)


def _default(parameter: Any) -> str:
    """` [16]`; nothing if the default is off, empty or missing."""
    if parameter.required:
        return ""
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    # By identity, because the number 1 equals True and 0 equals False.
    if shown is None or shown is False or shown in ("", "none", "False", ()) or parameter.name == "help":
        return ""
    return " [on]" if shown is True or shown == "True" else f" [{shown}]"
