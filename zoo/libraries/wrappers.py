"""Whether a model is wrapped in peft adapters, and the model inside, without importing peft."""

from __future__ import annotations

from typing import Any

COPIES, ORIGINAL = "modules_to_save", "original_module"
"""Names of what peft has in the place of a module that is trained as a whole."""


def base_of(model: Any) -> Any:
    """The Hugging Face model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_adapted(model: Any) -> bool:
    """Whether the model is wrapped in adapters."""
    return hasattr(model, "disable_adapter")


def current_layer(layer: Any) -> Any:
    """The layer that peft computes with in the place of one of which a copy is trained; else the layer itself."""
    if ORIGINAL not in getattr(layer, "_modules", {}) or not hasattr(layer, COPIES):
        return layer
    is_off = layer.disable_adapters or not layer.active_adapters
    return layer.original_module if is_off else layer.modules_to_save[layer.active_adapters[0]]


def save_options(model: Any) -> dict[str, Any]:
    """Further options of `save_pretrained`: adapters never change the vocabulary, but peft would ask the hub."""
    if not is_adapted(model):
        return {}
    # Another one is what the trained one was at the start.
    first = next(iter(model.peft_config))
    return {"save_embedding_layers": False, "selected_adapters": [first]}
