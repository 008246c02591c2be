"""The table of docs/models.md: what `zoo.testing.sweep` finds for every architecture.

    python tools/supported_models.py --write        about two minutes
    python tools/supported_models.py llama mixtral  prints these rows

tests/test_models_page.py makes some of the rows again, and all of them where slow tests run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.libraries import releases
from zoo.libraries.pretrained import quiet
from zoo.testing.architectures import ARCHITECTURES
from zoo.testing.sweep import COLUMNS, row

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
START, END = "<!-- generated -->\n\n", "\n<!-- end -->\n"
DASH = "–"


def line(kind: str) -> str:
    """The row of an architecture."""
    cells = row(kind)
    return "| " + " | ".join([f"`{kind}`", *(cells[column] or DASH for column in COLUMNS)]) + " |"


def table() -> str:
    titles = ["architecture", *COLUMNS]
    lines = [f"Made with transformers {releases.installed('transformers')}, peft {releases.installed('peft')}.", ""]
    lines += ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(lines + [line(kind) for kind in ARCHITECTURES]) + "\n"


def rows_of(page: str) -> dict[str, str]:
    """The rows that a page has, by the name of the architecture."""
    inside = page.split(START)[1].split(END)[0]
    return {one.split("`")[1]: one for one in inside.splitlines() if one.startswith("| `")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="architectures whose rows are printed")
    parser.add_argument("--write", action="store_true", help="write all rows into docs/models.md")
    given = parser.parse_args()
    quiet()
    for kind in given.kinds:
        print(line(kind), flush=True)
    if given.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(START)
        PAGE.write_text(before + START + table() + END + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
