"""What is made of one record more than once: its prepared messages, and what the template writes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")


class Memo:
    """Within it, what is asked for with the same objects is made once. Outside it keeps nothing.

    Objects are told apart by their identity, so they must not change within it.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], tuple[Any, Any]] | None = None

    def __enter__(self) -> None:
        self._made = {}

    def __exit__(self, *error: object) -> None:
        self._made = None

    def once(self, what: Any, objects: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """What `make` gives; `what` tells apart what is made of the same objects."""
        if self._made is None:
            return make()
        key = (what, *map(id, objects))
        if key not in self._made:
            # The objects are kept, or another one could get their identity.
            self._made[key] = make(), objects
        made: Made = self._made[key][0]
        return made
