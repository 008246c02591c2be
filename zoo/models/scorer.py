"""Loading reward models: folders that have a scalar head, and language models that get one."""

from __future__ import annotations

from typing import Any

import torch

from zoo.libraries import adapters
from zoo.libraries.architecture import silence_dropout, with_scalar_head
from zoo.models.loading import _pretrained, load_model, told
from zoo.models.names import Source, check_base, head_in, head_in_config, refuse_head
from zoo.models.scalar import fold_scale, start_head


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
        model = told(source, lambda: adapters.load_on(base, source.path))
    else:
        model = _pretrained("AutoModelForSequenceClassification", source, num_labels=1, **options)
    silence_dropout(model)
    return model.eval()
