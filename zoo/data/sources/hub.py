"""Data sets of the Hugging Face hub, or their copies in the local cache."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

from zoo.errors import ZooError


def open_hub(name: str, split: str) -> tuple[Any, str]:
    """The arrow batches of `owner/name` or `owner/name:config`, and a fingerprint. Raises ZooError."""
    import datasets

    path, _, config = name.partition(":")
    try:
        with _offline_without_network():
            table = datasets.load_dataset(path, config or None, split=split)
    except ConnectionError as error:
        raise ZooError(
            f"The hub data set {name} cannot be reached and is not in the local cache "
            f"({_first_line(error)}): give the path of a local file or folder instead.",
            hint="For example --data ./my-data.jsonl",
        ) from None
    except ValueError as error:
        # Unknown configuration or split: the library's first line names the ones there are.
        raise ZooError(
            f"The hub data set {name} has no such part: {_first_line(error)}.",
            hint=f"Write {path}:CONFIG@SPLIT with one of the names above.",
        ) from None
    except Exception as error:
        raise ZooError(
            f"The hub data set {name} cannot be loaded: {_first_line(error)}.",
            hint="Check the name (a private data set needs a login to the hub), or give the "
            "path of a local file or folder.",
        ) from None
    return table.with_format("arrow").iter(batch_size=1000), f"datasets:{table._fingerprint}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def _offline_without_network() -> Iterator[None]:
    """Go to the cache at once where the hub's name cannot be looked up.

    The libraries would ask six times, for half a minute. Both read their setting only at import, so an
    environment variable set now would come too late.
    """
    import datasets.config
    import huggingface_hub.constants as constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not any(before) and not _can_look_up(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _can_look_up(address: str) -> bool:
    """Whether the host has an address; behind a proxy, which looks names up itself, always true."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlparse(address).hostname, 443)
    except OSError:
        return False
    return True
