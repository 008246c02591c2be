"""peft: a second adapter, frozen, beside the trained one, for a policy that does not start at its bare base.

It holds what the trained adapter was when training began, so that the model can be what it was then.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from zoo.libraries.quiet import quiet_peft
from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.tiny import IDS, make_tiny

TRAINED, START = "default", "start"
"""Names of the two."""


def has_start(model: Any) -> bool:
    """Whether there is a second adapter."""
    return START in getattr(model, "peft_config", {})


@contextlib.contextmanager
def at_start(model: Any) -> Iterator[None]:
    """A context in which the model computes what it did when training began."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not has_start(model):
        with model.disable_adapter():
            yield
        return
    try:
        model.set_adapter(START)
        train_only(model, [])
        yield
    finally:
        model.set_adapter(TRAINED)
        train_only(model, trained)


def train_only(model: Any, trained: list[torch.nn.Parameter]) -> None:
    """Let just these parameters of a model be trained: peft changes that when it changes adapters."""
    wanted = {id(parameter) for parameter in trained}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


def continued(model: Any, dropout: float = 0.0) -> Any:
    """A model whose adapters are trained further: those it came with are kept, frozen, as its start.

    dropout: of the trained ones. They are LoRA.
    """
    with importing("peft"):
        from peft.tuners.lora import LoraLayer
    model.peft_config[TRAINED].init_lora_weights = True
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout[TRAINED] = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
    add_copy(model)
    return model


@torch.no_grad()
def add_copy(model: Any, label: str = START, whole: bool = True) -> None:
    """Add a frozen copy of the trained adapter, which is not active. whole: also of what is no adapter of a layer."""
    with importing("peft"):
        from peft import PeftModel
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = copy.deepcopy(model.peft_config[TRAINED])
    settings.inference_mode = True
    if not whole:
        settings.modules_to_save = settings.trainable_token_indices = None
    with quiet_peft(), torch.random.fork_rng(devices=[]):
        PeftModel.add_adapter(model, label, settings)
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        if f".{label}" in name:
            parameter.copy_(named[name.replace(f".{label}", f".{TRAINED}")])
    model.set_adapter(TRAINED)
    train_only(model, trained)


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("peft", "A second adapter can be added, and one of two is used at a time.", everywhere=False)
def two_adapters_take_turns() -> None:
    with importing("peft"), quiet_peft():
        from peft import LoraConfig, get_peft_model

        model: Any = get_peft_model(
            make_tiny(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
        )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        before = model.eval()(input_ids=IDS).logits
        add_copy(model)
        assert torch.equal(model(input_ids=IDS).logits, before), "with a second adapter the model differs"
        for parameter in model.parameters():
            parameter.add_(1) if parameter.requires_grad else None
        assert not torch.equal(model(input_ids=IDS).logits, before), "the first adapter changes nothing"
        with at_start(model):
            assert torch.equal(model(input_ids=IDS).logits, before), "with the second adapter the model differs"
    now = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert now == trained, f"{', '.join(sorted({*now} ^ {*trained}))} changed whether it is trained"
