"""Caches of keys and values, as models of transformers take them."""

from __future__ import annotations

import inspect
from typing import Any

from zoo.errors import ZooError

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
"""What `forward` calls its cache: from transformers 5.24 on; before; and before in state-space models."""


def cache_argument(model: Any) -> str:
    """The name under which `forward` of a causal language model takes a cache. Raises ZooError where it takes none."""
    taken = inspect.signature(model.forward).parameters
    for name in CACHE_ARGUMENTS:
        if name in taken:
            return name
    raise ZooError(
        f"{type(model).__name__} takes no cache of keys and values, so it cannot generate step by step here.",
        "Use a decoder-only language model with a standard cache.",
    )
