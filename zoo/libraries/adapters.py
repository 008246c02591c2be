"""LoRA by peft: adapters around a model of transformers, and the model inside."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.architecture import with_scalar_head
from zoo.libraries.pretrained import save
from zoo.libraries.reliance import importing, relies_on, require
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import base_of, is_adapted

ADAPTER = "lora_"
"""What the name of an adapter's parameter contains."""


def without_adapters(model: Any) -> contextlib.AbstractContextManager[Any]:
    """The model as it is with its adapters off."""
    return model.disable_adapter()


def frozen_parameters(model: Any) -> list[tuple[str, Tensor]]:
    """Names and values of what is not an adapter's."""
    return [(name, value) for name, value in model.named_parameters() if ADAPTER not in name]


def merged(model: Any) -> Any:
    """The plain model with its adapters added to its weights; the wrapper is used up."""
    return model.merge_and_unload() if is_adapted(model) else model


def merged_copy(model: Any) -> Any:
    """The model itself, or a copy of it with its adapters added to the weights."""
    return merged(copy.deepcopy(model)) if is_adapted(model) else model


def has_virtual_tokens(model: Any) -> bool:
    """Whether it is prompt learning, which puts tokens of its own before every prompt."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def wrap(model: Any, *, rank: int, alpha: float, dropout: float, targets: list[str] | str) -> Any:
    """The model in trainable low-rank adapters. Of a classifier the head is trained and saved too.

    Raises ValueError in peft's words where the targets do not fit.
    """
    require("peft")
    with importing("peft"):
        from peft import LoraConfig, get_peft_model
    task = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    settings: dict[str, Any] = {"lora_alpha": alpha, "lora_dropout": dropout, "target_modules": targets}
    with quiet_peft():
        return get_peft_model(model, LoraConfig(r=rank, task_type=task, **settings))


def base_named_in(path: str) -> tuple[str, str | None]:
    """What a folder of adapters, or a hub name, gives as the model they belong to: (path or name, revision)."""
    with importing("peft"):
        from peft import PeftConfig
    settings = PeftConfig.from_pretrained(path)
    return str(settings.base_model_name_or_path), settings.revision


def set_base_named(model: Any, name: str, revision: str | None) -> None:
    """Make the adapters say what they belong to."""
    for settings in model.peft_config.values():
        settings.base_model_name_or_path, settings.revision = name, revision


def load_on_base(path: str, **options: Any) -> Any:
    """Adapters of a folder on the language model that they name, trainable."""
    require("peft")
    with importing("peft"):
        from peft import AutoPeftModelForCausalLM
    with quiet_peft():
        return AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, **options)


def load_on(base: Any, path: str) -> Any:
    """Adapters of a folder on a model that is there, trainable."""
    require("peft")
    with importing("peft"):
        from peft import PeftModel
    with quiet_peft():
        return PeftModel.from_pretrained(base, path, is_trainable=True)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """peft asks a model for `is_gradient_checkpointing`, which newer versions of transformers warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


# -- checks --------------------------------------------------------------------------------------------------------


def _adapted(scorer: bool = False) -> Any:
    """A tiny model with adapters that change what it computes."""
    model = make_tiny()
    model = with_scalar_head(model, torch.float32) if scorer else model
    with importing("peft"), quiet_peft():
        from peft import LoraConfig, get_peft_model

        task = "SEQ_CLS" if scorer else "CAUSAL_LM"
        model = get_peft_model(model, LoraConfig(r=2, task_type=task, target_modules=["q_proj"]))
        for name, parameter in model.named_parameters():
            if ADAPTER in name:
                torch.nn.init.normal_(parameter)
    return model.eval()


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@relies_on("peft", "Adapters have 'lora_' in their names, alone are trained, and are off in `disable_adapter`.")
def adapters_can_be_switched_off() -> None:
    model, plain = _adapted(), _logits(make_tiny())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(ADAPTER in name for name in trained), f"trained are {', '.join(trained) or 'none'}"
    assert is_adapted(model) and base_of(model) is not model, "the wrapper does not give the model inside"
    assert not torch.equal(_logits(model), plain), "adapters change nothing"
    with without_adapters(model):
        assert torch.equal(_logits(model), plain), "with adapters off the model is another one than before"


@relies_on("peft", "`merge_and_unload` gives a plain model that computes what the adapted one does.")
def adapters_can_be_merged() -> None:
    model = _adapted()
    adapted = _logits(model)
    plain = merged(model)
    gap = float((_logits(plain) - adapted).abs().max())
    assert not is_adapted(plain) and gap < 1e-3, f"it differs by {gap:.2g}"


@relies_on("peft", "Adapters are saved as safetensors without the base, name it, and load on it, trainable.")
def adapters_can_be_saved_and_loaded() -> None:
    model = _adapted()
    with tempfile.TemporaryDirectory() as folder:
        base, adapters = Path(folder) / "base", Path(folder) / "adapters"
        save(make_tiny(), base)
        set_base_named(model, str(base), None)
        with quiet_peft():
            save(model, adapters)
        names = sorted(file.name for file in adapters.iterdir())
        assert "adapter_model.safetensors" in names and "model.safetensors" not in names, f"it wrote {', '.join(names)}"
        assert base_named_in(str(adapters)) == (str(base), None), f"the base is called {base_named_in(str(adapters))}"
        with importing("peft"), quiet_peft():
            from peft import AutoPeftModelForCausalLM

            again = AutoPeftModelForCausalLM.from_pretrained(str(adapters), is_trainable=True)
    assert any(parameter.requires_grad for parameter in again.parameters()), "nothing of it can be trained"
    assert torch.equal(_logits(again.eval()), _logits(model)), "it computes something else than what was saved"


@relies_on("peft", "Of a classifier peft trains and saves the head, too.")
def the_head_of_a_scorer_is_trained() -> None:
    trained = [name for name, parameter in _adapted(scorer=True).named_parameters() if parameter.requires_grad]
    assert any("score" in name for name in trained), f"trained are {', '.join(trained)}"
