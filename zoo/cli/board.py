"""`zoo board`: a page in the browser that shows runs and comparisons while they go on."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.terminal import Console

PORT = 8420


def board(
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder that holds the runs.")] = "runs",
    comparisons: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder that holds the comparisons.")
    ] = "comparisons",
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = PORT,
) -> None:
    """Show runs and comparisons in the browser while they go on, until ctrl-C.

    The page is for this machine alone, and only reads.
    """
    from zoo.board.server import Board
    from zoo.paths import typed_path

    with Board({"runs": typed_path(out), "comparisons": typed_path(comparisons)}, port) as server:
        Console().say(f"The runs in {out}/ are shown at {server.address} (ctrl-C ends this).")
        server.serve_forever()
