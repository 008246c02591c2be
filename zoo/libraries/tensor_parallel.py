"""Tensor parallel: linear layers cut among the processes of a tensor group, each of which computes its part.

A layer cut by columns has a part of the outputs, such as some of the heads; a layer cut by rows reads a part of the
inputs, and the parts' sums are added up. Which layer is cut in which way is the model's own plan, transformers'
`base_model_tp_plan`. All else, such as embeddings, norms and heads, is whole in each process. An adapter is cut as its
layer is.

torch's own styles (ColwiseParallel, RowwiseParallel) would make the weights DTensors of a second mesh beside FSDP2's.
Here they stay plain tensors, so that FSDP2 shares them out along its own axis, and adapters, optimizers and functions
that read a weight need to know nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.architecture import backbone, heads_of, text_of
from zoo.libraries.reliance import relies_on
from zoo.libraries.rounding import product
from zoo.libraries.stored import keep_part
from zoo.libraries.tiny import make_tiny
from zoo.libraries.wrappers import ORIGINAL, base_of
from zoo.processes import set_tensor_group, tensor_group

_CUT: WeakKeyDictionary[torch.nn.Module, dict[str, int]] = WeakKeyDictionary()
"""The dimension along which parameters of a module are cut, by their names."""
_PARTIAL: WeakSet[torch.nn.Module] = WeakSet()
"""Whole modules whose gradient in a process is that of its part of the heads."""
OUTSIDE = ("embedding_rowwise", "embedding_colwise", "replicate")
"""Styles of what stays whole."""
PARTIAL = "replicated_with_grad_allreduce"


# -- layers --------------------------------------------------------------------------------------------------------


class Columns(torch.nn.Linear):
    """Has a part of the outputs."""

    joins = False

    def forward(self, input: Tensor) -> Tensor:
        output = product(_copied(input), self.weight, self.bias)
        return _Joined.apply(output) if self.joins else output


class JoinedColumns(Columns):
    """Computes a part of the outputs, and gathers the others."""

    joins = True


class Rows(torch.nn.Linear):
    """Reads a part of the inputs."""

    divides = False

    def forward(self, input: Tensor) -> Tensor:
        part = _Divided.apply(input) if self.divides else input
        output = _Added.apply(product(part, self.weight, None))
        return output if self.bias is None else output + self.bias.to(output.dtype)


class DividedRows(Rows):
    """Takes its part of the inputs from the whole of them."""

    divides = True


STYLES: dict[str, type[torch.nn.Linear]] = {
    "colwise": Columns, "colwise_gather_output": JoinedColumns, "rowwise": Rows, "rowwise_split_input": DividedRows,
}  # fmt: skip


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:  # type: ignore[override]
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _sum(grad)


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:  # type: ignore[override]
        return _sum(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:  # type: ignore[override]
        return joined(input, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return part_of(grad, -1)


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:  # type: ignore[override]
        return part_of(input, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return joined(grad, -1)


_LAST: list[tuple[ref[Tensor], ref[Tensor]]] = []
"""The last input of a layer cut by columns, and its copy."""


def _copied(input: Tensor) -> Tensor:
    """The input, whose gradient is added up over the group: once for all layers that read the same one."""
    if not (torch.is_grad_enabled() and input.requires_grad):
        return input
    for former, of_former in _LAST:
        made = of_former()
        if former() is input and made is not None:
            return made
    made = _Copied.apply(input)
    _LAST[:] = [(ref(input), ref(made))]
    return made


def _sum(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()
    dist.all_reduce(total, group=tensor_group().group)
    return total


def joined(part: Tensor, dim: int) -> Tensor:
    """The parts of all processes of the group, one behind the other."""
    group = tensor_group()
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size)]
    dist.all_gather(parts, part.contiguous(), group=group.group)
    return torch.cat(parts, dim)


def part_of(tensor: Tensor, dim: int) -> Tensor:
    """The part of a whole tensor that this process has; a copy."""
    group = tensor_group()
    return tensor.chunk(group.size, dim)[group.rank].contiguous().clone()


# -- a model -------------------------------------------------------------------------------------------------------


def cut(model: Any) -> None:
    """Cut a model's layers among the processes of the tensor group, in place. Of a group of one nothing happens.

    Raises ZooError for a model that cannot be cut.
    """
    if tensor_group().size == 1:
        return
    base = base_of(model)
    refuse_uncuttable(base.config, tensor_group().size)
    for module, style in _planned(base):
        if style == PARTIAL:
            _PARTIAL.add(module)
        else:
            _cut_layer(module, style)


def _planned(base: Any) -> Iterator[tuple[torch.nn.Module, str]]:
    """The modules of the plan."""
    patterns = [(re.compile(re.escape(name).replace(r"\*", r"[^.]+")), style)
                for name, style in plan_of(base.config).items()]  # fmt: skip
    for name, module in backbone(base).named_modules():
        for pattern, style in patterns:
            if pattern.fullmatch(name):
                yield module, style


def _cut_layer(layer: Any, style: str) -> None:
    """A linear layer, or one with adapters: of these the matrix that has its outputs, or its inputs."""
    if ORIGINAL in layer._modules:
        for module in (layer.original_module, *layer.modules_to_save.values()):
            _cut_linear(module, style)
        return
    if not hasattr(layer, "base_layer"):
        _cut_linear(layer, style)
        return
    _cut_linear(layer.base_layer, style)
    for adapter in (layer.lora_B if "colwise" in style else layer.lora_A).values():
        _cut_linear(adapter, style)


@torch.no_grad()
def _cut_linear(layer: Any, style: str) -> None:
    if not isinstance(layer, torch.nn.Linear):
        raise ZooError(
            f"--tensor-parallel cuts linear layers, and this model has {type(layer).__name__} in their place.", INSTEAD
        )
    by_columns = "colwise" in style
    _CUT[layer] = {"weight": 0, "bias": 0} if by_columns and layer.bias is not None else {"weight": int(not by_columns)}
    group = tensor_group()
    for name, dim in _CUT[layer].items():
        parameter = getattr(layer, name)
        size = parameter.shape[dim] // group.size
        keep_part(layer, name, dim, group.rank * size, (group.rank + 1) * size)
        part = torch.nn.Parameter(part_of(parameter.detach(), dim), requires_grad=parameter.requires_grad)
        setattr(layer, name, part)
    layer.out_features, layer.in_features = layer.weight.shape
    layer.__class__ = STYLES[style]


# -- parameters ----------------------------------------------------------------------------------------------------


def cut_dims() -> dict[int, int]:
    """The dimension along which each parameter is cut, by its identity."""
    return {id(getattr(module, name)): dim for module, dims in _CUT.items() for name, dim in dims.items()}


def partial() -> set[int]:
    """The identities of whole parameters whose gradients must be added up over the group."""
    return {id(parameter) for module in _PARTIAL for parameter in module.parameters()}


def forget() -> None:
    """No model is cut any more."""
    _CUT.clear()
    _PARTIAL.clear()
    _LAST.clear()
    set_tensor_group(None)


# -- plans ---------------------------------------------------------------------------------------------------------

INSTEAD = "Leave out --tensor-parallel; --strategy fsdp shares out whole blocks, whatever layers they have."


def plan_of(config: Any) -> dict[str, str]:
    """Styles by the names of modules of the backbone, `*` for the number of a layer; only of what is cut."""
    plan = getattr(text_of(config), "base_model_tp_plan", None) or {}
    return {name: style for name, style in plan.items() if style not in OUTSIDE}


def refuse_uncuttable(config: Any, size: int) -> None:
    """Raises ZooError for a model that cannot be cut in `size` parts. It needs the configuration alone."""
    text = text_of(config)
    name, plan = getattr(config, "model_type", "this model"), plan_of(config)
    if not any(style in STYLES for style in plan.values()):
        raise ZooError(f"--tensor-parallel: transformers has no plan for how {name} is cut.", INSTEAD)
    if strange := sorted(set(plan.values()) - {*STYLES, PARTIAL}):
        raise ZooError(
            f"--tensor-parallel cuts linear layers, and the plan of {name} has {', '.join(strange)}.", INSTEAD
        )
    for what, count in _counts(text).items():
        if count % size:
            raise ZooError(f"--tensor-parallel {size}: the {count} {what} of {name} cannot be divided by {size}.",
                           "Take a number that divides them, or leave it out.")  # fmt: skip


def _counts(text: Any) -> dict[str, int]:
    """What is divided, by its name."""
    heads = getattr(text, "num_attention_heads", None)
    groups = getattr(text, "num_key_value_heads", None) or heads
    wide = getattr(text, "intermediate_size", None)
    counts = {"attention heads": heads, "key-value heads": groups, "values between the layers' matrices": wide}
    return {what: count for what, count in counts.items() if isinstance(count, int)}


def cut_configuration(config: Any, size: int) -> Any:
    """The configuration of a model that has in each layer what a process of `size` has of this one's."""
    config = copy.deepcopy(config)
    text = text_of(config)
    if size > 1 and getattr(text, "num_attention_heads", None):
        *_, head = heads_of(text)
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            if isinstance(count := getattr(text, name, None), int):
                setattr(text, name, max(1, count // size))
        text.head_dim = head
    return config


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("transformers", "`base_model_tp_plan` names linear layers of the backbone, with colwise and rowwise.",
           everywhere=False)  # fmt: skip
def models_have_a_plan() -> None:
    base = make_tiny()
    styles = {style for _, style in _planned(base)}
    assert styles == {"colwise", "rowwise"}, f"the plan of a Llama has the styles {', '.join(sorted(styles)) or 'none'}"
    assert len(list(_planned(base))) == 14, "it names other layers than the seven of each block"
