"""Models whose matrices stay in their files until it is known which part of them this process keeps.

Such a matrix is a parameter on the meta device, and its module knows where it is stored. Vectors, new weights and what
is in no file have their values at once.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from zoo.libraries.reliance import importing, relies_on, require
from zoo.libraries.tiny import IDS, make_tiny


@dataclass(frozen=True)
class Place:
    """A tensor of a safetensors file, or a part of it: that between `start` and `stop` of a dimension."""

    file: str
    name: str
    dim: int = 0
    start: int = 0
    stop: int | None = None

    def read(self, *part: slice) -> Tensor:
        """It, or the part of each of its dimensions; mapped from the file, which is opened for this alone."""
        own = list(part)
        if self.stop is not None:
            own = own or [slice(None)] * self.dim + [slice(0, self.stop - self.start)]
            own[self.dim] = slice(own[self.dim].start + self.start, own[self.dim].stop + self.start)
        with safe_open(self.file, "pt") as opened:
            return opened.get_slice(self.name)[tuple(own) or ...]


_PLACES: WeakKeyDictionary[torch.nn.Module, dict[str, Place]] = WeakKeyDictionary()
"""Where the matrices of a module are stored, by the names of its parameters."""


def load_stored(load: Callable[[], Any]) -> Any:
    """The model that `load` gives, whose matrices stay in their files; whole where they are stored in another form."""
    require("transformers")
    before = torch.get_rng_state()
    try:
        with _left_in_files() as places:
            model = load()
        if _all_placed(model, places):
            return model
    # What cannot be made of tensors without values fails in many ways; whole, the model is loaded or says why not.
    except Exception:
        pass
    torch.set_rng_state(before)
    return load()


def is_stored(model: torch.nn.Module) -> bool:
    """Whether a model was loaded in this way."""
    return any(module in _PLACES for module in model.modules())


def has_values(model: torch.nn.Module) -> bool:
    """Whether none of a model's weights is still in its file."""
    return not any(map(_is_empty, model.parameters()))


def _is_empty(tensor: Tensor) -> bool:
    return tensor.device.type == "meta"


def read(model: torch.nn.Module, modules: Iterable[torch.nn.Module]) -> None:
    """Give some modules of a model the values of their weights, which may be changed from now on."""
    wanted = {id(p) for module in modules for p in module.parameters(recurse=False) if _is_empty(p)}
    _replace(model, lambda former, place: _parameter(place.read().to(former.dtype, copy=True), former), wanted)
    for module in model.modules():
        places = _PLACES.get(module, {})
        for name in [name for name in places if not _is_empty(getattr(module, name))]:
            del places[name]


def keep_part(module: torch.nn.Module, name: str, dim: int, start: int, stop: int) -> None:
    """Have only a part of a module's weight in its file stand for the weight, if it is still there."""
    places = _PLACES.get(module, {})
    if name in places:
        places[name] = replace(places[name], dim=dim, start=start, stop=stop)


def read_parts(model: torch.nn.Module, device: torch.device) -> None:
    """Give a model that is shared out the values of the part of each weight that this process keeps."""
    _replace(model, lambda former, place: _part(former, place, device))


