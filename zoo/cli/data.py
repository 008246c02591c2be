"""`zoo data`: what a data set looks like to an algorithm."""

from __future__ import annotations

from enum import StrEnum
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
) -> None:
    """Show how rows are read: rendered examples with trained tokens coloured, lengths, and rows kept and dropped."""
    from zoo.contract import registry
    from zoo.data.encoding import named as templates
    from zoo.data.formats import columns_of
    from zoo.data.glance import glance
    from zoo.data.load import judge
    from zoo.data.sources import is_named
    from zoo.data.sources.mixture import read_mixture

    args = templates.template_args(template_args)
    console = Console()
    say: Any = (lambda text: None) if as_json else console.say
    named = registry.contributions(registry.manager(), "sources")
    parts = read_mixture(source, named)
    if parts[0].source != source:
        if as_json:
            raise ZooError("--json is for one source.", f"Name the parts one by one: zoo data {parts[0].source} --json")
        for part in parts:
            console.print(f"Part {part.label}:")
            data(
                part.source, wanted, part.split or split, part.columns or columns, part.format or format,
                part.limit or limit, examples, model, template, template_args, new_tokens, max_length, long_rows,
                strict, False, store, data_workers,
            )  # fmt: skip
        return
    kind = _kind(wanted, source, split, columns_of(columns), named)
    reading: dict[str, Any] = {
        "split": split, "columns": columns_of(columns), "format": format, "limit": limit, "named_sources": named,
    }  # fmt: skip
    if not is_named(source, named):
        # Mistakes in the first rows are reported before the imports that take seconds.
        glance(source, [kind] if isinstance(kind, str) else kind, strict=strict, **reading)
    from zoo.data.encoding.named import listed
    from zoo.data.prepared import prepare
    from zoo.data.preview import as_json as preview_json
    from zoo.data.preview import preview
    from zoo.data.sources.named import data_model
    from zoo.models.default import NAME
    from zoo.models.loading import load_template
    from zoo.models.start import resolve_start

    chosen = model or data_model(source, NAME)
    source_of_model = resolve_start(chosen, "runs", say)
    chat = load_template(source_of_model, template, new_tokens=listed(new_tokens), args=args, say=say)
    made = prepare(
        source, kind, chat, **reading, strict=strict, max_length=max_length, long_rows=long_rows, store=store or None,
        workers=data_workers, say=say,
    )  # fmt: skip
    encoded, report = made.encoded, made.report
    if strict:
        judge(encoded.report, len(encoded.records), strict, report)
    if as_json:
        print_json(preview_json(encoded, report, chat, examples=examples))
    else:
        for part in preview(encoded, report, chat, examples=examples):
            console.print(part)
    if not encoded.records:
        raise ZooError(
            f"No row of {made.name} can be used.", "See the reasons above; --max-length and --long-rows cut may help."
        )
    if store:
        say(f"Kept in {made.kept.place}." if made.kept.place else f"{made.name} is read anew by every run: not kept.")


def _kind(wanted: str | None, source: str, split: str, columns: Any, named: dict[str, Any]) -> str | tuple[str, ...]:
    """The kinds of data that are meant by a kind, an algorithm, or nothing (then the source's own kind)."""
    from zoo.cards import described
    from zoo.contract.algorithm import DATA_KINDS
    from zoo.data.load import source_kind

    if wanted in DATA_KINDS:
        return str(wanted)
    if wanted is not None:
        return described(wanted)[1].kinds()
    return source_kind(source, split, columns, named)
