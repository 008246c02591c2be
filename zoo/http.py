"""JSON over HTTP with the standard library, for engines and judges: bounded retries, time limits, clear errors."""

from __future__ import annotations

import functools
import http.client
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urljoin

from zoo.errors import ZooError
from zoo.limits import ANSWER, size

BUSY = (429, 502, 503, 504)
"""Statuses of a server, or of a proxy in front of it, that may change after a moment."""
REDIRECTS = (301, 302, 303, 307, 308)
"""None is followed: a key would go to another server, and a POST would become a GET."""
TELL_EVERY = 10.0
"""Seconds between two lines about repeated requests, unless a request fails more often than the one before."""


class ServerError(ZooError):
    """A server cannot be reached, or refuses. `status` is the HTTP status, 0 if there was no answer."""

    def __init__(self, message: str, hint: str = "", status: int = 0):
        super().__init__(message, hint)
        self.status = status


class Server:
    """A server that accepts and returns JSON.

    timeout: seconds that one request may take, its whole answer included; attempts: how often a request is made before
    it fails; pause: seconds before the second attempt, doubled each time; again: the statuses that are worth another
    attempt. By default, a request that timed out (408 here) is not repeated, because the server would work on both, and
    neither is a request whose answer was not JSON (200). say: takes a line when a request is repeated.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 600.0,
        attempts: int = 4,
        pause: float = 1.0,
        key: str | None = None,
        again: Sequence[int] = BUSY,
        say: Callable[[str], None] | None = None,
    ):
        if not url.startswith(("http://", "https://")):
            raise ZooError(f"'{url}' is not the address of a server.", "Write it like http://127.0.0.1:8000.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.timeout, self.attempts, self.pause, self.again = timeout, attempts, pause, again
        self.say, self._told, self._lock = say, (0, 0.0), threading.Lock()
        self._opener = urllib.request.build_opener(_Http, _Https, _NoRedirect)
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def get(self, path: str) -> Any:
        return self._answer("GET", path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._answer("POST", path, json.dumps(body or {}).encode())

    def _answer(self, method: str, path: str, body: bytes | None) -> Any:
        """The decoded answer, None for an empty one. Raises ServerError."""
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(method, path, body)
            except ServerError as error:
                if attempt == self.attempts or error.status not in (0, *self.again):
                    raise
                seconds = self.pause * 2 ** (attempt - 1)
                self._tell(error, attempt, seconds)
                time.sleep(seconds)
        raise AssertionError("unreachable")

    def _tell(self, error: ServerError, attempt: int, seconds: float) -> None:
        """Say that a request is repeated; several requests that wait for the same thing are told of once."""
        if self.say is None:
            return
        with self._lock:
            last, when = self._told
            now = time.monotonic()
            if attempt <= last and now - when < TELL_EVERY:
                return
            self._told = (attempt, now)
        self.say(f"{error.message.rstrip('.')}; attempt {attempt + 1} of {self.attempts} in {seconds:g} s.")

    def _once(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, data=body, headers=self.headers, method=method)
        try:
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    text = answer.read(ANSWER + 1)
            except urllib.error.HTTPError as error:
                raise self._refused(method, path, error, error.read(ANSWER)) from None
        except ServerError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(method, path, error) from None
        if len(text) > ANSWER:
            raise ServerError(
                f"The server at {self.url} answered {method} {path} with more than {size(ANSWER)}.", status=200
            )
        try:
            return json.loads(text) if text.strip() else None
        except (ValueError, RecursionError):
            raise ServerError(
                f"The server at {self.url} answered {method} {path} with something that is not JSON: "
                f"{text[:80].decode(errors='replace')!r}.",
                "Is this the address of another program?",
                status=200,
            ) from None

    def _refused(self, method: str, path: str, error: urllib.error.HTTPError, body: bytes) -> ServerError:
        what = f"The server at {self.url} refused {method} {path} with status {error.code}: "
        if error.code in REDIRECTS and (place := error.headers.get("Location")):
            place = urljoin(self.url + path, place)
            return ServerError(f"{what}it redirects to {place}.", f"Give {place} as the address.", error.code)
        return ServerError(what + _reason(body), status=error.code)

    def _no_answer(self, method: str, path: str, error: Exception) -> ServerError:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            # A separate status, so that the request is not repeated.
            return ServerError(
                f"The server at {self.url} took more than {self.timeout:g} s over {method} {path}.",
                "Look at what the server says, or allow more seconds with timeout=….",
                status=408,
            )
        return ServerError(
            f"No server answers at {self.url} ({cause}).",
            "Start it, or correct the address.",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Make an error of a redirection."""


# -- a deadline for the whole answer: a socket's time limit is one of each read, and a server may send a byte a second


class _Timed(io.RawIOBase):
    """What a connection sends, until a moment on the monotonic clock. Raises TimeoutError after that."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, until: float):
        self.raw, self.connection, self.until = raw, connection, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.connection.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, until: float, connection: socket.socket, *arguments: Any, **named: Any):
        super().__init__(connection, *arguments, **named)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), connection, until))


class _Limited(http.client.HTTPConnection):
    """timeout: of all that is done over it."""

    def connect(self) -> None:
        until = time.monotonic() + (self.timeout or 0.0)
        super().connect()
        self.response_class = functools.partial(_Response, until)  # type: ignore[assignment]


class _LimitedSecurely(_Limited, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Limited, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_LimitedSecurely, request)


def _reason(text: bytes) -> str:
    """The reason in an error's body: the message of an OpenAI-like server, or the beginning of the body."""
    try:
        body = json.loads(text)
        error = body.get("error", body)
        return str(error.get("message") or error.get("detail") or error)[:400]
    except (ValueError, AttributeError, RecursionError):
        return text[:400].decode(errors="replace").strip() or "no reason given"
