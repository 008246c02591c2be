"""Loading reward models: folders that have a scalar head, and language models that get one."""

from __future__ import annotations

import copy
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.models.loading import _pretrained, load_model, quiet_peft, silence_dropout
from zoo.models.names import Source, check_base, head_in, head_in_config, refuse_head
from zoo.models.scalar import fold_scale, start_head


def head_of(source: Source) -> str:
    """What the configuration says a model is: a reward model ("scalar") or a language model ("lm")."""
    if source.folder is not None:
        return head_in(source.folder)
    from transformers import AutoConfig

    return head_in_config(_pretrained(AutoConfig, source).to_dict())


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
        language_model = language_model.merge_and_unload()
    model = _with_new_head(language_model, dtype, trust_remote_code)
    start_head(model, seed)
    return model.requires_grad_(True)


def _with_new_head(language_model: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """A sequence classifier around the backbone of a language model, whose own head is dropped."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(language_model.config)
    config.num_labels = 1
    try:
        # On the meta device nothing is allocated: every tensor of this model is replaced below.
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError:
        model = None
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        kind = type(language_model).__name__
        raise ZooError(f"transformers has no scalar head for {kind}.", "Start from a model of another architecture.")
    setattr(model, model.base_model_prefix, language_model.base_model)
    model.score = torch.nn.Linear(model.score.in_features, 1, bias=model.score.bias is not None, dtype=dtype)
    model.config.architectures = [type(model).__name__]
    return model.eval()


def load_scorer(source: Source, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A reward model with the head, gain and bias it was saved with; an adapter folder on its base, trainable."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    require_head(source, "scalar")
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if source.is_adapter:
        from peft import PeftConfig, PeftModel

        check_base(source)
        settings = PeftConfig.from_pretrained(source.path)
        # The adapter's folder has the configuration with the number of outputs, the padding, gain and bias.
        options["config"] = AutoConfig.from_pretrained(source.path)
        options["revision"] = settings.revision
        base_source = Source(settings.base_model_name_or_path, None)
        base = _pretrained(AutoModelForSequenceClassification, base_source, **options)
        with quiet_peft():
            model = PeftModel.from_pretrained(base, source.path, is_trainable=True)
    else:
        model = _pretrained(AutoModelForSequenceClassification, source, num_labels=1, **options)
    silence_dropout(model)
    return model.eval()
