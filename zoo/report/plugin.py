"""The report of a run as a plugin: it listens for the end of a run, like anybody's, and writes report.html."""

from __future__ import annotations

from typing import Any

from zoo.contract.hookspecs import hookimpl


@hookimpl
def run_end(run: Any) -> None:
    from zoo.report.run_page import write_run_page

    write_run_page(run)
