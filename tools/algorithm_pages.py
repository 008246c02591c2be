"""The pages of the bundled algorithms: the part that their classes say, and the list of all pages.

    python tools/algorithm_pages.py --write

writes what each algorithm needs, its options, metrics and presets into docs/algorithms/*.md, between two comments. The
rest of a page is written by hand: the idea, the formula, the sources of the variants, and what differs on purpose. An
algorithm without a page gets one that has this part only. tests/test_docs.py holds the pages to the classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.contract.registry import DEFAULT
from zoo.options.config import TrainConfig
from zoo.options.fields import Option, options_of
from zoo.options.points import NO_SOURCE, Choice, choose, count, is_points

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "algorithms"
LIST = FOLDER / "README.md"
START, END = "<!-- generated -->\n\n", "\n<!-- end -->\n"
SIZES = (0.1e9, 1e9, 7e9, 70e9)
BY_SIZE = (
    "What `zoo train --algo NAME --model MODEL --dry-run` shows for models of these sizes if no option sets it. A star "
    "marks a size for which no source has a value: the nearest stays, and the run says so. "
    "[How it is chosen](../running.md#defaults-that-depend-on-the-model)."
)
NOT_BY_SIZE = (
    "Batch sizes and epochs are the same for every size: what fits depends on how much data there is and how long a "
    "run may take. For more data than the starter set, take the sources'."
)
LOSS = "What is minimised, over the whole optimizer step."


def bundled() -> dict[str, type[Algorithm]]:
    """The algorithms that pyproject.toml registers, by name, in its order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    places = project["entry-points"]["zoo.algorithms"]
    found = {name: place.partition(":") for name, place in places.items() if name != DEFAULT}
    return {name: getattr(import_module(module), cls) for name, (module, _, cls) in found.items()}


def pages() -> dict[Path, str]:
    """What every page should say, by its file."""
    algorithms = bundled()
    blocks = {FOLDER / f"{name}.md": declared(cls) for name, cls in algorithms.items()} | {LIST: listed(algorithms)}
    return {path: written(path, block) for path, block in blocks.items()}


def written(path: Path, block: str) -> str:
    """The page with the block between its comments; a new one where there is none."""
    page = path.read_text(encoding="utf-8") if path.is_file() else f"# {path.stem}\n\n{START}{END}"
    before, rest = page.split(START)
    return before + START + block + END + rest.split(END, 1)[1]


# -- what a class says -----------------------------------------------------------------------------------------------


def declared(cls: type[Algorithm]) -> str:
    """The part of a page that is made from the class."""
    own, core = options_of(cls.Config), {option.name: option for option in options_of(TrainConfig)}
    parts = [f"## What it needs\n\n{table(('', ''), needs(cls))}"]
    options = [(f"`{o.flag}`", kind(o), f"`{value(o.default)}`", escaped(o.help)) for o in own]
    if options:
        parts.append(f"## Options\n\n{table(('option', 'type', 'default', 'meaning'), options)}")
    if cls.defaults or cls.reasons:
        parts.append(defaults(cls, core))
    metrics = {"loss": LOSS, **cls.metrics}
    parts.append(f"## Metrics\n\n{table(('metric', 'meaning'), [(f'`{n}`', escaped(t)) for n, t in metrics.items()])}")
    if cls.variants:
        known = core | {option.name: option for option in own}
        presets = [(f"`--variant {n}`", f"`{flags(options, known)}`") for n, options in cls.variants.items()]
        parts.append(f"## Variants\n\n{table(('preset', 'is short for'), presets)}")
    return "\n".join(parts)


def defaults(cls: type[Algorithm], core: Mapping[str, Option]) -> str:
    """Whose each default is, and why; and the values at the sizes for which there is a source."""
    options = {**core, **{option.name: option for option in options_of(cls.Config)}}
    rows = []
    for name in dict.fromkeys([*cls.defaults, *(name for name in options if name in cls.reasons)]):
        here = cls.defaults.get(name, options[name].default)
        elsewhere = f"`{value(core[name].default)}`" if name in core else ""
        shown_here = "[by size](#by-the-models-size)" if is_points(here) else f"`{value(here)}`"
        why = "see below" if is_points(here) else escaped(cls.reasons.get(name, ""))
        rows.append((f"`{options[name].flag}`", shown_here, elsewhere, why))
    text = table(("option", "here", "every run's", "whose, and why"), rows)
    parts = [f"## Defaults\n\n{text}"]
    points = [
        (flag(core[name], p.lora), count(p.weights), f"`{p.value:g}`", p.source, p.optimizer)
        for name, listed in cls.defaults.items() if is_points(listed) for p in listed
    ]  # fmt: skip
    if points:
        intro = (
            "[Between two sizes](../running.md#defaults-that-depend-on-the-model) the logarithm of the value is "
            "interpolated over the logarithm of the size; beyond them the nearest value stays."
        )
        head = ("option", "weights", "value", "whose", "optimizer")
        parts.append(f"### By the model's size\n\n{intro}\n\n{table(head, points)}")
    return "\n".join(parts)


