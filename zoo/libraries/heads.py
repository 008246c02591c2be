"""The output head of a language model: the layer that makes logits, and what the model then does to them.

That is not read from the configuration, where every architecture has names of its own for it: it is measured once for
each model. In one forward pass known numbers are put in the place of the layer's output, and the logits that come out
say which scale and which cap the model applies.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.libraries.architecture import backbone, evaluating, last_hidden
from zoo.libraries.reliance import relies_on
from zoo.libraries.tiny import IDS, make_tiny, tiny_model
from zoo.libraries.turns import caller, in_pass
from zoo.libraries.wrappers import base_of, current_layer

SIZES = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e8, 1e12)
"""Of the numbers in the place of the layer's output, a row each: the first show the scale, the last the cap."""
TOLERANCE = 1e-5
"""Relative difference in float32 that counts as rounding."""


class OutputHead(NamedTuple):
    """logits = softcap·tanh(scale·layer(h) / softcap), softcap 0 for none; h: the backbone's last hidden states."""

    layer: Any
    scale: float
    softcap: float

    @property
    def is_plain(self) -> bool:
        """Whether the layer is nothing but h·Wᵀ + b with its `weight` and `bias`: no adapter, no other wrapper."""
        return type(self.layer).forward is torch.nn.Linear.forward


_MEASURED: WeakKeyDictionary[torch.nn.Module, tuple[float, float] | None] = WeakKeyDictionary()


def output_head(model: Any) -> OutputHead | None:
    """The head of a causal language model; None where its logits are made in another way."""
    base = base_of(model)
    if base not in _MEASURED:
        _MEASURED[base] = _measured(base)
    found = _MEASURED[base]
    return None if found is None else OutputHead(current_layer(base.get_output_embeddings()), *found)


def measure_head(model: Any) -> None:
    """To be called before a pass that uses the head: of sharded models measuring takes two passes of its own."""
    output_head(model)


def distrust_head(model: Any) -> None:
    """From now on `output_head` is None for this model."""
    _MEASURED[base_of(model)] = None


def own_logits(model: Any, **given: Any) -> Tensor:
    """The logits of the model's own forward pass, [B, L, V]. given: its arguments, without a cache."""
    base = base_of(model)
    return in_pass(base, lambda: caller(base)(**given, use_cache=False).logits)


def _measured(base: Any) -> tuple[float, float] | None:
    """Scale and softcap (see `OutputHead`); None where these two do not describe what the model does."""
    layer = base.get_output_embeddings()
    if layer is None or backbone(base) is base:
        return None
    weight = next(layer.parameters())
    ids = torch.arange(len(SIZES), device=weight.device)[None] % base.get_input_embeddings().weight.shape[0]
    read: list[Any] = []
    known: list[Tensor] = []

    def replace(module: Any, given: Any, output: Tensor) -> Tensor:
        read.append(given[0] if given else None)
        sizes = torch.tensor(SIZES, device=output.device)[:, None]
        known.append((sizes * torch.linspace(1, -1, output.shape[-1], device=output.device)).expand(1, -1, -1))
        return known[-1]

    # In the precision of the run: a frozen model may have layers in half precision and norms in float32.
    with evaluating(base), torch.no_grad():
        hidden = last_hidden(base, input_ids=ids)
        hook = layer.register_forward_hook(replace)
        try:
            logits = own_logits(base, input_ids=ids)
        finally:
            hook.remove()
    if len(known) != 1 or not _is_same(read[0], hidden) or logits.shape != known[0].shape:
        return None
    return _fitted(known[0][0].float(), logits[0].float())


def _is_same(read: Tensor | None, hidden: Tensor) -> bool:
    if read is None or read.shape != hidden.shape:
        return False
    gap = (read.float() - hidden.to(read).float()).abs().max()
    return bool(gap <= (TOLERANCE if read.dtype == torch.float32 else 1e-2) * hidden.abs().max())


def _fitted(known: Tensor, logits: Tensor) -> tuple[float, float] | None:
    """Scale and softcap that make logits of known numbers; None where no two do for all of them."""
    largest, before = float(logits[-1, 0]), float(logits[-2, 0])
    softcap = largest if abs(largest - before) <= TOLERANCE * abs(before) else 0.0
    row = SIZES.index(1.0)
    if softcap:
        row = max((i for i, size in enumerate(SIZES) if abs(float(logits[i, 0])) < 1e-3 * softcap), default=0)
    scale = float(logits[row, 0]) / float(known[row, 0])
    made = scale * known
    made = softcap * torch.tanh(made / softcap) if softcap else made
    close = torch.isclose(logits, made, rtol=20 * TOLERANCE, atol=0.0)
    return (scale, softcap) if scale and bool(close.all()) else None


# -- checks --------------------------------------------------------------------------------------------------------


def _head_gap(model: Any) -> float:
    """The largest difference between a model's logits and those of its backbone and `output_head`."""
    head = output_head(model)
    assert head is not None, "the logits of a model are not those of its output layer, scaled and capped"
    with torch.no_grad(), evaluating(model):
        logits = head.scale * head.layer(last_hidden(model, input_ids=IDS))
        logits = head.softcap * torch.tanh(logits / head.softcap) if head.softcap else logits
        return float((logits - own_logits(model, input_ids=IDS)).abs().max())


@relies_on("transformers", "A model's logits are its output layer, called once, on the backbone's `last_hidden_state`.")
def a_model_is_its_backbone_and_its_head() -> None:
    gap = _head_gap(tiny_model())
    assert gap < 1e-4, f"they differ by {gap:.2g}"


@relies_on("transformers", "What a model does to its logits is a scale and a softcap.", everywhere=False)
def heads_of_other_architectures() -> None:
    import transformers

    for cls, options in {
        "Cohere": {"logit_scale": 0.3},
        "Granite": {"logits_scaling": 3.0},
        "HyperCLOVAX": {"logits_scaling": 0.1},
        "Gemma2": {"final_logit_softcapping": 2.0},
        "NanoChat": {"final_logit_softcapping": 0.5},
    }.items():
        if not hasattr(transformers, f"{cls}Config"):
            continue
        gap = _head_gap(make_tiny(cls, **options))
        assert gap < 1e-4, f"{', '.join(options)} of {cls} makes logits that differ by {gap:.2g}"
