"""Messages between two processes over a socket, each with its length before it, and each with a limit of time."""

from __future__ import annotations

import socket
import struct
import time

LENGTH = struct.Struct("!Q")
MOST = 1 << 24
"""Bytes of a message from an environment; longer ones are not read."""


class Channel:
    """One end of the line. What takes longer than its limit raises TimeoutError, an end of the line EOFError."""

    def __init__(self, end: socket.socket):
        self.end = end

    def send(self, body: bytes, until: float | None = None) -> None:
        """until: on the monotonic clock; None waits for ever."""
        self._wait(until)
        self.end.sendall(LENGTH.pack(len(body)) + body)

    def receive(self, until: float | None = None, most: int | None = None) -> bytes:
        """The next message. Raises OSError if it has more than `most` bytes."""
        (length,) = LENGTH.unpack(self._read(LENGTH.size, until))
        if most is not None and length > most:
            raise OSError(f"a message of {length:,} bytes")
        return self._read(length, until)

    def close(self) -> None:
        self.end.close()

    def _read(self, count: int, until: float | None) -> bytes:
        body = bytearray()
        while len(body) < count:
            self._wait(until)
            if not (part := self.end.recv(min(count - len(body), 1 << 20))):
                raise EOFError
            body += part
        return bytes(body)

    def _wait(self, until: float | None) -> None:
        # What is there already is read even when the time is up.
        self.end.settimeout(None if until is None else max(until - time.monotonic(), 0.001))