def flag(option: Option, lora: bool) -> str:
    return f"`{option.flag}`" + (" `--lora`" if lora else "")


def needs(cls: type[Algorithm]) -> list[tuple[str, str]]:
    """Paper, data, models and file of an algorithm."""
    roles = ", ".join(f"`{role}`" for role in cls().roles(cls.Config()))
    file = Path(inspect.getfile(cls)).name
    rows = [
        ("paper", paper(cls)),
        ("data", " or ".join(f"[{data}](../data.md)" for data in cls.kinds())),
        ("models", roles + (" with the defaults; the options decide" if callable(cls.needs) else "")),
        ("output", "a scalar head" if cls.head == "scalar" else ""),
        ("source", f"[`plugins/{file}`](../../plugins/{file})"),
    ]
    return [row for row in rows if row[1]]


def paper(cls: type[Algorithm]) -> str:
    """The paper's number, with a link."""
    return f"[{cls.paper}](https://arxiv.org/abs/{cls.paper.removeprefix('arXiv:')})"


def listed(algorithms: Mapping[str, type[Algorithm]]) -> str:
    """The table of all pages."""
    rows = [
        (f"[`{name}`]({name}.md)", " or ".join(cls.kinds()), paper(cls), escaped(inspect.getdoc(cls) or ""))
        for name, cls in algorithms.items()
    ]
    pages = table(("page", "learns from", "paper", "what it does"), rows)
    return f"{pages}\n## Defaults by the model's size\n\n{by_size(algorithms)}"


def by_size(algorithms: Mapping[str, type[Algorithm]]) -> str:
    """What a run takes at the sizes of SIZES, and why."""
    core = {option.name: option for option in options_of(TrainConfig)}
    rates, others = [], []
    for name, cls in algorithms.items():
        page = f"[`{name}`]({name}.md)"
        for option, points in cls.defaults.items():
            for lora in (False, True)[: 1 + (option == "lr")] if is_points(points) else ():
                own = [f"{p.source} ({count(p.weights)})" for p in points if p.lora == lora]
                values = [starred(choose(option, points, weights, lora)) for weights in SIZES]
                rates.append((page, flag(core[option], lora), *values, "; ".join(own) or "no source"))
        here = [cls.defaults.get(option, core[option].default) for option in ("batch_size", "epochs")]
        why = [escaped(cls.reasons.get(option, "every run's")) for option in ("batch_size", "epochs")]
        others.append((page, value(here[0]), why[0], value(here[1]), why[1]))
    first = table(("algorithm", "option", *(f"{count(weights)} weights" for weights in SIZES), "sources"), rates)
    second = table(("algorithm", "batch", "why", "epochs", "why"), others)
    return f"{BY_SIZE}\n\n{first}\n{NOT_BY_SIZE}\n\n{second}"


def starred(choice: Choice) -> str:
    """A value, with a star where no source has one at that size."""
    return f"{choice.value:g}" + ("\\*" if any(note.startswith(NO_SOURCE) for note in choice.notes) else "")


# -- Markdown --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first, *lines = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return "".join([first, f"|{'---|' * len(head)}\n", *lines])


def escaped(text: str) -> str:
    """Text in a cell: what Markdown would read as a mark of its own is none."""
    outside = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if i % 2 else re.sub(r"([|*<])", r"\\\1", part) for i, part in enumerate(outside))


def kind(option: Option) -> str:
    """`float`; of a choice the values, each a code span of its own, since a bar would end the cell."""
    return ", ".join(f"`{name}`" for name in option.value_name.split("|"))


def value(of: Any) -> str:
    """As it is typed; a switch is on or off."""
    if of is dataclasses.MISSING:
        return "required"
    if isinstance(of, bool):
        return "on" if of else "off"
    return "none" if of in (None, "") else str(of)


def flags(options: Mapping[str, Any], known: Mapping[str, Option]) -> str:
    """`--beta 0.0 --whiten`."""
    return " ".join(known[name].flag + ("" if given is True else f" {given}") for name, given in options.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
