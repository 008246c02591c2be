"""The board's server: on loopback alone, reading alone, from the folders of runs alone.

A browser runs pages of strangers beside this one. A page of another site cannot read an answer, since none allows it;
and a name of another site that is made to lead here (DNS rebinding) is refused by the Host header. Nothing is written,
whatever is asked.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import parse_qs, urlsplit

from zoo.board.places import PAGE, Places
from zoo.board.rows import Rows
from zoo.board.views import MOST_COMPARED, CompareView, Gone, GroupView, ListView, RunView, View, frame
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.report import pages
from zoo.runs import Run
from zoo.terminal import Console

LOOPBACK = "127.0.0.1"
EVERY = 1.0
"""Seconds between two looks at the files of a page that is open."""
LEISURE = 4
"""At least this many times the CPU seconds that the last look and its page took."""
ALIVE = 15.0
"""Seconds after which a page without news hears that the board goes on, so that a closed one is noticed."""
MOST_PAGES = 64
"""Pages that are followed at the same time."""
NAMES = (LOOPBACK, "localhost", "[::1]")
"""Hosts that a request may name. The port may be another one: an ssh tunnel has its own."""
FILES = {".csv": "text/csv", ".tex": "text/plain", ".html": "text/html"}
"""What pages link to."""
SCRIPT = Path(__file__).with_name("board.js")
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
BOARD_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
}  # fmt: skip


class Board(ThreadingHTTPServer):
    """folders: what is shown, by the first part of its addresses. port: 0 takes a free one. Raises ZooError."""

    daemon_threads = True

    def __init__(self, folders: Mapping[str, Path], port: int):
        self.places, self.rows, self.open_pages = Places(folders), Rows(), BoundedSemaphore(MOST_PAGES)
        try:
            super().__init__((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ZooError(f"The board cannot listen on port {port}: {why}.", "Take a free one: --port 0") from None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong; a browser that goes away in the middle of an answer is no fault."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            Console(stderr=True).say("".join(traceback.format_exception(error)))

    def view(self, path: str, query: Mapping[str, list[str]]) -> View | None:
        """The page at an address; None if there is none."""
        if path == "/":
            return ListView(self.places, self.rows, every="all" in query)
        if path == "/compare":
            return self._compared(query.get("run", []))
        folder = self.places.path(path)
        if folder is None or not path.endswith("/"):
            return None
        if (folder / "run.yaml").is_file():
            return RunView(path, Run(folder))
        group = self.places.group(path)
        return None if group is None else GroupView(self.places, self.rows, group)

    def _compared(self, addresses: list[str]) -> View:
        found = [(address, self.places.path(address)) for address in dict.fromkeys(addresses)]
        runs = [(address, Run(path)) for address, path in found if path and (path / "run.yaml").is_file()]
        if not 2 <= len(runs) <= MOST_COMPARED:
            raise ZooError(f"Chosen: {amount(len(runs), 'run')}.", f"Choose 2 to {MOST_COMPARED} runs in the list.")
        return CompareView(runs)


class Handler(BaseHTTPRequestHandler):
    server: Board
    server_version, sys_version = "zoo", ""
    timeout = 30
    begun = False
    """Whether an answer has begun."""

    def do_GET(self) -> None:
        if not self._is_local():
            return self._say(HTTPStatus.FORBIDDEN, "This board answers to 127.0.0.1 and localhost alone.")
        try:
            address = urlsplit(self.path)
        except ValueError:
            return self._say(HTTPStatus.BAD_REQUEST, "This is no address of the board.")
        try:
            if address.path == "/board.js":
                return self._send(SCRIPT.read_bytes(), "text/javascript", BOARD_POLICY)
            if address.path == "/events":
                return self._follow(parse_qs(address.query).get("of", [""])[0])
            view = self._view(self.path)
            if view is not None:
                view.look()
                return self._send(frame(view, self.path).encode(errors="replace"), "text/html", BOARD_POLICY)
            return self._file(address.path)
        except Gone:
            self._say(HTTPStatus.NOT_FOUND, "It is no longer there.")
        except ZooError as error:
            self._say(HTTPStatus.BAD_REQUEST, f"{error.message} {error.hint}")
        except Exception as error:
            if not self.begun and not isinstance(error, OSError):
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "This page cannot be shown. The board's terminal says why.")
            raise

    def _refuse(self) -> None:
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "The board only shows: ask with GET.")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = do_TRACE = do_CONNECT = _refuse

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a page asks for news all the time."""

    def _is_local(self) -> bool:
        """Whether the request names this machine as it is reached from itself."""
        named = self.headers.get_all("Host") or []
        name, _, port = named[0].rpartition(":") if len(named) == 1 else ("", "", "")
        return (name in NAMES and port.isdigit()) or (len(named) == 1 and named[0] in NAMES)

    def _view(self, address: str) -> View | None:
        try:
            parts = urlsplit(address)
        except ValueError:
            return None
        return self.server.view(parts.path, parse_qs(parts.query, keep_blank_values=True))

    def _file(self, address: str) -> None:
        """A report, or the numbers beside it."""
        path = self.server.places.path(address)
        kind = FILES.get(path.suffix) if path is not None else None
        if path is None or kind is None or not path.is_file() or (kind == "text/html" and path.name != PAGE):
            return self._say(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        with path.open("rb") as stream:
            self._begin(HTTPStatus.OK, kind, REPORT_POLICY, path.stat().st_size)
            shutil.copyfileobj(stream, self.wfile)

    def _follow(self, address: str) -> None:
        """Server-sent events: the page as HTML whenever it has changed, until it is closed."""
        view = self._view(address)
        if view is None:
            return self._say(HTTPStatus.NOT_FOUND, "There is no such page.")
        if not self.server.open_pages.acquire(blocking=False):
            return self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_PAGES} pages are open.")
        try:
            self._begin(HTTPStatus.OK, "text/event-stream", BOARD_POLICY)
            seen, said = None, 0.0
            with contextlib.suppress(OSError, Gone, ZooError):
                while True:
                    began = time.thread_time()
                    now = view.look()
                    if now != seen:
                        self._event(f"data: {json.dumps(view.html())}")
                        seen, said = now, time.monotonic()
                    elif time.monotonic() - said > ALIVE:
                        self._event(": the board goes on")
                        said = time.monotonic()
                    # Thousands of runs take long to look at, and are looked at less often.
                    time.sleep(max(EVERY, LEISURE * (time.thread_time() - began)))
        finally:
            self.server.open_pages.release()

    def _event(self, line: str) -> None:
        self.wfile.write(f"{line}\n\n".encode(errors="replace"))
        self.wfile.flush()

    def _say(self, status: HTTPStatus, text: str) -> None:
        page = pages.render("board/message.html", title=status.phrase, text=text)
        self._send(page.encode(errors="replace"), "text/html", BOARD_POLICY, status)

    def _send(self, body: bytes, kind: str, policy: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(status, kind, policy, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str, policy: str, length: int | None = None) -> None:
        self.begun = True
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", policy + "; frame-ancestors 'none'")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
