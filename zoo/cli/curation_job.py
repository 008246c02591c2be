"""What the verbs of `zoo data` share: opening the source, progress, and the report, printed and written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from zoo import __version__
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.terminal import Console, fitting, print_json

SECONDS_IN_PLACE, SECONDS_BETWEEN = 0.2, 10.0
"""Between updates of a line in a terminal, and between lines of progress elsewhere."""
SHOWN_ROWS = 8


@dataclass
class Job:
    """One verb at work: its source, its files, its progress and its report."""

    verb: str
    source: str
    out: Path
    as_json: bool
    examples: int
    kind: str
    split: str
    columns: str | None
    format: str | None
    limit: int | None
    strict: bool
    force: bool = False
    dry_run: bool = False
    rows: bool = field(init=False, default=True)
    """Whether kept rows are written, or only the report."""
    console: Console = field(init=False)

    def __post_init__(self) -> None:
        self.console = Console(stderr=True) if self.as_json else Console()

    def open(self, write: bool = True) -> Any:
        """The source's rows. Problems with the files to write are reported before anything is read."""
        from zoo.data.curation.removal import KeptRows

        self.rows = write
        self.file = KeptRows(self.out, self.source, force=self.force, rows=write, dry_run=self.dry_run)
        self.opened = self.open_other(self.source, self.columns, self.format, split=self.split, limit=self.limit)
        return self.opened

    def open_other(self, source: str, columns: str | None, format: str | None, **how: Any) -> Any:
        """Rows of the job's kind, from any source."""
        from zoo.contract import registry
        from zoo.data.convert import convert
        from zoo.data.curation.rows import open_rows
        from zoo.data.formats import columns_of
        from zoo.data.kinds import KINDS
        from zoo.data.sources.reading import Reading

        if self.kind not in KINDS:
            convert([], self.kind, self.kind)
        named = registry.contributions(registry.manager(), "sources")
        reading = Reading(columns=columns_of(columns) or {}, format=format, named_sources=named, **how)
        return open_rows(source, reading, self.kind)

    def run(
        self, settings: dict[str, Any], work: Callable[..., Any], *how: Any,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:  # fmt: skip
        """Do the work on the opened rows, show the report and store it. Raises ZooError if no row is left.

        settings: the settings in the report; more: gives its other entries, called after the work.
        """
        with self.file as file:
            removals = work(self.opened, file, *how, strict=self.strict, progress=self._progress())
            report = {
                "verb": self.verb, "source": self.opened.name, "fingerprint": self.opened.fingerprint,
                "format": self.opened.format.name, "settings": settings, "zoo": __version__,
                **removals.as_json(), **more(),
            }  # fmt: skip
            if removals.kept or not self.rows:
                file.finish(report)
        print_json(report) if self.as_json else self._show(report)
        if not removals.kept and self.rows:
            raise ZooError(
                f"Every row of {self.opened.name} was removed, so nothing is written.", "See the reasons above."
            )

    def _progress(self) -> Callable[[int, int], None]:
        """In a terminal one line that is updated, elsewhere a new line now and then."""
        from zoo.training.record.progress import can_rewrite, rewrite

        printed, in_place = time.monotonic(), can_rewrite(self.console)

        def show(done: int, removed: int) -> None:
            nonlocal printed
            if time.monotonic() - printed > (SECONDS_IN_PLACE if in_place else SECONDS_BETWEEN):
                printed = time.monotonic()
                text = f"{amount(done, 'row')} read, {removed:,} removed"
                rewrite(self.console, text) if in_place else self.console.print(text)

        return show

    def _show(self, report: dict[str, Any]) -> None:
        from zoo.data.curation.removal import meaning_of
        from zoo.data.display import printable
        from zoo.training.record.progress import can_rewrite, rewrite

        console = self.console
        say = console.say
        if can_rewrite(console):
            rewrite(console, "")
        word = "removed" if self.rows else "contaminated"
        kept = f"{report['kept']:,} {'kept' if self.rows else 'clean'}"
        say(f"{report['source']}: {amount(report['rows'], 'row')} read, {kept}, {report['removed']:,} {word}")
        table = Table(word, "rows", "share", "which", box=None, pad_edge=False)
        for reason, entry in report["removed_by_reason"].items():
            numbers = ", ".join(map(str, entry["rows"][:SHOWN_ROWS])) + (", …" if entry["count"] > SHOWN_ROWS else "")
            name = ", ".join(filter(None, (reason, meaning_of(reason))))
            table.add_row(name, f"{entry['count']:,}", f"{entry['count'] / report['rows']:.1%}", numbers)
        if table.row_count:
            console.print(fitting(table, console))
        for reason, entry in report["removed_by_reason"].items():
            for example in entry["examples"][: self.examples]:
                say(f"\n{example['where']}  {reason}: {printable(example['why'], console)}", style="bold")
                if example["text"]:
                    console.print(printable(example["text"].replace("\n", " "), console), soft_wrap=True)
        for part in report.get("evaluation", ()):
            share = "" if part["share"] is None else f" ({part['share']:.1%})"
            say(f"\n{part['source']}: {part['found']:,} of {amount(part['checked'], 'item')}{share} are in the data; "
                f"{part['too_short_or_common']:,} more are too short or too common to search for")  # fmt: skip
        say("")
        for note in report["notes"]:
            say(note)
        if self.dry_run:
            say("Nothing was written.")
        elif report["kept"] or not self.rows:
            say(f"Written to {self.file.path if self.rows else self.file.report}"
                + (f", and the report to {self.file.report}." if self.rows else "."))  # fmt: skip
