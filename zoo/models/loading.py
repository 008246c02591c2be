"""Loading what `zoo.models.names` found: a language model or reward model, its tokenizer, adapters; and LoRA."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries import adapters, pretrained
from zoo.libraries.architecture import silence_dropout, with_scalar_head
from zoo.libraries.wrappers import is_adapted
from zoo.models.names import Source, check_base, head_in, head_in_config, refuse_head
from zoo.models.scalar import fold_scale, start_head


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
    if head_of(source) == "scalar":
        return load_scorer(source, dtype, trust_remote_code)
    if source.is_adapter:
        check_base(source)
        pretrained.quiet()
        model = _told(source, lambda: adapters.load_on_base(source.path, dtype=dtype, use_safetensors=True))
    else:
        model = _pretrained("AutoModelForCausalLM", source, dtype=dtype, trust_remote_code=trust_remote_code)
    silence_dropout(model)
    return model


def _pretrained(kind: str, source: Source, **options: Any) -> Any:
    return _told(source, lambda: pretrained.load(kind, source.path, **options))


def _told(source: Source, load: Callable[[], Any]) -> Any:
    """The result of `load`; its errors become ones that a user can act on."""
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


def head_of(source: Source) -> str:
    """What the configuration says a model is: a reward model ("scalar") or a language model ("lm")."""
    if source.folder is not None:
        return head_in(source.folder)
    return head_in_config(_pretrained("AutoConfig", source).to_dict())


def require_head(source: Source, head: str) -> None:
    """Raises ZooError for a model of the other sort."""
    refuse_head(source.name, head_of(source), head)


def scorer_to_train(source: Source, dtype: torch.dtype, seed: int, trust_remote_code: bool = False) -> Any:
    """A model with a scalar head: its own, or a new one drawn with `seed` on a language model's backbone."""
    if head_of(source) == "scalar":
        model = load_scorer(source, dtype, trust_remote_code)
        fold_scale(model)
        return model
    language_model = load_model(source, dtype, trust_remote_code)
    if source.is_adapter:
        language_model = adapters.merged(language_model)
    model = with_scalar_head(language_model, dtype, trust_remote_code)
    start_head(model, seed)
    return model.requires_grad_(True)


def load_scorer(source: Source, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A reward model with the head, gain and bias it was saved with; an adapter folder on its base, trainable."""
    require_head(source, "scalar")
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if source.is_adapter:
        check_base(source)
        name, options["revision"] = adapters.base_named_in(source.path)
        # The adapter's folder has the configuration with the number of outputs, the padding, gain and bias.
        options["config"] = _pretrained("AutoConfig", source)
        base = _pretrained("AutoModelForSequenceClassification", Source(name, None), **options)
        model = _told(source, lambda: adapters.load_on(base, source.path))
    else:
        model = _pretrained("AutoModelForSequenceClassification", source, num_labels=1, **options)
    silence_dropout(model)
    return model.eval()


def add_lora(model: Any, rank: int, alpha: float, dropout: float, targets: list[str] | str) -> Any:
    """Wrap a model in trainable low-rank adapters; a model that has adapters keeps them."""
    if is_adapted(model):
        return model
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"\w+", targets):
        # peft reads a text as a pattern of whole paths; a single word is meant as a layer's name, as in a list.
        targets = [targets]
    try:
        return adapters.wrap(model, rank=rank, alpha=alpha, dropout=dropout, targets=targets)
    except ValueError as error:
        linear = sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ZooError(
            f"--lora-targets {targets} does not fit this model: {str(error).splitlines()[0]}",
            f"Its linear layers are called {', '.join(linear)}; all-linear takes all but the head, and experts the "
            "weights of experts.",
        ) from None
