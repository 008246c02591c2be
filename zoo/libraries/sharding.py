"""The weights, gradients and optimizer state of a model shared out among the processes of a run: FSDP2, and the cut
layers of `zoo.libraries.tensor_parallel`.

Each block of a transformers model is a group whose weights are gathered for its forward and its backward pass; what
stands outside of the blocks (embedding, last norm, head) is the group of the whole model. Adapters belong to the block
that they are in. Gradients are averaged over the processes in each backward pass, so that no process ever holds those
of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from zoo.libraries import tensor_parallel, turns
from zoo.libraries.architecture import backbone
from zoo.libraries.reliance import relies_on
from zoo.libraries.scattered import Part, Scattered
from zoo.libraries.stored import own_place, read_parts
from zoo.libraries.tensor_parallel import cut_dims
from zoo.libraries.wrappers import base_of
from zoo.processes import TensorGroup, begin_exchange, from_all, set_tensor_group, tensor_group

AXES = ("data_parallel", "tensor_parallel")
"""Of the mesh of processes, as Lightning's strategy names them."""
_MESH: list[DeviceMesh] = []
"""The one mesh of this process; none in a run without shards."""
_ALL: list[DeviceMesh] = []
"""The same processes along one axis."""
_FSDP: list[str] = []
"""The axis along which FSDP2 shares out; none in a run of one tensor group without it."""


