"""`zoo data`: what a data set looks like to an algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from zoo.cli import curation
from zoo.cli.help import Command
from zoo.cli.listings import Json, TemplateArgs
from zoo.errors import ZooError, nearest
from zoo.terminal import Console, print_json


class LongRows(StrEnum):
    """Choices of a command: typer takes a `Literal` only in newer versions."""

    DROP = "drop"
    CUT = "cut"
    SPLIT = "split"


class DataCommand(Command):
    """Shows a source, or runs a verb of curation on it."""

    def verbs(self) -> dict[str, Any]:
        return dict(typer.main.get_command(curation.verbs).commands)  # type: ignore[attr-defined]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if "extra argument" in getattr(error, "message", ""):
                error.message += "." + nearest(first, self.verbs())  # type: ignore[attr-defined]
            raise


def data(
    source: Annotated[str, typer.Argument(help="A file, folder, hub dataset, named source (starter), or mixture.")],
    wanted: Annotated[
        str | None, typer.Option("--for", help="An algorithm, or a kind: demonstration, preference, feedback, …")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    columns: Annotated[
        str | None, typer.Option(help="Which column is which: prompt=question,completion=answer.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="The format of the rows, if it cannot be detected.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N rows.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Number of rendered examples to show.")] = 3,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model whose tokenizer and chat template to use.", show_default="the data's, or smollm2-135m"
        ),
    ] = None,
    template: Annotated[
        str, typer.Option(help="Chat template: auto, none, a name (zoo templates), or a .jinja file.")
    ] = "auto",
    template_args: TemplateArgs = None,
    new_tokens: Annotated[str, typer.Option(help="Tokens to add to the vocabulary, separated by commas.")] = "",
    max_length: Annotated[int, typer.Option(help="Maximum length of prompt plus answer, in tokens.")] = 1024,
    long_rows: Annotated[
        LongRows, typer.Option(help="What to do with longer rows: drop, cut, or (plain text only) split.")
    ] = LongRows.DROP,
    strict: Annotated[bool, typer.Option(help="Stop at any bad row.")] = False,
    as_json: Json = False,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the encoded rows in the cache for runs to come, however few.")
    ] = False,
    data_workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that encode many rows.", show_default="the CPU cores")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read as it comes: the first rows (--limit, by default 1,000).")
    ] = False,
) -> None:
    """Show how rows are read: rendered examples with trained tokens coloured, lengths, and rows kept and dropped."""
    from zoo.contract import registry
    from zoo.data.encoding import named as templates
    from zoo.data.formats import columns_of
    from zoo.data.sources.mixture import read_mixture
    from zoo.data.sources.reading import Reading

    named = registry.contributions(registry.manager(), "sources")
    look = _Look(
        wanted, examples, model, template, templates.template_args(template_args), new_tokens, max_length, long_rows,
        as_json, store, data_workers, stream,
    )  # fmt: skip
    if stream and store:
        raise ZooError("--store keeps all rows, and --stream reads them as they come.", "Leave out one of the two.")
    parts = read_mixture(source, named)
    is_mixture = parts[0].source != source
    if is_mixture and as_json:
        raise ZooError("--json is for one source.", f"Name the parts one by one: zoo data {parts[0].source} --json")
    of_all = Reading(split, columns_of(columns) or {}, format, limit, strict, named)
    readings = [part.reading(of_all) for part in parts]
    kinds = [look.kinds(part.source, reading) for part, reading in zip(parts, readings, strict=True)]
    # It imports what takes seconds; mistakes have been told.
    from zoo.data.store import made_again

    for part, kind, reading in zip(parts, kinds, readings, strict=True):
        if is_mixture:
            look.console.print(f"Part {part.label}:")
        made_again(partial(look.show, part.source, kind, reading), look.say)


@dataclass
class _Look:
    """What is shown of a source, and with which template."""

    wanted: str | None
    examples: int
    model: str | None
    template: str
    args: Any
    new_tokens: str
    max_length: int
    long_rows: str
    as_json: bool
    store: bool
    workers: int | None
    stream: bool

    def __post_init__(self) -> None:
        self.console = Console()

    def say(self, text: str) -> None:
        if not self.as_json:
            self.console.say(text)

    def kinds(self, source: str, reading: Any) -> str | tuple[str, ...]:
        """The kinds that a source may be read as. Raises ZooError for a mistake in its first rows."""
        from zoo.data.glance import glance
        from zoo.data.sources import is_named

        kind = _kind(self.wanted, source, reading, self.stream)
        if not self.stream and not is_named(source, reading.named_sources):
            # Mistakes in the first rows of any part are reported before the imports that take seconds.
            glance(source, [kind] if isinstance(kind, str) else kind, reading)
        return kind

    def show(self, source: str, kind: str | tuple[str, ...], reading: Any) -> None:
        """Show a source. Raises ZooError where no row can be used."""
        from zoo.data.load import judge
        from zoo.data.prepared import prepare
        from zoo.data.stream_opening import prepare_first

        chat = self._template(source)
        encoding: dict[str, Any] = {"max_length": self.max_length, "long_rows": self.long_rows, "say": self.say}
        if self.stream:
            made = prepare_first(source, kind, chat, reading, **encoding)[1]
        else:
            keeping: dict[str, Any] = {"store": self.store or None, "workers": self.workers}
            made = prepare(source, kind, chat, reading, **encoding, **keeping)
        if reading.strict:
            judge(made.encoded.report, len(made.encoded.records), True, made.report)
        self._print(made, chat)
        if not made.encoded.records:
            hint = "See the reasons above; --max-length and --long-rows cut may help."
            raise ZooError(f"No row of {made.name} can be used.", hint)
        if self.store:
            place = made.kept.place
            self.say(f"Kept in {place}." if place else f"{made.name} is read anew by every run: not kept.")

    def _template(self, source: str) -> Any:
        from zoo.data.encoding.named import listed
        from zoo.data.sources.named import data_model
        from zoo.models.default import NAME
        from zoo.models.loading import load_template
        from zoo.models.start import resolve_start

        start = resolve_start(self.model or data_model(source, NAME), "runs", self.say)
        return load_template(start, self.template, new_tokens=listed(self.new_tokens), args=self.args, say=self.say)

    def _print(self, made: Any, template: Any) -> None:
        from zoo.data.preview import as_json, preview

        if self.as_json:
            print_json(as_json(made.encoded, made.report, template, examples=self.examples))
            return
        for part in preview(made.encoded, made.report, template, examples=self.examples):
            self.console.print(part)


def _kind(wanted: str | None, source: str, reading: Any, stream: bool) -> str | tuple[str, ...]:
    """The kinds of data that are meant by a kind, an algorithm, or nothing (then the source's own kind)."""
    from zoo.cards import described
    from zoo.contract.algorithm import DATA_KINDS
    from zoo.data.load import source_kind

    if wanted in DATA_KINDS:
        return str(wanted)
    if wanted is not None:
        return described(wanted)[1].kinds()
    if not stream:
        return source_kind(source, reading)
    # It loads torch.
    from zoo.data.stream_opening import open_stream

    return open_stream(source, "text", reading)[1].format.kind
