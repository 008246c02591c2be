"""Forward passes of models whose weights are shared out among the processes: every process makes every pass.

A pass gathers the weights of one block after the other from all processes, so that none can make it alone. Before each
pass the processes exchange which model they want to run, and whether with a gradient; the first of these is run by
all of them. Those that wanted it compute, the others run a single token: an idle pass. A process that has nothing more
to compute `arrive`s, and helps the others with idle passes until all have arrived. Every other exchange between
processes begins with that, so that an algorithm may run as many passes in one process as it likes.

The passes with a gradient are remembered: each of them has a backward pass, which all processes must make too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from zoo import processes
from zoo.libraries.wrappers import base_of

ARRIVED = 2**31 - 1
"""Said by a process that wants no pass."""
NUMBERS = count()


@dataclass
class Shared:
    """A model whose weights are shared out.

    number: the same in all processes, another one while it has the weights of a `Variant`; enter: runs a function as a
    forward pass of the model; token: runs the backbone on one token. entered: a pass is being made.
    """

    number: int
    enter: Callable[[Callable[[], Any]], Any]
    token: Callable[[], Any]
    device: torch.device
    entered: bool = False


class Loader(Protocol):
    """Loads its model when it is first needed."""

    @property
    def model(self) -> Any: ...


class Variant(Protocol):
    """Other weights of a model. swap: gives it these, in this process, or its own ones back."""

    model: Any

    def swap(self) -> None: ...


_SHARED: WeakKeyDictionary[torch.nn.Module, Shared] = WeakKeyDictionary()
_MODELS: WeakValueDictionary[int, torch.nn.Module] = WeakValueDictionary()
_LOADERS: WeakValueDictionary[int, Loader] = WeakValueDictionary()
_VARIANTS: WeakValueDictionary[int, Variant] = WeakValueDictionary()
_SEAT: list[int] = []
"""The number of the model that is being loaded."""
_OUTPUTS: list[Tensor] = []
"""Of the passes with a gradient since the last `take_outputs`."""


def take_part(base: torch.nn.Module, enter: Callable[..., Any], token: Callable[[], Any], device: torch.device) -> None:
    """From now on the passes of this model are made by all processes together."""
    shared = Shared(_SEAT[-1] if _SEAT else next(NUMBERS), enter, token, device)
    _SHARED[base], _MODELS[shared.number] = shared, base
    processes.before_exchanges(arrive)


def keep_seat(loader: Loader) -> int:
    """The number of a model that each process loads when it is needed."""
    number = next(NUMBERS)
    _LOADERS[number] = loader
    return number


@contextlib.contextmanager
def seat(number: int) -> Iterator[None]:
    """A model that is shared out in here has this number."""
    _SEAT.append(number)
    try:
        yield
    finally:
        _SEAT.pop()


def add_variant(variant: Variant) -> int:
    """The number of other weights of a model."""
    number = next(NUMBERS)
    _VARIANTS[number] = variant
    return number


@contextlib.contextmanager
def as_variant(number: int) -> Iterator[None]:
    """The model has these weights in here; a pass of it is none of the model with its own ones."""
    variant = _VARIANTS[number]
    shared = _SHARED.get(base_of(variant.model))
    own = shared.number if shared is not None else 0
    variant.swap()
    if shared is not None:
        shared.number = number
    try:
        yield
    finally:
        if shared is not None:
            shared.number = own
        variant.swap()


def is_shared(model: Any) -> bool:
    """Whether the weights of a model are shared out among the processes."""
    return base_of(model) in _SHARED


def in_pass(model: Any, work: Callable[[], Any]) -> Any:
    """What `work` gives, which is tensors in tuples; inside of it the weights of a shared model can be used.

    It must run the backbone once. For a model that is not shared it is simply called.
    """
    shared = _SHARED.get(base_of(model))
    if shared is None or shared.entered:
        return work()
    _wait_for_turn(shared)
    return _entered(shared, work)


def caller(model: Any) -> Callable[..., Any]:
    """Calls the model; inside of a pass, without beginning another one."""
    return base_of(model).forward if is_shared(model) else model


def _alone(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor._is_view() else tensor


def _entered(shared: Shared, work: Callable[[], Any]) -> Any:
    shared.entered = True
    try:
        # What FSDP returns is no view, which a change in place would cut off from its hook.
        result = shared.enter(lambda: tree_map_only(Tensor, _alone, work()))
    finally:
        shared.entered = False
    if torch.is_grad_enabled():
        _OUTPUTS.extend(leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor) and leaf.requires_grad)
    return result


def _wait_for_turn(shared: Shared) -> None:
    mine = 2 * shared.number + torch.is_grad_enabled()
    while (chosen := _first(mine, shared.device)) != mine:
        _idle(chosen)


def arrive() -> None:
    """Wait until no process wants to make a pass, and help those that do."""
    shared = next(iter(_SHARED.values()), None)
    while shared is not None and (chosen := _first(ARRIVED, shared.device)) != ARRIVED:
        _idle(chosen)


def _first(mine: int, device: torch.device) -> int:
    """The smallest number that any process says."""
    number = torch.tensor(mine, dtype=torch.int64, device=device)
    dist.all_reduce(number, dist.ReduceOp.MIN)
    return int(number)


def _idle(chosen: int) -> None:
    number, has_gradient = divmod(chosen, 2)
    shared = _shared_of(number)
    others = _VARIANTS[max(number, shared.number)] if number != shared.number else None
    if others is not None:
        others.swap()
    with torch.set_grad_enabled(bool(has_gradient)):
        _entered(shared, shared.token)
    if others is not None:
        others.swap()


def _shared_of(number: int) -> Shared:
    """What is shared under a number; loaded first where another process needs it and this one has not so far."""
    if number in _VARIANTS:
        return _SHARED[base_of(_VARIANTS[number].model)]
    if number not in _MODELS:
        assert _LOADERS[number].model is not None
    return _SHARED[_MODELS[number]]


def take_outputs() -> Tensor | None:
    """0, with a gradient of 0 for every pass with a gradient since the last call; None without any."""
    outputs = list(_OUTPUTS)
    _OUTPUTS.clear()
    zeros = [torch.nan_to_num(output.float(), 0.0, 0.0, 0.0).sum() * 0.0 for output in outputs]
    return sum(zeros[1:], zeros[0]) if zeros else None


def forget() -> None:
    """No model is shared any more."""
    _SHARED.clear()
    _LOADERS.clear()
    _VARIANTS.clear()
    _OUTPUTS.clear()
