"""The process in which a user's reward function runs: it loads the function once, and scores until it is closed.

It is a fresh interpreter, so it holds nothing of the run: no model, no GPU, no lock. Its parent sends pickles, it
answers in JSON, and whatever the function prints goes to a file of the parent. If a call takes too long, a thread that
does not need the interpreter ends the process, so that even a regular expression that backtracks for ever is stopped.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from zoo.contract.own_process import Target, describe, ends_with, file_of, limit_memory
from zoo.rewards.functions import parameters_of, runs_in_process
from zoo.rewards.missing import LARGEST, Missing, Undecided
from zoo.secrets import scrubbed


def main(descriptor: int, memory: int | None) -> None:
    """Serve the parent behind `descriptor` until it closes. memory: the most bytes to hold, None for no limit."""
    limit_memory(memory)
    faulthandler.enable()
    connection = Connection(descriptor)
    function: Any = None
    with ends_with(os.getppid()), contextlib.suppress(EOFError, ConnectionError):
        while True:
            order, arguments = connection.recv()
            if order == "load":
                function, reply = _load(*arguments)
            else:
                reply = _score(function, *arguments)
            connection.send_bytes(json.dumps(reply).encode())


# -- the function ------------------------------------------------------------------------------------------------


def _load(target: Target, seconds: float) -> tuple[Any, dict[str, Any]]:
    """The function, and the reply: its parameters, or what is wrong. `function.prepare()` does slow imports here."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        function = target.find()
        if isinstance(function, list):
            return None, {"failed": "attribute", "names": function}
        getattr(function, "prepare", bool)()
        return function, {"takes": parameters_of(function), "in_process": runs_in_process(function)}
    except BaseException as error:
        return None, {"failed": "import", "reason": describe(error, target.place)}
    finally:
        faulthandler.cancel_dump_traceback_later()


def _score(
    function: Callable[..., Any], completions: list[str], records: list[Any], options: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The reply to a batch: its values, or why there are none. The process ends when the time is up."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        values = function(completions, records, **options)
        try:
            return {"values": [as_json(value) for value in values]}
        except TypeError as error:
            return {
                "failed": "values",
                "reason": scrubbed(f"gave {values!r:.60}, not a number for each answer ({error})"),
            }
    except BaseException as error:
        kind = "memory" if isinstance(error, MemoryError) else "raised"
        return {"failed": kind, "reason": describe(error, file_of(function))}
    finally:
        faulthandler.cancel_dump_traceback_later()


def as_json(value: Any) -> float | str | list[str] | None:
    """A number, None, or why there is no number: alone in a list if the answer is undecided. Raises TypeError."""
    if isinstance(value, Undecided):
        return [value]
    if value is None or isinstance(value, Missing):
        return value
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r:.40} is not a number")
    number = float(value)
    if abs(number) <= LARGEST:
        return number
    return f"gave {number}, more than the largest reward, {LARGEST:.3g}" if math.isfinite(number) else f"gave {number}"
