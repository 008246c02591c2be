"""Processes that encode blocks of lines side by side; their shards come back in order."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import Pipe
from typing import Any

from zoo.data.shards import Shard
from zoo.data.sources.lines import Line, RawLine
from zoo.errors import ZooError

AHEAD = 2
"""Blocks that each worker has at a time."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
LESS = "Encode in this process: --data-workers 1."

Block = Sequence[Line | RawLine]


class Worker:
    """One process, which does a work. Raises ZooError where it cannot begin."""

    def __init__(self, work: bytes):
        self.pipe, theirs = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from zoo.data.worker import main; main({theirs.fileno()})"
        with theirs:
            # A session of its own: ctrl-C reaches only the parent.
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True, env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        self.pipe.send_bytes(work)

    def give(self, content: Any) -> None:
        """Send a block of lines."""
        try:
            self.pipe.send_bytes(pickle.dumps(content, protocol=5))
        except OSError:
            raise self._ended() from None

    def reply(self) -> Any:
        """The next shard, or None once the worker is ready. Raises ZooError for what the worker did."""
        try:
            kind, content = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            raise self._ended() from None
        if kind == "refused":
            raise ZooError(content[0], content[1])
        if kind == "failed":
            raise ZooError(f"A data worker failed: {content.strip().splitlines()[-1]}", LESS)
        return content

    def _ended(self) -> ZooError:
        status = self.process.wait()
        why = "; the machine may be out of memory" if status == -9 else ""
        return ZooError(f"A data worker ended with status {status}{why}.", f"Use fewer: --data-workers 2. {LESS}")

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def encoded_by(workers: int, work: bytes, blocks: Iterable[Block]) -> Iterator[Shard]:
    """The shards of blocks of lines, in order, encoded by so many processes. work: a pickled `zoo.data.work.Work`.

    Raises ZooError as `Work.encoded` does, and for a process that ends.
    """
    with contextlib.ExitStack() as open_workers:
        pool: list[Worker] = []
        for _ in range(workers):
            pool.append(Worker(work))
            open_workers.callback(pool[-1].close)
        for worker in pool:
            worker.reply()
        waiting: deque[Worker] = deque()
        for number, block in enumerate(blocks):
            if len(waiting) == AHEAD * workers:
                yield waiting.popleft().reply()
            worker = pool[number % workers]
            worker.give(block)
            waiting.append(worker)
        while waiting:
            yield waiting.popleft().reply()
