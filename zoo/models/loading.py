"""Loading what `zoo.models.names` found: a model, its tokenizer, adapters; and LoRA."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries import adapters, pretrained
from zoo.libraries.architecture import silence_dropout
from zoo.models.names import Source, check_base


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> Any:
    """The tokenizer, with a padding token."""
    tokenizer = _pretrained("AutoTokenizer", source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: Source, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A model on the CPU with dropout off: a causal language model, or a reward model where the folder holds one.

    An adapter folder is loaded on its base, trainable.
    """
    from zoo.models.scorer import head_of, load_scorer

    if head_of(source) == "scalar":
        return load_scorer(source, dtype, trust_remote_code)
    if source.is_adapter:
        check_base(source)
        pretrained.quiet()
        model = told(source, lambda: adapters.load_on_base(source.path, dtype=dtype, use_safetensors=True))
    else:
        model = _pretrained("AutoModelForCausalLM", source, dtype=dtype, trust_remote_code=trust_remote_code)
    silence_dropout(model)
    return model


def _pretrained(kind: str, source: Source, **options: Any) -> Any:
    return told(source, lambda: pretrained.load(kind, source.path, **options))


def told(source: Source, load: Callable[[], Any]) -> Any:
    """What `load` gives; what it raises becomes an error that a person can act on."""
    try:
        return load()
    except ZooError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if source.folder is None:
            raise ZooError(
                f"The model '{source.name}' is not a local folder and cannot be had from the hub: {first}",
                "Check the name, or give the path of a local model folder. Offline, only local folders, models in "
                "the hub's cache, and smollm2-135m work.",
            ) from error
        raise ZooError(f"The model in {source.folder} cannot be loaded: {first}") from error




def add_lora(model: Any, rank: int, alpha: float, dropout: float, targets: list[str] | str) -> Any:
    """Wrap a model in trainable low-rank adapters; a model that has adapters keeps them."""
    if adapters.is_adapted(model):
        return model
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"\w+", targets):
        # peft takes a text for a pattern of whole paths; a lone word is the name of a layer, as in a list.
        targets = [targets]
    try:
        return adapters.wrap(model, rank=rank, alpha=alpha, dropout=dropout, targets=targets)
    except ValueError as error:
        linear = sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ZooError(
            f"--lora-targets {targets} does not fit this model: {str(error).splitlines()[0]}",
            f"Its linear layers are called {', '.join(linear)}; all-linear takes all but the head.",
        ) from None
