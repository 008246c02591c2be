"""Caches of keys and values, and the forward passes that fill them."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.tiny import IDS, tiny_model

with importing("transformers"):
    from transformers import Cache, DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["Cache", "DynamicCache", "DynamicLayer", "Signature", "keeps_state"]

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
"""The names of `forward`'s cache argument: from transformers 5.24 on; before that; in state-space models before."""


@dataclass(frozen=True)
class Signature:
    """The arguments of a causal language model's `forward`.

    cache: the name of its cache argument; own_cache: whether that takes a class of the architecture's own.
    """

    cache: str
    positions: bool
    last_only: bool
    own_cache: bool = False

    @staticmethod
    def of(model: Any) -> Signature | None:
        """None for a model that takes no cache."""
        taken = inspect.signature(model.forward).parameters
        for name in CACHE_ARGUMENTS:
            if name in taken:
                classes = set(re.findall(r"\w*Cache\b", str(taken[name].annotation)))
                own = bool(classes) and "Cache" not in classes
                return Signature(name, "position_ids" in taken, "logits_to_keep" in taken, own)
        return None

    def arguments(self, ids: Tensor, positions: Tensor, cache: Cache, mask: Tensor | None) -> dict[str, Any]:
        """The arguments that give the logits of the last of these tokens and fill the cache."""
        given: dict[str, Any] = {"input_ids": ids, self.cache: cache, "use_cache": True}
        if self.last_only:
            given["logits_to_keep"] = 1
        if self.positions:
            given["position_ids"] = positions
        if mask is not None:
            given["attention_mask"] = mask
        return given


def _has_plain_layers(config: Any) -> bool:
    """Whether the whole state of a model with this configuration is keys and values of every layer."""
    try:
        layers = DynamicCache(config=config).layers
    # A kind of layer that transformers has no cache for.
    except KeyError:
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def keeps_state(model: Any) -> bool:
    """Whether a layer hands a state from token to token, as recurrent ones do, which no mask can keep apart."""
    signature = Signature.of(model)
    return not _has_plain_layers(model.config) or (signature is not None and signature.own_cache)


# -- checks --------------------------------------------------------------------------------------------------------


def _forward(ids: Tensor, cache: Cache, first: int = 0, mask: Tensor | None = None) -> Tensor:
    model = tiny_model()
    positions = torch.arange(first, first + ids.shape[1])[None].expand(len(ids), -1)
    signature = Signature.of(model)
    assert signature is not None, f"{type(model).__name__} takes no cache"
    with torch.no_grad():
        return model(**signature.arguments(ids, positions, cache, mask)).logits


@relies_on(
    "transformers",
    f"`forward` of a causal language model takes its cache as one of {', '.join(CACHE_ARGUMENTS)}, and fills it.",
)
def a_cache_takes_the_place_of_the_tokens_before() -> None:
    cache = DynamicCache()
    _forward(IDS[:, :-1], cache)
    assert cache.get_seq_length() == IDS.shape[1] - 1, (
        f"it has {cache.get_seq_length()} tokens after {IDS.shape[1] - 1}"
    )
    gap = float((_forward(IDS[:, -1:], cache, IDS.shape[1] - 1) - _forward(IDS, DynamicCache())[:, -1:]).abs().max())
    assert gap < 1e-4, f"logits with a cache differ by {gap:.2g} from those without"


@relies_on("transformers", "`forward` with logits_to_keep=1 gives only the logits of the last token.")
def the_last_logits_can_be_had_alone() -> None:
    signature = Signature.of(tiny_model())
    assert signature and signature.positions and signature.last_only, f"the signature has {signature}"
    shape = tuple(_forward(IDS, DynamicCache()).shape[:2])
    assert shape == (1, 1), f"logits of shape {shape} for one row"


@relies_on("transformers", "A DynamicCache has `layers` with `keys` and `values` [row, head, column, size].")
def layers_hold_keys_and_values() -> None:
    cache = DynamicCache()
    _forward(IDS.expand(2, -1), cache)
    config = tiny_model().config
    expected = (2, config.num_key_value_heads, IDS.shape[1], config.head_dim)
    layers: list[Any] = cache.layers
    for layer in layers:
        assert isinstance(layer, DynamicLayer), f"layers of type {type(layer).__name__}"
        shapes = [tuple(part.shape) for part in (layer.keys, layer.values) if part is not None]
        assert shapes == [expected] * 2, f"keys and values of shapes {shapes}"


@relies_on("transformers", "A cache can have custom layers, whose `update` gets the new keys and values.")
def a_layer_of_our_own_is_asked() -> None:
    seen = []

    class Layer(DynamicLayer):
        is_compileable = True

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            seen.append(tuple(key_states.shape))
            return super().update(key_states, value_states)

    cache = DynamicCache()
    cache.layers = [Layer() for _ in range(tiny_model().config.num_hidden_layers)]
    _forward(IDS, cache)
    _forward(IDS[:, :1], cache, IDS.shape[1], torch.ones(1, IDS.shape[1] + 1, dtype=torch.long))
    assert [shape[2] for shape in seen] == [IDS.shape[1]] * 2 + [1] * 2, f"it got the columns {seen}"


@relies_on("transformers", "`reorder_cache` of a cache for a configuration selects rows, also one row several times.")
def rows_of_a_cache_can_be_picked() -> None:
    cache = DynamicCache(config=tiny_model().config)
    _forward(torch.cat([IDS, IDS.flip(1)]), cache)
    layer: Any = cache.layers[0]
    before = layer.keys.clone()
    cache.reorder_cache(torch.tensor([1, 1, 0]))  # type: ignore[arg-type]
    assert torch.equal(layer.keys, before[[1, 1, 0]]), "it selected other rows"
