"""peft: PiSSA (arXiv:2404.02948), adapters that begin as the principal part of each matrix.

There the base keeps what is left of the matrix, W − sBA at the start, so that without its adapters it is no model.
Here the base stays as it is, and a second, frozen adapter takes the same part away again: the model is
W + s(BA − B₀A₀), which begins at W, and without adapters it is W. Both products are computed as one of twice the rank,
whose parts cancel before they are rounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from zoo.errors import ZooError
from zoo.libraries.quiet import quiet_peft
from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.second_adapter import TRAINED, add_copy, train_only
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import base_of

KIND, PRINCIPAL = "pissa", "principal"
"""The name of this kind, and that of the second adapter."""
SEED = 0
"""Of the vectors that a fast decomposition begins with, so that a resumed run finds the same one."""


def begin_at_principal_parts(model: Any, kind: str) -> None:
    """Let adapters begin as the principal parts of their matrices. kind: pissa, or pissa_niter_N for a fast estimate.

    Raises ZooError for layers that are not linear, and for matrices with fewer singular values than the rank.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    refuse_rank(model, model.peft_config[TRAINED].r)
    layers = [layer for _, layer in _layers(model)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for layer in layers:
            _begin(layer, kind)
        add_copy(model, PRINCIPAL, whole=False)
        for layer in layers:
            layer.lora_B[PRINCIPAL].weight.neg_()
            layer.__class__ = _residual_class()
    train_only(model, trained)


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    with importing("peft"):
        from peft.tuners.lora import LoraLayer
        from peft.tuners.lora.layer import Linear
    for name, module in base_of(model).named_modules():
        if isinstance(module, LoraLayer):
            if type(module) not in (Linear, _residual_class()):
                raise ZooError(
                    f"--lora-kind {KIND} is for linear layers, and {name} is none.", "Leave it out of --lora-targets."
                )
            yield name, module


def refuse_rank(model: Any, rank: int) -> None:
    """Raises ZooError where a matrix under adapters has fewer singular values than a rank."""
    counts = {name: min(layer.get_base_layer().weight.shape) for name, layer in _layers(model)}
    name = min(counts, key=counts.__getitem__)
    if rank > counts[name]:
        raise ZooError(
            f"--lora-rank {rank} is above the {counts[name]} singular values of {name}, which {KIND} begins with.",
            f"Use --lora-rank {counts[name]} or less.",
        )


def _begin(layer: Any, kind: str) -> None:
    """Set A and B to the parts of a matrix with the largest singular values, each with its root (equations 2 and 3)."""
    weight = layer.get_base_layer().weight.float()
    weight = weight.T if layer.fan_in_fan_out else weight
    rank, scale = layer.r[TRAINED], layer.scaling[TRAINED]
    left, values, right = _decomposed(weight, rank, kind)
    roots = (values / scale).sqrt()
    layer.lora_A[TRAINED].weight.copy_(roots[:, None] * right)
    layer.lora_B[TRAINED].weight.copy_(left * roots)


def _decomposed(weight: Tensor, rank: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    if kind == KIND:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    left, values, right = torch.svd_lowrank(weight, rank, niter=int(kind.rpartition("_")[2]))
    return left, values, right.T


def _both(matrices: Any, dim: int) -> Tensor:
    return torch.cat([matrices[name].weight for name in (TRAINED, PRINCIPAL)], dim)


@cache
def _residual_class() -> type[Any]:
    with importing("peft"):
        from peft.tuners.lora.layer import Linear

    class ResidualLinear(Linear):  # type: ignore[misc]
        """A linear layer with both adapters."""

        def forward(self, x: Tensor, *args: Any, **given: Any) -> Tensor:
            if self.disable_adapters or self.merged:
                return super().forward(x, *args, **given)  # type: ignore[no-any-return]
            result = self.base_layer(x, *args, **given)
            A, B = _both(self.lora_A, 0), _both(self.lora_B, 1)
            change = linear(linear(x.to(A.dtype), A), B) * self.scaling[TRAINED]
            return (result + change).to(result.dtype)  # type: ignore[no-any-return]

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            super().merge(safe_merge, adapter_names or [TRAINED, PRINCIPAL])

    return ResidualLinear


def begins_at_base(model: Any) -> bool:
    """Whether the second adapter takes away what the trained one began with."""
    return PRINCIPAL in getattr(model, "peft_config", {})


@contextlib.contextmanager
def saved_as_one(model: Any) -> Iterator[None]:
    """A context in which a model's settings are those of one adapter of twice the rank, [B, −B₀][A; A₀] (`joined`)."""
    settings = model.peft_config[TRAINED]
    rank, alpha = settings.r, settings.lora_alpha
    settings.r, settings.lora_alpha = 2 * rank, 2 * alpha
    try:
        yield
    finally:
        settings.r, settings.lora_alpha = rank, alpha


def joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `state_dict` with that adapter in the place of the trained one: it needs no other base."""
    return {name: _with_principal(name, value, state) for name, value in state.items()}


def _with_principal(name: str, value: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    for part, dim in ((f".lora_A.{TRAINED}.", 0), (f".lora_B.{TRAINED}.", 1)):
        if part in name and (other := name.replace(TRAINED, PRINCIPAL)) in state:
            return torch.cat([value, state[other].to(value)], dim).contiguous()
    return value


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("peft", "Its layers are made of `lora_A`, `lora_B` and `scaling`; its own PiSSA begins with the same ones.",
           everywhere=False)  # fmt: skip
def principal_parts_are_those_of_peft() -> None:
    with importing("peft"), quiet_peft():
        from peft import LoraConfig, get_peft_model

        kinds: list[Any] = ["pissa", True]
        theirs, own = (
            get_peft_model(make_tiny(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=kind)).eval()
            for kind in kinds
        )
    begin_at_principal_parts(own, KIND)
    one, other = ([model.get_parameter(name) for name in model.state_dict() if f"lora_A.{TRAINED}" in name]
            for model in (theirs, own))  # fmt: skip
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(one, other, strict=True))
    assert gap < 1e-4, f"their matrices A differ by {gap:.2g}"
    with torch.no_grad():
        gap = float((own(input_ids=IDS).logits - make_tiny()(input_ids=IDS).logits).abs().max())
        assert gap < 1e-4, f"at the start its output differs from the base by {gap:.2g}"
