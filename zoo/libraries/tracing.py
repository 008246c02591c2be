"""Models without memory: torch's fake tensors have shapes and types and no numbers, and what is live can be counted."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.libraries.architecture import text_config, text_of
from zoo.libraries.pretrained import load
from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.tiny import IDS, make_tiny


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make in here, as long as anything holds them.

    peak: the most at a time. known: tensors that were there before, which do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.bytes = self.peak = 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return output

    def _note(self, storage: Any) -> None:
        if storage not in self._seen:
            size = storage.nbytes()
            self._seen[storage] = size
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.bytes -= size

    def take_peak(self) -> int:
        """The peak until now; from now on another one is looked for."""
        peak, self.peak = self.peak, self.bytes
        return peak


def when_last_layer_is_done(model: Any, then: Any) -> Any:
    """Call `then` in a backward pass when it has passed the last layer of a model; a handle of hooks of torch.

    None for a model whose layers are no list.
    """
    layers = text_config(model).num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == layers]

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(lambda grad: then())

    return lists[0][-1].register_forward_pre_hook(hook, with_kwargs=True) if lists else None


def configuration(folder: Path) -> Any:
    """The configuration of the model in a folder."""
    return load("AutoConfig", folder)


def shortened(config: Any, layers: int) -> Any:
    """A configuration with fewer layers."""
    config = copy.deepcopy(config)
    text = text_of(config)
    whole = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == whole:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return config


def fake_model(config: Any, dtype: torch.dtype, scalar: bool = False) -> Any:
    """A model of fake tensors by its configuration alone, in eval mode. scalar: with a head that gives one number."""
    with importing("transformers"):
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if scalar:
        config = copy.deepcopy(config)
        config.num_labels = 1
    kind = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    with FakeTensorMode(allow_non_fake_inputs=True):
        return kind.from_config(config, dtype=dtype).eval()


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor holds no numbers."""
    return isinstance(tensor, FakeTensor)


class FakeCopies(TorchFunctionMode):
    """A context in which `copy.deepcopy` copies fake tensors; elsewhere it copies numbers that are not there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.Tensor.__deepcopy__ or not isinstance(args[0], FakeTensor):
            return function(*args, **(kwargs or {}))
        original, memo = args
        if id(original) not in memo:
            made = torch.empty_like(original, requires_grad=False)
            is_parameter = isinstance(original, torch.nn.Parameter)
            memo[id(original)] = torch.nn.Parameter(made, original.requires_grad) if is_parameter else made
        return memo[id(original)]


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("torch", "A fake model holds no numbers, computes shapes, and its tensors can be counted.", everywhere=False)
def fake_tensors_are_counted() -> None:
    real = make_tiny()
    for model in (real, fake_model(real.config, torch.float32)):
        live = Live(model.parameters())
        with live:
            loss = model(input_ids=IDS, use_cache=False).logits.sum()
            held = live.bytes
            loss.backward()
        if model is real:
            expected, peak = held, live.peak
    assert (held, live.peak) == (expected, peak), f"{held} and {live.peak} bytes instead of {expected} and {peak}"


@relies_on("torch", "Fake tensors are copied in `FakeCopies`; a copy is a parameter of its own.", everywhere=False)
def fake_tensors_can_be_copied() -> None:
    head = fake_model(make_tiny().config, torch.float32).lm_head
    with FakeCopies():
        made = copy.deepcopy(head).weight
    assert isinstance(made, torch.nn.Parameter) and isinstance(made, FakeTensor), f"it gave {type(made).__name__}"
    assert made is not head.weight and made.shape == head.weight.shape, (
        f"it is the same, or has the shape {list(made.shape)}"
    )
