"""Custom attention functions in transformers models, and the masks that they get."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.tiny import IDS, make_tiny

with importing("transformers"):
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

__all__ = ["attention_name", "sdpa_attention_forward", "use_attention"]


def attention_name(model: Any) -> str | None:
    """The attention that a model uses: "sdpa", "eager", or a registered one."""
    return getattr(model.config, "_attn_implementation", None)


def use_attention(model: Any, name: str, attention: Callable[..., tuple[Tensor, None]]) -> None:
    """Let a model use an attention function, which gets the same masks as `sdpa`."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)


# -- checks --------------------------------------------------------------------------------------------------------

PROBE = "zoo_probe"


@contextlib.contextmanager
def _calls() -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """A tiny model, and the arguments of its attention calls."""
    calls: list[dict[str, Any]] = []

    def probe(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        calls.append({"query": query, "key": key, "value": value, "mask": attention_mask, "module": module, **options})
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    model = make_tiny()
    use_attention(model, PROBE, probe)
    with torch.no_grad():
        yield model, calls


@relies_on(
    "transformers", "A model starts with the attention 'sdpa', and `_attn_implementation` names the one it uses."
)
def a_model_says_which_attention_it_runs() -> None:
    name = attention_name(make_tiny())
    assert name == "sdpa", f"a new model uses {name!r}"
    with _calls() as (model, _):
        assert attention_name(model) == PROBE, f"after set_attn_implementation it says {attention_name(model)!r}"


@relies_on("transformers", "A registered attention is called with query [B, H, L, D], key and value [B, G, L, D].")
def a_registered_attention_is_called() -> None:
    with _calls() as (model, calls):
        model(input_ids=IDS, use_cache=False)
        config = model.config
        assert len(calls) == config.num_hidden_layers, f"{len(calls)} calls in {config.num_hidden_layers} layers"
        shapes = [tuple(calls[0][part].shape) for part in ("query", "key", "value")]
        heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        assert shapes == [(1, count, IDS.shape[1], config.head_dim) for count in heads], f"it was given {shapes}"
        assert {"dropout", "scaling"} <= calls[0].keys(), f"it was given the options {sorted(calls[0])}"


@relies_on("transformers", "The attention gets a boolean mask [B, 1, L, L] as the same tensor, also with position_ids.")
def a_mask_reaches_the_attention_as_it_is() -> None:
    length = IDS.shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask[..., 4:, :4] = False
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    with _calls() as (model, calls):
        both = model(input_ids=IDS, attention_mask=mask, position_ids=positions, use_cache=False).logits
        assert all(call["mask"] is mask for call in calls), "the attention got a different tensor"
        alone = model(input_ids=IDS[:, 4:], use_cache=False).logits
    gap = float((both[:, 4:] - alone).abs().max())
    assert gap < 1e-4, f"a text after another one differs by {gap:.2g} from the text alone"


@relies_on("transformers", "`sdpa_attention_forward` gives softmax(q·kᵀ·scaling)·v under the mask, [B, L, H, D].")
def sdpa_is_the_formula() -> None:
    query, key, value = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    module = make_tiny().model.layers[0].self_attn
    found = sdpa_attention_forward(module, query, key, value, mask, dropout=0.0, scaling=0.3)[0]
    scores = (query @ key.transpose(-1, -2) * 0.3).masked_fill(~mask, -torch.inf)
    gap = float((found.transpose(1, 2) - scores.softmax(-1) @ value).abs().max())
    assert gap < 1e-5, f"it differs by {gap:.2g}"


@relies_on("transformers", "If a layer of the cache has `is_compileable`, a mask that hides nothing is passed too.")
def a_mask_that_hides_nothing_is_passed() -> None:
    from zoo.libraries.caches import DynamicCache, DynamicLayer, Signature

    class Layer(DynamicLayer):
        is_compileable = True

    cache = DynamicCache()
    with _calls() as (model, calls):
        cache.layers = [Layer() for _ in range(model.config.num_hidden_layers)]
        signature = Signature.of(model)
        assert signature is not None, "it takes no cache"
        for first, last in ((0, 7), (7, 8)):
            positions, mask = torch.arange(first, last)[None], torch.ones(1, last, dtype=torch.long)
            model(**signature.arguments(IDS[:, first:last], positions, cache, mask))
        assert calls[-1]["mask"] is not None, "the attention got no mask, which is slow on a CPU"