def make_mesh(device: torch.device, processes: int, tensor_parallel: int = 1, fsdp: bool = True) -> DeviceMesh:
    """The mesh of a run whose processes have connected: from now on `shard` shares out.

    tensor_parallel: the processes of a tensor group; fsdp: weights are shared out among the groups. Raises ZooError
    where torch is too old.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ZooError(
            f"Sharding needs a newer torch than {torch.__version__}: its FSDP cannot reduce gradients that some "
            "processes lack.",
            "pip install --upgrade torch, within the versions that zoo allows (zoo doctor lists them).",
        )
    shape = (processes // tensor_parallel, tensor_parallel)
    _MESH[:] = [init_device_mesh(device.type, shape, mesh_dim_names=AXES)]
    _ALL[:] = [_MESH[0][AXES[0]] if tensor_parallel == 1 else init_device_mesh(device.type, (processes,))]
    _FSDP[:] = [AXES[0]] if fsdp else []
    axis = _MESH[0][AXES[1]]
    set_tensor_group(TensorGroup(tensor_parallel, axis.get_local_rank(), axis.get_group()))
    return _MESH[0]


def current_mesh() -> DeviceMesh:
    return _MESH[0]


def forget_mesh() -> None:
    """The run is over."""
    _MESH.clear()
    _ALL.clear()
    turns.forget()
    tensor_parallel.forget()


def is_sharding() -> bool:
    """Whether models are shared out in this run."""
    return bool(_MESH)


def shard(model: Any, offload: bool = False) -> Any:
    """The model, of which each process keeps its part, if this run shares out; all processes call it together.

    offload: weights, gradients and optimizer state stay in the CPU's memory. Raises ZooError for one without blocks.
    """
    if not _MESH:
        return model
    base, device = base_of(model), torch.device(_MESH[0].device_type)
    tensor_parallel.cut(model)
    if _FSDP:
        _share_out(base, offload and device.type != "cpu")
    read_parts(base, torch.device("cpu") if offload else device)
    if not _FSDP:
        base.to(device)
    _begin_passes(base, device)
    return model


def _share_out(base: Any, offload: bool) -> None:
    policy = CPUOffloadPolicy() if offload else OffloadPolicy()
    options: dict[str, Any] = {"reshard_after_forward": True, "offload_policy": policy}
    blocks = blocks_of(base)
    if not blocks:
        raise ZooError(
            f"{type(base).__name__} does not name its blocks (_no_split_modules), so that it cannot be sharded.",
            "Leave out --strategy fsdp.",
        )
    # The inner ones first. What is outside of the blocks is not cut: all processes share it out.
    for module in reversed(blocks):
        fully_shard(module, mesh=_MESH[0][AXES[0]], **options)
    fully_shard(base, mesh=_ALL[0], **options)
    # Which weights have a gradient may differ between the processes, and they reduce them together.
    base.set_reduce_scatter_unused_params(True)


def _begin_passes(base: Any, device: torch.device) -> None:
    base.zoo_pass = lambda work: work()
    if _FSDP:
        register_fsdp_forward_method(base, "zoo_pass")
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    turns.take_part(base, base.zoo_pass, lambda: backbone(base)(input_ids=token, use_cache=False)[0], device)


def blocks_of(base: Any) -> list[torch.nn.Module]:
    """The modules that transformers names as those which must stay whole on a device."""
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def fsdp_modules(model: Any) -> list[FSDPModule]:
    return [module for module in base_of(model).modules() if isinstance(module, FSDPModule)]


# -- tensors -------------------------------------------------------------------------------------------------------


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_part(tensor: Tensor, dim: int | None = None) -> bool:
    """Whether other processes hold the rest of it. dim: as of `whole`."""
    return isinstance(tensor, DTensor) or dim is not None


def whole(tensor: Tensor, dim: int | None = None) -> Tensor:
    """The whole of a tensor, without gradient. All processes call it together, where it is shared out.

    dim: along which its parameter is cut, as of `cut_dims`; None for none.
    """
    complete = tensor.detach()
    if isinstance(tensor, DTensor):
        complete = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    # What was offloaded cannot be exchanged where it is.
    return complete if dim is None else tensor_parallel.joined(complete.to(_MESH[0].device_type), dim)


def whole_shape(parameter: Tensor, dim: int | None) -> list[int]:
    """The shape of the whole of a parameter. dim: as of `whole`."""
    return [size * (tensor_group().size if axis == dim else 1) for axis, size in enumerate(parameter.shape)]


def whole_shapes(parameters: Iterable[Tensor]) -> list[list[int]]:
    dims = cut_dims()
    return [whole_shape(parameter, dims.get(id(parameter))) for parameter in parameters]


def held_apart(parameters: Iterable[Tensor]) -> list[bool]:
    """Whether the processes of a tensor group hold different parts of each parameter."""
    dims = cut_dims()
    return [id(p) in dims or (isinstance(p, DTensor) and p.device_mesh == _ALL[0]) for p in parameters]


class Gathering:
    """Tensors that are to be gathered from all processes, one after the other.

    tensors: what this process holds of them, by name. parameters: which they are values of, by name, where they are no
    parameters themselves. like: as large as the whole ones, without values.
    """

    def __init__(self, tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor] | None = None):
        dims, of = cut_dims(), tensors if parameters is None else parameters
        self.tensors, self._dims = tensors, {name: dims.get(id(of[name])) for name in tensors}
        self.like: Mapping[str, Tensor] = {
            name: torch.empty(whole_shape(tensor, self._dims[name]), dtype=tensor.dtype, device="meta")
            for name, tensor in tensors.items()
        }

    def each(self, names: Iterable[str], keep: bool = True) -> Iterator[Tensor]:
        """The whole tensors of these names, on the CPU; all processes go through the same names.

        keep: this process wants them; else they stay on the device.
        """
        begin_exchange()
        for name in names:
            complete = whole(self.tensors[name], self._dims[name])
            yield complete.cpu() if keep else complete

    def lead(self, names: Iterable[str]) -> Iterator[Tensor]:
        """The same in the first process, where the others `follow`, who need not know the names."""
        return self.each(from_all(list(names))[0])

    def follow(self) -> None:
        """Take part in what the first process gathers."""
        for _ in self.each(from_all(None)[0], keep=False):
            pass

    def at_once(self, names: Iterable[str]) -> dict[str, Tensor]:
        """All of these by name, as `lead`; tensors that layers share, as by embedding and head, stay shared."""
        names = list(names)
        first = {id(self.tensors[name]): name for name in reversed(names)}
        values = dict(zip(first, self.lead(first.values()), strict=True))
        return {name: values[id(self.tensors[name])] for name in names}


def weights_to_gather(model: torch.nn.Module) -> Gathering | None:
    """The weights of a model as its `state_dict` names them; None for one that is not shared out."""
    if not turns.is_shared(model):
        return None
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return Gathering({name: parameters.get(name, value) for name, value in model.state_dict().items()})


def _own_place(tensor: Tensor, dim: int | None) -> tuple[slice, ...]:
    """Which part of the whole of a tensor this process holds. dim: as of `whole`."""
    place = list(own_place(tensor)) if isinstance(tensor, DTensor) else [slice(0, size) for size in tensor.shape]
    if dim is not None:
        before = tensor_group().rank * tensor.shape[dim]
        place[dim] = slice(before + place[dim].start, before + place[dim].stop)
    return tuple(place)


def part_of(tensor: Tensor, dim: int | None = None) -> Part:
    """The part of a tensor that this process holds, and where that is. dim: as of `whole`."""
    offset = tuple(part.start for part in _own_place(tensor, dim))
    return Part(own_part(tensor.detach()), offset, tuple(whole_shape(tensor, dim)))


def parts_of(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Part]:
    """The parts of parameters, by name."""
    dims = cut_dims()
    return {name: part_of(tensor, dims.get(id(tensor))) for name, tensor in tensors}


def part_like(complete: Tensor | Scattered, like: Tensor, dim: int | None = None) -> Tensor:
    """A whole tensor, or one in files, as the parameter `like` is kept: the part of this process, on its device.

    dim: as of `whole`.
    """
    if isinstance(complete, Scattered):
        values = complete.read(*_own_place(like, dim)).to(own_part(like).device)
        return DTensor(values, like._spec, requires_grad=False) if isinstance(like, DTensor) else values
    if dim is not None:
        complete = tensor_parallel.part_of(complete, dim)
    if not isinstance(like, DTensor):
        return complete.to(like.device)
    place = like.to_local().device
    # Without a source nothing is sent: each process cuts its part out.
    return distribute_tensor(complete.to(place), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(module: torch.nn.Module, weights: Mapping[str, Tensor | Scattered]) -> None:
    """Give a module's parameters the whole values of these names; others stay as they are."""
    dims = cut_dims()
    for name, parameter in module.named_parameters():
        if name in weights:
            own_part(parameter).copy_(own_part(part_like(weights[name], parameter, dims.get(id(parameter)))))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The `state_dict` of an optimizer, with the parts that this process holds of what is shared out."""

    def part(parameter: Tensor, dim: int | None, tensor: Tensor) -> Part | Tensor:
        # Moments are shared out as their weights are. A count of steps is not; means of rows and columns are small.
        return part_of(tensor, dim) if tensor.shape == parameter.shape and is_part(parameter, dim) else whole(tensor)

    return _state_mapped(optimizer, optimizer.state_dict(), part)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimizer the state of another one, with whole tensors or those of files."""

    def part(parameter: Tensor, dim: int | None, tensor: Tensor | Scattered) -> Tensor:
        moment = list(tensor.shape) == whole_shape(parameter, dim)
        if isinstance(tensor, Scattered) or moment and is_part(parameter, dim):
            return part_like(tensor, parameter, dim)
        return tensor

    optimizer.load_state_dict(_state_mapped(optimizer, state, part))


