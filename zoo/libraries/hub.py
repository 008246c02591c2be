"""The hub's cache on this machine.

Relied on: a model `owner/name` lies in the folder `models--owner--name` of `huggingface_hub.constants.HF_HUB_CACHE`.
"""

from __future__ import annotations

from pathlib import Path


def may_be_cached(name: str) -> bool:
    """Whether the cache has a folder for a model; what is in it takes the library to tell, which takes its time."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()
