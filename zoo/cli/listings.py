"""`zoo algos`, `environments`, `guards`, `optimizers`, `schedules`, and `templates`: lists of what there is."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zoo.cards import about, described
from zoo.cli.completion import algorithm_names
from zoo.contract import registry
from zoo.data.encoding.named import named_templates
from zoo.errors import ZooError, nearest
from zoo.options.points import OPTIMIZER, Point, is_points, known, shown
from zoo.terminal import Console, print_json

NARROW_TABLE = 76
"""Columns below which the descriptions of algorithms do not fit next to their names."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TemplateArgs = Annotated[
    str | None, typer.Option(help="Variables of the chat template: enable_thinking=false,effort=high.")
]
Adapter = Annotated[
    str | None,
    typer.Option(help="Which adapter of a model folder that has several; default: the one in the folder itself."),
]


def algos(
    name: Annotated[
        str | None,
        typer.Argument(help="One algorithm; by default all are listed.", autocompletion=algorithm_names),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the installed algorithms, or show one: what it learns from, its paper, options and metrics."""
    if name is not None:
        card = algorithm_card(name)
        print_json(card) if as_json else _show_card(card)
        return
    rows = [{**asdict(entry), **registry.describe(entry)} for entry in registry.algorithms()]
    if as_json:
        print_json(rows)
        return
    _show_algorithms(rows)
    Console().print("\nzoo algos NAME shows one; zoo train --algo NAME trains it.")


def _show_algorithms(rows: list[dict[str, Any]]) -> None:
    """A table if the descriptions fit; otherwise one paragraph each, so that names and papers are not cut."""
    console = Console()
    table = Table("name", "learns from", "paper", "what it does", box=None, pad_edge=False)
    for row in rows:
        text = Text(row["description"]) if row["description"] else Text(row.get("error", ""), style="red")
        if console.width >= NARROW_TABLE:
            table.add_row(row["name"], row["data"], row["paper"], text)
            continue
        show_entry(console, row["name"], text, ", ".join(filter(None, (f"from {row['data']}", row["paper"]))))
    if table.row_count:
        console.print(table)


def show_entry(console: Console, name: str, text: Text | str, facts: str) -> None:
    """An entry of a list as a paragraph, for a terminal in which a table would cut names."""
    console.print(Text(name, style="bold"), soft_wrap=True)
    console.print(Padding(Text.assemble(text, "\n" if text and facts else "", (facts, "dim")), (0, 0, 0, 2)))


def algorithm_card(name: str) -> dict[str, Any]:
    """Everything that an algorithm declares, as JSON types."""
    from zoo.options.fields import options_of

    short, cls = described(name)
    needs = cls.needs(cls(), cls.Config()) if callable(cls.needs) else cls.needs
    return {
        "name": short,
        "train": f"zoo train --algo {_as_typed(name, cls)}",
        "description": inspect.getdoc(cls) or "",
        "about": about(cls),
        "paper": cls.paper,
        "data": ", ".join(cls.kinds()),
        "needs": list(needs),
        "defaults": known(cls.defaults),
        "points": {
            name: [asdict(point) for point in value] for name, value in cls.defaults.items() if is_points(value)
        },
        "reasons": dict(cls.reasons),
        "variants": {name: known(options) for name, options in cls.variants.items()},
        "options": [
            {"flag": o.flag, "type": o.type_name, "default": o.default, "help": o.help} for o in options_of(cls.Config)
        ],
        "metrics": {"loss": "The minimised loss, over the whole optimizer step.", **cls.metrics},
    }


def _as_typed(name: str, cls: type) -> str:
    """What --algo takes: the given name, and for a file also its class."""
    return f"{name}:{cls.__name__}" if name.endswith(".py") else name


def _show_card(card: dict[str, Any]) -> None:
    console = Console()
    _, *paragraphs = card["about"].split("\n\n")
    text = [card["description"], *(" ".join(paragraph.split()) for paragraph in paragraphs)]
    console.print(Text.assemble((card["name"], "bold"), "  ", "\n\n".join(text)))
    facts = {"paper": card["paper"], "learns from": card["data"], "needs": ", ".join(card["needs"])}
    points = {name: [Point(**fields) for fields in listed] for name, listed in card["points"].items()}
    if card["defaults"]:
        facts["sets"] = _settings({name: shown(points.get(name, value)) for name, value in card["defaults"].items()})
    console.print()
    for name, value in facts.items():
        console.print(f"{name:12} {value}")
    options = [(o["flag"], _value(o), o["help"]) for o in card["options"]]
    variants = [(f"--variant {name}", "", _settings(options)) for name, options in card["variants"].items()]
    metrics = [(name, "", explanation) for name, explanation in card["metrics"].items()]
    sizes = [(f"{name} {point.value:g}", "", _point(point)) for name, listed in points.items() for point in listed]
    reasons = [(name, "", reason) for name, reason in card["reasons"].items()]
    for title, entries in (
        ("Options", options), ("Variants", variants), ("By the model's size", sizes),
        ("Why these defaults", reasons), ("Metrics", metrics),
    ):  # fmt: skip
        if entries:
            console.print(f"\n{title}", style="bold")
        for name, value, explanation in entries:
            console.print(Text.assemble(name, (f" {value}" if value else "", "dim")))
            console.print(Padding(explanation, (0, 0, 0, 4)))
    console.print(f"\n{card['train']}")


def _point(point: Point) -> str:
    """`the paper's for 7 B weights, with RMSprop`."""
    adapters = ", with --lora" if point.lora else ""
    return f"{point}{adapters}{f', with {point.optimizer}' if point.optimizer != OPTIMIZER else ''}"


def _settings(options: dict[str, Any]) -> str:
    """`lr 1e-05, batch_size 64`."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _value(option: dict[str, Any]) -> str:
    """`float, 0.1`; a switch is on or off."""
    if option["type"] == "bool":
        return "on" if option["default"] else "off"
    return f"{option['type']}, {'none' if option['default'] in (None, '') else option['default']}"


def environments(
    name: Annotated[str | None, typer.Argument(help="One environment; by default all are listed.")] = None,
    as_json: Json = False,
) -> None:
    """List the environments in which a policy can act, or show one: what it is, and its options."""
    from zoo.environments.named import available

    makers = available()
    if name is not None and name not in makers:
        there = f"There are: {', '.join(makers)}." if makers else "None is installed."
        raise ZooError(f"No environment is called '{name}'.{nearest(name, makers)}", there)
    rows = [_environment_row(key, maker) for key, maker in makers.items() if name in (None, key)]
    typed = 'Train in one with --environment NAME, or with options: --environment "NAME(option=value)"'
    _list_kind(rows, name is None, as_json, typed)


def _environment_row(name: str, maker: Any) -> dict[str, Any]:
    """What an environment declares, as JSON types; an option that has to be given is None."""
    declared = inspect.signature(maker).parameters.values()
    options = {o.name: None if o.default is o.empty else o.default for o in declared}
    about = (inspect.getdoc(maker) or "").split("\n")[0]
    return {"name": name, "description": about, "options": options, "data": getattr(maker, "data", "")}


def guards(
    name: Annotated[str | None, typer.Argument(help="One guard; by default all are listed.")] = None,
    as_json: Json = False,
) -> None:
    """List the guards that can watch a run's steps, or show one: its action by default, its runs, and its options."""
    from zoo.training.outlook import guards as every

    factories = every()
    if name is not None and name not in factories:
        raise ZooError(f"No guard is called '{name}'.{nearest(name, factories)}", f"There are: {', '.join(factories)}.")
    rows = [guard_row(key, factory) for key, factory in factories.items() if name in (None, key)]
    every_guard = 'Every guard also takes action and patience: zoo train --guards "NAME(action=skip, patience=3)"'
    _list_kind(rows, name is None, as_json, every_guard)


def optimizers(
    name: Annotated[str | None, typer.Argument(help="One optimizer; by default all are listed.")] = None,
    as_json: Json = False,
) -> None:
    """List the optimizers, or show one: what it does, its paper, and its options."""
    from zoo.optimizers.chosen import OPTIMIZERS

    _show_kind(OPTIMIZERS, name, as_json)


def schedules(
    name: Annotated[str | None, typer.Argument(help="One schedule; by default all are listed.")] = None,
    as_json: Json = False,
) -> None:
    """List the learning-rate schedules, or show one: how the rate falls after the warmup, and its options."""
    from zoo.optimizers.chosen import SCHEDULES

    _show_kind(SCHEDULES, name, as_json)


def _show_kind(kind: Any, name: str | None, as_json: bool) -> None:
    """List what an option of a run chooses from, or show one of it."""
    from zoo.training.outlook import named

    functions = named(kind)
    if name is not None:
        functions = {name: kind.choose(name, functions).function}
    rows = [_kind_row(kind, key, function) for key, function in functions.items()]
    typed = f'zoo train --{kind.what} NAME, or with options: zoo train --{kind.what} "{kind.example}"'
    _list_kind(rows, name is None, as_json, typed)


def _list_kind(rows: list[dict[str, Any]], is_list: bool, as_json: bool, typed: str) -> None:
    """Print what an option of a run chooses from, or the one that was asked for. typed: the last line."""
    if as_json:
        print_json(rows if is_list else rows[0])
        return
    console = Console()
    for row in rows:
        console.print(Text.assemble((row["name"], "bold"), f"  {row['description']}"))
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        facts = f"{row['action']} by default; {row['runs']} runs; " if "action" in row else ""
        console.print(Padding(Text(f"{facts}options: {options or 'none'}", style="dim"), (0, 0, 0, 2)))
    console.print(f"\n{typed}")


def _kind_row(kind: Any, name: str, function: Any) -> dict[str, Any]:
    """What an optimizer or a schedule declares, as JSON types; an option that has to be given is None."""
    options = {o.name: None if o.default is o.empty else o.default for o in kind.options_of(function)}
    return {"name": name, "description": (inspect.getdoc(function) or "").split("\n")[0], "options": options}


def templates(
    name: Annotated[
        str | None, typer.Argument(help="One template, whose text is printed; by default all are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the chat templates that come with zoo, or print one: `zoo train --template NAME` trains with it."""
    every = named_templates()
    if name is not None and name not in every:
        raise ZooError(f"No template is called '{name}'.{nearest(name, every)}", f"There are: {', '.join(every)}.")
    rows = [{**one._asdict(), "tokens": list(one.tokens)} for one in every.values() if name in (None, one.name)]
    if as_json:
        print_json(rows if name is None else rows[0])
        return
    console = Console()
    if name is not None:
        console.print(Text(rows[0]["text"].rstrip("\n")), soft_wrap=True)
        return
    for row in rows:
        console.print(Text.assemble((row["name"], "bold"), f"  {row['about']}"))
        tokens = " ".join(row["tokens"]) or "none of its own"
        console.print(Padding(Text(f"tokens: {tokens}", style="dim"), (0, 0, 0, 2)))
    console.print("\nzoo templates NAME prints one; zoo train --template NAME adds the tokens that a model lacks.")


def guard_row(name: str, factory: Any) -> dict[str, Any]:
    """What a guard declares, as JSON types; an option that has to be given is None."""
    from zoo.guards.chosen import options_of, runs_of

    options = {o.name: None if o.default is o.empty else o.default for o in options_of(factory)}
    return {
        "name": name, "description": (inspect.getdoc(factory) or "").split("\n")[0],
        "action": getattr(factory, "action", "off"), "runs": runs_of(factory), "options": options,
    }  # fmt: skip
