"""Whether a model is wrapped in peft adapters, and the model inside, without importing peft."""

from __future__ import annotations

from typing import Any


def base_of(model: Any) -> Any:
    """The Hugging Face model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_adapted(model: Any) -> bool:
    """Whether the model is wrapped in adapters."""
    return hasattr(model, "disable_adapter")


def save_options(model: Any) -> dict[str, Any]:
    """Further options of `save_pretrained`: adapters never change the vocabulary, but peft would ask the hub."""
    return {"save_embedding_layers": False} if is_adapted(model) else {}
