"""Loading reward models: folders that have a scalar head, and language models that get one."""

from __future__ import annotations

import json
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries import adapters
from zoo.libraries.architecture import silence_dropout, with_scalar_head
from zoo.models.loading import Source, _pretrained, check_base, load_model, told
from zoo.models.scalar import fold_scale, start_head


def head_of(source: Source) -> str:
    """What the configuration says a model is: a reward model ("scalar") or a language model ("lm")."""
    config, adapter = _configuration(source)
    if adapter:
        return "scalar" if adapter.get("task_type") == "SEQ_CLS" else "lm"
    kinds = config.get("architectures") or []
    return "scalar" if any(kind.endswith("ForSequenceClassification") for kind in kinds) else "lm"


def _configuration(source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and adapter_config.json; empty where there is none."""
    if source.folder is None:
        return _pretrained("AutoConfig", source).to_dict(), {}
    files = [source.folder / name for name in ("config.json", "adapter_config.json")]
    config, adapter = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in files)
    return config, adapter


def require_head(source: Source, head: str) -> None:
    """Raises ZooError for a model of the other sort."""
    if head_of(source) == head:
        return
    if head == "lm":
        raise ZooError(
            f"{source.name} is a reward model: it scores answers and writes none.",
            f"Use it as --reward {source.name}, or name a language model here.",
        )
    raise ZooError(
        f"{source.name} is a language model, not a reward model.",
        "`zoo algos` tells which algorithms train reward models; give the run of one.",
    )


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
