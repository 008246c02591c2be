"""The process of a data worker: it encodes the blocks of lines that its parent sends, in their order.

It is a fresh interpreter: it holds no model, no GPU and no lock, and ends with its parent.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from zoo.errors import ZooError


def main(descriptor: int) -> None:
    """Serve the parent behind `descriptor` until it closes. Each message is a pickle, each reply (kind, content)."""
    connection = Connection(descriptor)
    messages: SimpleQueue[bytes] = SimpleQueue()
    # Messages are taken from the pipe at any time, so that parent and worker never wait for each other.
    threading.Thread(target=_receive, args=(connection, messages), daemon=True).start()
    work: Any = None
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        while True:
            message = messages.get()
            try:
                content = pickle.loads(message)
                reply = ("ready", None) if work is None else ("shard", work.encoded(content))
                work = work or content
            except ZooError as error:
                reply = ("refused", (error.message, error.hint))
            except Exception:
                reply = ("failed", traceback.format_exc())
            connection.send_bytes(pickle.dumps(reply, protocol=5))


def _receive(connection: Connection, messages: SimpleQueue[bytes]) -> None:
    try:
        while True:
            messages.put(connection.recv_bytes())
    except (EOFError, OSError):
        # The parent is gone: nobody waits for what is still to be done.
        os._exit(0)
