"""FSDP2: the weights, gradients and optimizer state of a model shared out among the processes of a run.

Each block of a transformers model is a group whose weights are gathered for its forward and its backward pass; what
stands outside of the blocks (embedding, last norm, head) is the group of the whole model. Adapters belong to the block
that they are in. Gradients are averaged over the processes in each backward pass, so that no process ever holds those
of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from zoo.errors import ZooError
from zoo.libraries import turns
from zoo.libraries.architecture import backbone
from zoo.libraries.stored import read_parts
from zoo.libraries.wrappers import base_of
from zoo.processes import begin_exchange

AXES = ("data_parallel", "tensor_parallel")
"""Of the mesh of processes, as Lightning's strategy names them."""
_MESH: list[DeviceMesh] = []
"""The one mesh of this process; none in a run without shards."""


def make_mesh(device: torch.device, processes: int) -> DeviceMesh:
    """The mesh of a run whose processes have connected: from now on `shard` shares out.

    Raises ZooError where torch is too old.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ZooError(
            f"--strategy fsdp needs a newer torch than {torch.__version__}: its FSDP cannot reduce gradients that some "
            "processes lack.",
            "pip install --upgrade torch, within the versions that zoo allows (zoo doctor lists them).",
        )
    _MESH[:] = [init_device_mesh(device.type, (processes, 1), mesh_dim_names=AXES)]
    return _MESH[0]


def current_mesh() -> DeviceMesh:
    return _MESH[0]


def forget_mesh() -> None:
    """The run is over."""
    _MESH.clear()
    turns.forget()


def is_sharding() -> bool:
    """Whether models are shared out in this run."""
    return bool(_MESH)


def shard(model: Any, offload: bool = False) -> Any:
    """The model, of which each process keeps its part, if this run shares out; all processes call it together.

    offload: weights, gradients and optimizer state stay in the CPU's memory. Raises ZooError for one without blocks.
    """
    if not _MESH:
        return model
    base, mesh = base_of(model), _MESH[0][AXES[0]]
    policy = CPUOffloadPolicy() if offload and mesh.device_type != "cpu" else OffloadPolicy()
    # The inner ones first.
    for module in [*reversed(_blocks(base)), base]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    read_parts(base, torch.device("cpu" if offload else mesh.device_type))
    _begin_passes(base, torch.device(mesh.device_type))
    return model


def _begin_passes(base: Any, device: torch.device) -> None:
    # Which weights have a gradient may differ between the processes, and they reduce them together.
    base.set_reduce_scatter_unused_params(True)
    base.zoo_pass = lambda work: work()
    register_fsdp_forward_method(base, "zoo_pass")
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    turns.take_part(base, base.zoo_pass, lambda: backbone(base)(input_ids=token, use_cache=False)[0], device)


def _blocks(base: Any) -> list[torch.nn.Module]:
    """The modules that transformers names as those which must stay whole on a device."""
    names = set(getattr(base, "_no_split_modules", None) or ())
    blocks = [module for module in base.modules() if type(module).__name__ in names]
    if not blocks:
        raise ZooError(
            f"{type(base).__name__} does not name its blocks (_no_split_modules), so that it cannot be sharded.",
            "Leave out --strategy fsdp.",
        )
    return blocks


def fsdp_modules(model: Any) -> list[FSDPModule]:
    return [module for module in base_of(model).modules() if isinstance(module, FSDPModule)]


# -- tensors -------------------------------------------------------------------------------------------------------


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_part(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of it."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, without gradient. All processes call it together, where it is shared out."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()  # type: ignore[attr-defined]


def wholes(tensors: Iterable[tuple[str, Tensor]], keep: bool = True) -> dict[str, Tensor]:
    """Whole tensors on the CPU, by name, one after the other; keep: this process wants them, else there are none."""
    begin_exchange()
    result = {}
    for name, tensor in tensors:
        complete = whole(tensor)
        if keep:
            result[name] = complete.cpu()
    return result


def whole_weights(model: torch.nn.Module, keep: bool = True) -> dict[str, Tensor] | None:
    """The `state_dict` of a model with whole tensors; None for one that is not shared out. keep: as of `wholes`."""
    if not turns.is_shared(model):
        return None
    parameters = dict(model.named_parameters(remove_duplicate=False))
    own = {id(parameters.get(name, value)): parameters.get(name, value) for name, value in model.state_dict().items()}
    # Tensors that are shared between layers, as by embedding and head, stay shared.
    gathered = wholes(((str(number), tensor) for number, tensor in own.items()), keep)
    names = model.state_dict() if keep else {}
    return {name: gathered[str(id(parameters.get(name, value)))] for name, value in names.items()}


def part_like(complete: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is kept: the part of this process, on its device."""
    if not isinstance(like, DTensor):
        return complete.to(like.device)
    place = like.to_local().device
    # Without a source nothing is sent: each process cuts its part out.
    return distribute_tensor(complete.to(place), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module's parameters the whole values of these names; others stay as they are."""
    for name, parameter in module.named_parameters():
        if name in weights:
            own_part(parameter).copy_(own_part(part_like(weights[name], parameter)))


def optimizer_state(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """The `state_dict` of an optimizer with whole tensors on the CPU. keep: as of `wholes`."""
    begin_exchange()

    def taken(tensor: Tensor) -> Tensor | None:
        complete = whole(tensor)
        return complete.cpu() if keep else None

    return _mapped(optimizer.state_dict(), taken)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parts = dict(state["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in parts and isinstance(parameter, DTensor):
            parts[number] = _mapped(parts[number], partial(_part_if_whole, parameter))
    optimizer.load_state_dict({**state, "state": parts})


def _part_if_whole(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Moments are shared out as their weights are; a count of steps is not."""
    return part_like(tensor, parameter) if tensor.shape == parameter.shape else tensor


def _mapped(value: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, change) for part in value)
    return value


def leaves(model: torch.nn.Module) -> list[Tensor]:
    """The trained tensors in which a graph of this model can end: its parameters, or what they are gathered into."""
    groups = [group for module in fsdp_modules(model) for group in module._get_fsdp_state()._fsdp_param_groups]
    gathered = [p._unsharded_param for group in groups for p in group.fsdp_params if hasattr(p, "_unsharded_param")]
    return [p for p in (*model.parameters(), *gathered) if p.requires_grad]


@torch.no_grad()
def average_others(parameters: Iterable[Tensor]) -> None:
    """Average the gradients of trained parameters that are not shared out, over the processes."""
    for parameter in parameters:
        if parameter.requires_grad and not is_part(parameter):
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
