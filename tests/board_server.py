"""A board that serves in a thread of the test."""

import threading
from contextlib import contextmanager

from zoo.board.server import Board


@contextmanager
def serving(folder, **more):
    """A board of `folder`/runs on a free port."""
    folders = {"runs": folder / "runs", "comparisons": folder / "comparisons", **more}
    with Board(folders, 0) as board:
        thread = threading.Thread(target=board.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield board
        finally:
            board.shutdown()
            thread.join()
