"""LoRA with peft: adapters around a transformers model, and the model inside."""

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

from zoo.libraries.architecture import text_config, with_scalar_head
from zoo.libraries.pretrained import load, save
from zoo.libraries.reliance import importing, relies_on, require
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import base_of, is_adapted

ADAPTER = "lora_"
"""Part of the name of every adapter parameter."""


def without_adapters(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which the adapters of the model are off."""
    return model.disable_adapter()


def frozen_parameters(model: Any) -> list[tuple[str, Tensor]]:
    """Names and values of all parameters that do not belong to an adapter."""
    return [(name, value) for name, value in model.named_parameters() if ADAPTER not in name]


def merged(model: Any) -> Any:
    """The plain model with its adapters merged into its weights; the wrapper cannot be used any more."""
    if not is_adapted(model):
        return model
    _untie(model)
    return model.merge_and_unload()


def _untie(model: Any) -> None:
    """Give embedding and head a weight each where one has an adapter and they share theirs: merged, it changes both."""
    with importing("peft"):
        from peft.tuners.lora import LoraLayer
    base = base_of(model)
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    adapted = [isinstance(layer, LoraLayer) for layer in layers]
    embedding, head = (layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers)
    if head is None or not any(adapted) or embedding.weight is not head.weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    for config in (base.config, text_config(base)):
        config.tie_word_embeddings = False


def merged_copy(model: Any) -> Any:
    """The model itself, or a copy of it with its adapters merged into the weights."""
    return merged(copy.deepcopy(model)) if is_adapted(model) else model


def has_virtual_tokens(model: Any) -> bool:
    """Whether the adapter is prompt learning, which puts virtual tokens before every prompt."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def wrap(model: Any, *, rank: int, alpha: float, dropout: float, targets: list[str] | str) -> Any:
    """The model with trainable low-rank adapters. The head of a classifier is trained and saved too.

    Raises peft's ValueError if the model has no such target modules.
    """
    require("peft")
    with importing("peft"):
        from peft import LoraConfig, get_peft_model
    task = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    settings: dict[str, Any] = {"lora_alpha": alpha, "lora_dropout": dropout, "target_modules": targets}
    with quiet_peft():
        # peft makes its dropout active, in a model that is not trained yet.
        return get_peft_model(model, LoraConfig(r=rank, task_type=task, **settings)).eval()


def base_named_in(path: str) -> tuple[str, str | None]:
    """The base model that a folder of adapters, or a hub name, names: (path or name, revision)."""
    with importing("peft"):
        from peft import PeftConfig
    settings = PeftConfig.from_pretrained(path)
    return str(settings.base_model_name_or_path), settings.revision


def set_base_named(model: Any, name: str, revision: str | None) -> None:
    """Set the name of the base model in the adapters."""
    for settings in model.peft_config.values():
        settings.base_model_name_or_path, settings.revision = name, revision


def load_on_base(path: str, **options: Any) -> Any:
    """The adapters of a folder on the language model that they name, trainable."""
    require("peft")
    with importing("peft"):
        from peft import AutoPeftModelForCausalLM
    with quiet_peft():
        return AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, **options)


def load_on(base: Any, path: str) -> Any:
    """The adapters of a folder on a loaded model, trainable."""
    require("peft")
    with importing("peft"):
        from peft import PeftModel
    with quiet_peft():
        return PeftModel.from_pretrained(base, path, is_trainable=True)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """peft reads a model's `is_gradient_checkpointing`, for which newer versions of transformers warn.

    It also warns of adapters on tied weights, which `merged` sees to.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


# -- checks --------------------------------------------------------------------------------------------------------


def _adapted(scorer: bool = False) -> Any:
    """A tiny model with adapters that change its output."""
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


@relies_on("peft", "Only adapters are trained; they have 'lora_' in their names and are off in `disable_adapter`.")
def adapters_can_be_switched_off() -> None:
    model, plain = _adapted(), _logits(make_tiny())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(ADAPTER in name for name in trained), (
        f"the trained parameters are {', '.join(trained) or 'none'}"
    )
    assert is_adapted(model) and base_of(model) is not model, "the wrapper does not give the model inside"
    assert not torch.equal(_logits(model), plain), "adapters change nothing"
    with without_adapters(model):
        assert torch.equal(_logits(model), plain), "with adapters off the model differs from before"


@relies_on("peft", "`merge_and_unload` gives a plain model with the same output as the adapted one.")
def adapters_can_be_merged() -> None:
    model = _adapted()
    adapted = _logits(model)
    plain = merged(model)
    gap = float((_logits(plain) - adapted).abs().max())
    assert not is_adapted(plain) and gap < 1e-3, f"it differs by {gap:.2g}"


@relies_on(
    "peft", "An adapter on tied embeddings is merged into the embedding alone once head and embedding are apart."
)
def adapters_on_tied_embeddings_can_be_merged() -> None:
    with importing("peft"), quiet_peft():
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(make_tiny(tie_word_embeddings=True), LoraConfig(r=2, target_modules=["embed_tokens"]))
    for name, parameter in model.named_parameters():
        if ADAPTER in name:
            torch.nn.init.normal_(parameter)
    adapted = _logits(model.eval())
    with tempfile.TemporaryDirectory() as folder:
        save(merged(model), Path(folder))
        again = load("AutoModelForCausalLM", folder, dtype=torch.float32)
    gap = float((_logits(again) - adapted).abs().max())
    assert gap < 1e-3, f"the folder of the merged model differs by {gap:.2g}"


@relies_on("peft", "Adapters are saved as safetensors without their base model, name it, and load on it, trainable.")
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
    assert any(parameter.requires_grad for parameter in again.parameters()), "no parameter of it is trainable"
    assert torch.equal(_logits(again.eval()), _logits(model)), "its output differs from that of the saved model"


@relies_on("peft", "peft also trains and saves the head of a classifier.")
def the_head_of_a_scorer_is_trained() -> None:
    trained = [name for name, parameter in _adapted(scorer=True).named_parameters() if parameter.requires_grad]
    assert any("score" in name for name in trained), f"the trained parameters are {', '.join(trained)}"
