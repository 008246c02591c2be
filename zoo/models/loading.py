"""Loading what `zoo.models.names` found: a model, its tokenizer, adapters; and LoRA."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.models.names import Source, check_base


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> Any:
    """The tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = _pretrained(AutoTokenizer, source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: Source, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A model on the CPU with dropout off: a causal language model, or a reward model where the folder holds one.

    An adapter folder is loaded on its base, trainable.
    """
    from transformers import AutoModelForCausalLM

    from zoo.models.scorer import head_of, load_scorer

    if head_of(source) == "scalar":
        return load_scorer(source, dtype, trust_remote_code)
    if source.is_adapter:
        from peft import AutoPeftModelForCausalLM

        check_base(source)
        model = _pretrained(AutoPeftModelForCausalLM, source, dtype=dtype, is_trainable=True)
    else:
        model = _pretrained(AutoModelForCausalLM, source, dtype=dtype, trust_remote_code=trust_remote_code)
    silence_dropout(model)
    return model


def _pretrained(loader: Any, source: Source, **options: Any) -> Any:
    """`from_pretrained` with errors that a person can act on; safetensors only, nothing is unpickled."""
    if "dtype" in options:
        options["use_safetensors"] = True
        _quiet_libraries()
    try:
        with quiet_peft():
            return loader.from_pretrained(source.path, **options)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if source.folder is None:
            raise ZooError(
                f"The model '{source.name}' is not a local folder and cannot be had from the hub: {first}",
                "Check the name, or give the path of a local model folder. Offline, only local folders, models in "
                "the hub's cache, and smollm2-135m work.",
            ) from error
        raise ZooError(f"The model in {source.folder} cannot be loaded: {first}") from error


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """peft asks a model for `is_gradient_checkpointing`, which newer versions of transformers warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def _quiet_libraries() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def silence_dropout(model: Any) -> None:
    """Turn every dropout of the base model off: policy and reference must be the same function at the start."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            # Some architectures keep the rate as a plain number: dropout, attention_dropout, layerdrop.
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def add_lora(model: Any, rank: int, alpha: float, dropout: float, targets: list[str] | str) -> Any:
    """Wrap a model in trainable low-rank adapters; a model that has adapters keeps them."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        return model
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"\w+", targets):
        # peft takes a text for a pattern of whole paths; a lone word is the name of a layer, as in a list.
        targets = [targets]
    options: dict[str, Any] = {"lora_alpha": alpha, "lora_dropout": dropout, "target_modules": targets}
    # For a classifier peft trains and saves the head too.
    settings = LoraConfig(r=rank, task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM", **options)
    try:
        with quiet_peft():
            return get_peft_model(model, settings)
    except ValueError as error:
        linear = sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ZooError(
            f"--lora-targets {targets} does not fit this model: {str(error).splitlines()[0]}",
            f"Its linear layers are called {', '.join(linear)}; all-linear takes all but the head.",
        ) from None


def is_adapted(model: Any) -> bool:
    """Whether the model is wrapped in adapters."""
    return hasattr(model, "disable_adapter")