def initial_values(model: torch.nn.Module, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights of a model by name, those that are stored whole from their files, in the type that the model has."""
    for name, parameter in named:
        module, _, own = name.rpartition(".")
        place = _PLACES.get(model.get_submodule(module), {}).get(own)
        yield name, parameter if place is None else replace(place, stop=None).read().to(parameter.dtype)


@contextlib.contextmanager
def zeros(model: torch.nn.Module) -> Iterator[None]:
    """A context with zeros in the place of matrices that are in their files; they take no memory.

    For forward passes of which only the way counts, and for adapters, which peft puts where the matrices are.
    """
    former = [(module, name, p) for module in model.modules() for name, p in module._parameters.items()
              if p is not None and _is_empty(p)]  # fmt: skip
    _replace_all(model, lambda p: _parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), p))
    try:
        yield
    finally:
        for module, name, parameter in former:
            parameter.requires_grad_(getattr(module, name).requires_grad)
            module._parameters[name] = parameter


def _part(former: torch.nn.Parameter, place: Place, device: torch.device) -> torch.nn.Parameter:
    if not isinstance(former, DTensor):
        return _parameter(place.read().to(device, former.dtype, copy=True), former)
    sharded: Any = former
    where = own_place(sharded)
    values = torch.empty([part.stop - part.start for part in where], dtype=former.dtype, device=device)
    if values.numel():
        values.copy_(place.read(*where))
    return _parameter(DTensor(values, sharded._spec, requires_grad=False), former)


def own_place(tensor: DTensor) -> tuple[slice, ...]:
    """Which part of a tensor this process holds, by dimension."""
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))


def _parameter(values: Tensor, former: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(values, requires_grad=former.requires_grad)


def _replace(
    model: torch.nn.Module, make: Callable[[torch.nn.Parameter, Place], torch.nn.Parameter],
    wanted: set[int] | None = None,
) -> None:  # fmt: skip
    """Replace weights that are in their files. wanted: the ids of some; what modules share stays shared."""
    places = {id(module._parameters[name]): place for module in model.modules()
              for name, place in _PLACES.get(module, {}).items()}  # fmt: skip
    chosen = places.keys() if wanted is None else wanted
    _replace_all(model, lambda former: make(former, places[id(former)]) if id(former) in chosen else former)


def _replace_all(model: torch.nn.Module, make: Callable[[torch.nn.Parameter], torch.nn.Parameter]) -> None:
    made: dict[int, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
    for module in model.modules():
        for name, former in module._parameters.items():
            if former is not None and _is_empty(former):
                if id(former) not in made:
                    made[id(former)] = former, make(former)
                module._parameters[name] = made[id(former)][1]


# -- while transformers loads ------------------------------------------------------------------------------------------


class _Later:
    """What transformers takes for the slice of a file: asked for a matrix, it gives one without values."""

    def __init__(self, place: Place, stored: Any, places: dict[int, tuple[Tensor, Place]]):
        self.place, self.stored, self.places = place, stored, places

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stored, name)

    def __getitem__(self, part: Any) -> Any:
        return self if part is ... else self.stored[part]

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        shape = self.stored.get_shape()
        # A head that gives one number may be multiplied by a gain.
        if len(shape) < 2 or shape[0] == 1:
            return self.stored[...].to(device=device, dtype=dtype, copy=True)
        matrix = torch.empty(shape, dtype=dtype, device="meta")
        self.places[_memory(matrix)] = matrix, self.place
        return matrix


def _memory(tensor: Tensor) -> int:
    """What tensors have in common that are made of the same one."""
    return tensor.untyped_storage()._cdata


@contextlib.contextmanager
def _left_in_files() -> Iterator[dict[int, tuple[Tensor, Place]]]:
    """The places of the matrices that transformers loads in here."""
    with importing("transformers"):
        from transformers import modeling_utils
    places: dict[int, tuple[Tensor, Place]] = {}

    class Opened:
        def __init__(self, file: Any, *args: Any, **options: Any):
            self.file, self.opened = str(file), safe_open(file, *args, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.opened, name)

        def __enter__(self) -> Any:
            self.opened.__enter__()
            return self

        def __exit__(self, *error: Any) -> Any:
            return self.opened.__exit__(*error)

        def get_slice(self, name: str) -> Any:
            return _Later(Place(self.file, name), self.opened.get_slice(name), places)

    own = modeling_utils.safe_open
    modeling_utils.safe_open = Opened  # type: ignore[assignment, misc]
    try:
        yield places
    finally:
        modeling_utils.safe_open = own  # type: ignore[misc]


def _all_placed(model: Any, places: dict[int, tuple[Tensor, Place]]) -> bool:
    """Note where the weights of a loaded model are; whether every tensor without values is one of a file."""
    tied = getattr(model, "all_tied_weights_keys", {})
    if any(model.get_parameter(a) is not model.get_parameter(b) for a, b in tied.items()):
        # Stored twice: they are one only where their values are equal.
        return False
    found = []
    for module in model.modules():
        own = {name: p for name, p in module.named_parameters(recurse=False, remove_duplicate=False) if _is_empty(p)}
        if any(map(_is_empty, module.buffers(recurse=False))):
            return False
        if any(_memory(p) not in places for p in own.values()):
            return False
        if own:
            found.append((module, {name: places[_memory(p)][1] for name, p in own.items()}))
    _PLACES.update(found)
    return True


# -- checks ------------------------------------------------------------------------------------------------------------


@relies_on("transformers", "Weights are read by `safe_open`, whose slices are asked for `[...]` and then `to`.",
           everywhere=False)  # fmt: skip
def weights_can_stay_in_their_files() -> None:
    from zoo.libraries.pretrained import load, save

    model = make_tiny()
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        stored = load_stored(lambda: load("AutoModelForCausalLM", folder, dtype=torch.float32))
        matrices = [name for name, p in stored.named_parameters() if p.is_meta]
        assert len(matrices) == sum(p.ndim == 2 for p in model.parameters()), f"only {matrices} have no values"
        read(stored, stored.modules())
    with torch.no_grad():
        assert torch.equal(stored(input_ids=IDS).logits, model(input_ids=IDS).logits), "the output differs"
