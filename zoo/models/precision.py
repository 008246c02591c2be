"""The precision to train in, from what the device computes fast."""

from __future__ import annotations

from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries.adapters import ADAPTER, unreached_layers
from zoo.libraries.architecture import shared_by_heads
from zoo.libraries.arithmetic import cpu_has_bfloat16
from zoo.libraries.quantising import QUANTISED, quantise_linear
from zoo.libraries.rounding import frozen_linear, round_linear
from zoo.libraries.sharding import is_sharding
from zoo.libraries.stored import read
from zoo.libraries.wrappers import COPIES, ORIGINAL, base_of
from zoo.models.devices import is_here


def choose_precision(wanted: str, accelerator: str) -> tuple[str, str]:
    """Lightning's precision and one line with the reason.

    accelerator: "cpu", "cuda" or "mps". Raises ZooError on fp16.
    """
    if "16" in wanted and "bf16" not in wanted:
        raise ZooError(
            f"Precision {wanted} is not offered: float16 overflows in sums of log-probs and needs loss scaling.",
            "Use --precision bf16-mixed, or 32-true where the device has no bfloat16.",
        )
    if wanted != "auto":
        return wanted, "as set"
    if accelerator == "cuda" and not is_here("cuda"):
        return "bf16-mixed", "assumed of a GPU that is not here"
    if accelerator == "cuda":
        major = torch.cuda.get_device_capability()[0]
        if major >= 8:
            return "bf16-mixed", "the GPU multiplies bfloat16 in hardware; weights and optimizer stay float32"
        return "32-true", "the GPU has no bfloat16 units"
    if accelerator == "cpu" and cpu_has_bfloat16():
        return "bf16-mixed", "the CPU multiplies bfloat16 in hardware; weights and optimizer stay float32"
    return "32-true", f"this {accelerator} has no fast bfloat16"


def weights_dtype(precision: str) -> torch.dtype:
    """The type of the weights: bfloat16 only with bf16-true."""
    return torch.bfloat16 if precision == "bf16-true" else torch.float32


def autocast(precision: str, device: torch.device | str, keeps: bool | None = None) -> torch.autocast:
    """The context in which models run outside of Lightning's own steps. keeps: rounded copies; None: if it helps."""
    # Rounded copies of weights that are gathered for a block at a time would be kept, and be those of the whole model.
    keeps = not is_sharding() if keeps is None else keeps
    options: dict[str, Any] = {"dtype": torch.bfloat16, "cache_enabled": keeps}
    return torch.autocast(torch.device(device).type, enabled=precision == "bf16-mixed", **options)


def choose_base(wanted: str, precision: str) -> tuple[torch.dtype, str]:
    """The type of frozen matrices, and one line with the reason. wanted: as `--base-dtype` says it."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted], "as set"
    if precision == "bf16-mixed":
        return torch.bfloat16, "with bf16-mixed, their products are the same to the last bit"
    return weights_dtype(precision), f"the precision is {precision}"


def round_frozen(model: Any, precision: str, wanted: str = "auto") -> Any:
    """Quantise the frozen matrices of a model, or round them to bfloat16, if `wanted` says so; returns the model.

    With bf16-mixed, what it computes with rounded ones stays the same to the last bit, in less memory: autocast would
    round them in every forward pass. Embeddings and heads, which are read in float32, are left as they are, and so are
    adapters and copies of whole modules, also those that are frozen as the start of a run.
    Matrices that are still in their files are read one after the other, so that no more of them is in memory than is
    kept. Four bits leave out the projections to keys and values that several heads share: few weights, in which the
    rounding costs most. Raises ZooError for a model with no matrix that can be quantised.
    """
    base = base_of(model)
    heads = [base.get_input_embeddings(), base.get_output_embeddings(), getattr(base, "score", None)]
    # A copy that is trained as a whole begins as its original.
    originals = [module._modules[ORIGINAL] for module in base.modules() if ORIGINAL in module._modules]
    beside = [module for name, module in base.named_modules() if ADAPTER in name or f".{COPIES}." in f".{name}"]
    others = (*heads, *originals, *beside, *unreached_layers(model))
    layers = frozen_linear(base, [layer for layer in others if hasattr(layer, "weight")])
    if wanted in QUANTISED:
        shared = shared_by_heads(base, layers) if wanted == "nf4" else []
        _quantise(base, [layer for layer in layers if layer not in shared], wanted)
        layers, wanted = shared, "auto"
    if choose_base(wanted, precision)[0] == torch.bfloat16 and weights_dtype(precision) == torch.float32:
        round_linear(layers)
    if not is_sharding():
        read(model, model.modules())
    return model


def _quantise(base: Any, layers: list[torch.nn.Linear], kind: str) -> None:
    if not layers:
        raise ZooError(
            f"--quantize {kind}: {type(base).__name__} has no frozen linear layer whose weights could be quantised.",
            "Leave out --quantize.",
        )
    if len({id(layer.weight) for layer in layers}) < len(layers):
        raise ZooError(
            f"--quantize {kind}: layers of {type(base).__name__} share weights, which are not quantised.",
            "Leave out --quantize.",
        )
    for layer in layers:
        read(base, [layer])
        quantise_linear(layer, kind)


def rounding_tolerance(precision: str) -> float:
    """Largest mean difference of a token's log-prob between two layouts, without autocast."""
    return 0.06 if weights_dtype(precision) == torch.bfloat16 else 1e-3