def _state_mapped(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], change: Callable[..., Any]
) -> dict[str, Any]:
    """The state with other tensors. change: called with (parameter, dimension of its cut, tensor of its state)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    dims, parts = cut_dims(), dict(state["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in parts:
            parts[number] = _mapped(parts[number], partial(change, parameter, dims.get(id(parameter))))
    return {**state, "state": parts}


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor | Scattered):
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
def complete_gradients(parameters: Iterable[Tensor]) -> None:
    """Exchange those gradients of trained parameters that no backward pass has exchanged.

    What is not shared out is averaged over the shares of the work. In a tensor group, what is not cut is added up
    where each process computes a part of it, and averaged where all compute the same: they stay equal to the last bit.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    partial_ones, group, shares = tensor_parallel.partial(), tensor_group(), _MESH[0][AXES[0]]
    for parameter, apart in zip(trained, held_apart(trained), strict=True):
        if not isinstance(parameter, DTensor) and shares.size() > 1:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad, group=shares.get_group())
            parameter.grad /= shares.size()
        if group.size > 1 and not apart and parameter.grad is not None:
            _add_up(own_part(parameter.grad), group.group)
            if id(parameter) not in partial_ones:
                parameter.grad /= group.size


def _add_up(tensor: Tensor, group: Any) -> None:
    """Over a group, in place, on the device that can exchange it: what was offloaded is elsewhere."""
    moved = tensor.to(_MESH[0].device_type)
    dist.all_reduce(moved, group=group)
    tensor.copy_(moved)


# -- checks ------------------------------------------------------------------------------------------------------------


@relies_on("torch", "With `set_reduce_scatter_unused_params` FSDP gives a weight that was not used a gradient of 0.",
           everywhere=False)  # fmt: skip
def unused_weights_are_reduced() -> None:
    # A run has a group of its own; an older torch is refused by `make_mesh`.
    if dist.is_initialized() or not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        return
    model: Any = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model.set_reduce_scatter_unused_params(True)
        model.first = model[0].forward
        register_fsdp_forward_method(model, "first")
        model.first(torch.ones(1, 2)).sum().backward()
        unused = model[1].weight.grad
        assert unused is not None and not whole(unused).any(), f"it has the gradient {unused}"
    finally:
        dist.destroy_process_group()
