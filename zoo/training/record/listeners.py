"""Listener hooks of plugins: called during a run, which a broken one does not stop. Warnings of the algorithm."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from zoo.contract.faults import describe_error
from zoo.contract.registry import PluginManager


class Listeners:
    """Calls the listener hooks of every plugin.

    One that raises is named with its error and not called again; only the chosen algorithm's own error counts.
    """

    def __init__(self, plugins: PluginManager, algorithm: Any, say: Callable[[str], None]):
        self._plugins, self._algorithm, self._say = plugins, algorithm, say
        self._broken: set[str] = set()

    def notify(self, event: str, **facts: Any) -> None:
        """Call the hook `event` of `zoo.contract.hookspecs` with those of `facts` that each implementation takes."""
        for implementation in reversed(getattr(self._plugins.hook, event).get_hookimpls()):
            if implementation.plugin_name in self._broken:
                continue
            try:
                implementation.function(*[facts[name] for name in implementation.argnames])
            except Exception as error:
                if implementation.plugin is self._algorithm:
                    raise
                self._broken.add(implementation.plugin_name)
                self._say(
                    f"Plugin {implementation.plugin_name} fails in {event}(): {describe_error(error)}. "
                    "Training goes on without it."
                )


@contextlib.contextmanager
def spoken_warnings(algorithm: Any, say: Callable[[str], None]) -> Iterator[None]:
    """The algorithm's own `warnings.warn` as lines of the run, without path and source; each text once."""
    own = getattr(sys.modules.get(type(algorithm).__module__), "__file__", None)
    with warnings.catch_warnings():
        show = warnings.showwarning

        def spoken(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any) -> None:
            if filename == own:
                say(f"Note: {message}")
            else:
                show(message, category, filename, lineno, *rest, **more)

        warnings.showwarning = spoken
        yield
