"""The parts of a transformers model: its backbone, its heads, and its configuration."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.tiny import IDS, make_tiny, tiny_model
from zoo.libraries.turns import in_pass
from zoo.libraries.wrappers import base_of
from zoo.numbers import amount

GENERATION = "generation_config.json"


def text_config(model: Any) -> Any:
    """The configuration of the text model; the model's own if it is only a text model."""
    return text_of(model.config)


def text_of(config: Any) -> Any:
    """The part of a configuration that is of the text model."""
    return config.get_text_config(decoder=True)


def heads_of(text: Any) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, and the width of a head. text: of a text model."""
    heads = getattr(text, "num_attention_heads", 1) or 1
    groups = getattr(text, "num_key_value_heads", None) or heads
    return heads, groups, getattr(text, "head_dim", None) or text.hidden_size // heads


def shared_by_heads(model: Any, layers: Sequence[torch.nn.Linear]) -> list[torch.nn.Linear]:
    """Those of the layers that make the keys or values which several heads of queries share; by their shape."""
    text = text_config(base_of(model))
    heads, groups, size = heads_of(text)
    shape = (groups * size, text.hidden_size)
    return [layer for layer in layers if groups < heads and (layer.out_features, layer.in_features) == shape]


def longest_text(model: Any) -> int | None:
    """The maximum number of tokens of the model, None if its configuration does not say."""
    return getattr(text_config(model), "max_position_embeddings", None)


def backbone(model: Any) -> Any:
    """The model without its head."""
    base = base_of(model)
    # Llama 4 has its backbone under another name than its `base_model_prefix` says.
    return getattr(base, "model", base) if base.base_model is base else base.base_model


def last_hidden(model: Any, **given: Any) -> Tensor:
    """The last hidden states of the backbone, [B, L, D]. given: its arguments, without a cache."""
    return in_pass(model, lambda: backbone(model)(**given, use_cache=False).last_hidden_state)


def is_tied(model: Any) -> bool:
    """Whether the configuration of a model says that embedding and head share their weights."""
    return bool(getattr(text_config(base_of(model)), "tie_word_embeddings", False))


def attention_window(model: Any) -> int | None:
    """The smallest attention window of any layer, in tokens, None if every layer sees everything."""
    config = text_config(base_of(model))
    kinds = getattr(config, "layer_types", None)
    if kinds and not any("sliding" in kind or "chunked" in kind for kind in kinds):
        return None
    # sliding_window, attention_chunk_size, window_size of GPT-Neo, attention_window_size of RecurrentGemma.
    sizes = [size for name, size in vars(config).items() if re.search(r"window(_size)?$|attention_chunk_size$", name)]
    return min((size for size in sizes if isinstance(size, int) and size and size is not True), default=None)


def ending_ids(model: Any) -> set[int]:
    """Ids that end an answer according to the model's generation settings, but for those that no token has."""
    said = getattr(getattr(base_of(model), "generation_config", None), "eos_token_id", None)
    ids = set(said) if isinstance(said, list) else set() if said is None else {said}
    rows = len(base_of(model).get_input_embeddings().weight) if ids else 0
    return {number for number in ids if 0 <= number < rows}


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode; every module is put back into the mode it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        # Autocast keeps low-precision copies of the weights until its context ends. Before torch 2.13 it may
        # keep those made here, without a gradient, and a training step in that context would train nothing.
        torch.clear_autocast_cache()


def set_ending_ids(model: Any, ids: Sequence[int], padding: int | None) -> None:
    """Write into a model's generation settings what ends an answer, for every program that generates with it."""
    settings = getattr(base_of(model), "generation_config", None)
    if settings is not None and ids:
        settings.eos_token_id = ids[0] if len(ids) == 1 else list(ids)
        settings.pad_token_id = padding


def save_ending_ids(model: Any, folder: Path) -> None:
    """Write generation_config.json into a folder of adapters, which `save_pretrained` does not do."""
    if (settings := getattr(base_of(model), "generation_config", None)) is not None:
        settings.to_json_file(folder / GENERATION)


def read_ending_ids(model: Any, folder: Path) -> None:
    """Take what ends an answer from a folder of adapters, if it says so."""
    settings = getattr(base_of(model), "generation_config", None)
    if settings is not None and (folder / GENERATION).is_file():
        kept = json.loads((folder / GENERATION).read_text(encoding="utf-8"))
        settings.eos_token_id = kept.get("eos_token_id", settings.eos_token_id)


def silence_dropout(model: Any) -> None:
    """Turn off every dropout of the base model, so that policy and reference start as the same function."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            # Some architectures keep the rate as a plain number: dropout, attention_dropout, layerdrop.
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def recompute_activations(model: Any, adapted: bool, layers: int | None = None) -> None:
    """Keep few activations of a forward pass and recompute the others in the backward pass.

    layers: of the first so many layers alone. Raises ZooError for a model that cannot choose.
    """
    # The older name warns in newer versions of transformers, which have both.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    if adapted:
        model.enable_input_require_grads()
    if layers is not None:
        for layer in _layers_to_choose(model, layers)[layers:]:
            layer.gradient_checkpointing = False


def _layers_to_choose(model: Any, wanted: int) -> Any:
    """The layers of a model, each of which says for itself whether it is recomputed."""
    base = base_of(model)
    count = text_config(base).num_hidden_layers
    if wanted > count:
        raise ZooError(
            f"--checkpoint-layers {wanted}: {type(base).__name__} has {amount(count, 'layer')}.",
            f"Use at most {count}, or leave it out for all of them.",
        )
    for module in base.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            if all(hasattr(layer, "gradient_checkpointing") for layer in module):
                return module
    raise ZooError(f"--checkpoint-layers: {type(base).__name__} recomputes all of its layers or none.", "Leave it out.")


def with_scalar_head(language_model: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A sequence classifier with a new head around the backbone of a language model, whose own head is dropped.

    Raises ZooError if transformers has no classifier for this architecture.
    """
    with importing("transformers"):
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


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on(
    "transformers", "`layer_types` and `sliding_window` give the attention windows of the layers.", everywhere=False
)
def windows_are_in_the_configuration() -> None:
    found = attention_window(make_tiny("Gemma2", sliding_window=4)), attention_window(tiny_model())
    assert found == (4, None), f"a window of 4 and no window are read as {found}"


@relies_on("transformers", "A model takes embeddings as `inputs_embeds` instead of token ids.")
def embeddings_may_be_given() -> None:
    model = tiny_model()
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(IDS)
        same = torch.equal(last_hidden(model, inputs_embeds=embeddings), last_hidden(model, input_ids=IDS))
    assert same, "the backbone's output for them differs"


@relies_on("transformers", "Dropout is a torch module, or a number whose name contains 'drop'.")
def dropout_can_be_silenced() -> None:
    model = make_tiny(attention_dropout=0.9).train()
    silence_dropout(model)
    with torch.no_grad():
        gap = float((last_hidden(model, input_ids=IDS) - last_hidden(model.eval(), input_ids=IDS)).abs().max())
    assert gap == 0, f"a model in training mode differs by {gap:.2g} from itself"


@relies_on("transformers", "Activations can be recomputed in the backward pass, with the same gradients.")
def activations_can_be_recomputed() -> None:
    gradients = []
    for recomputed in (False, True):
        model = make_tiny().train()
        if recomputed:
            recompute_activations(model, adapted=False)
        last_hidden(model, input_ids=IDS).sum().backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad)
    gap = float((gradients[0] - gradients[1]).abs().max())
    assert gap < 1e-4, f"they differ by {gap:.2g}"


@relies_on("transformers", "A sequence classifier has a linear head `score`, its backbone under `base_model_prefix`.")
def a_language_model_becomes_a_scorer() -> None:
    model = make_tiny()
    hidden = last_hidden(model, input_ids=IDS)
    scorer = with_scalar_head(model, torch.float32)
    shape = tuple(scorer.score.weight.shape)
    assert shape == (1, hidden.shape[-1]), f"the head has the shape {shape}"
    with torch.no_grad():
        assert torch.equal(last_hidden(scorer, input_ids=IDS), hidden), "the output of its backbone differs"


@relies_on("transformers", "A model's generation_config has the ids that end an answer as `eos_token_id`.")
def models_say_what_ends_an_answer() -> None:
    found = ending_ids(tiny_model())
    assert found == {1}, f"{found} for a model with eos_token_id 1"
    model = make_tiny()
    set_ending_ids(model, [2, 1], 0)
    with tempfile.TemporaryDirectory() as folder:
        save_ending_ids(model, Path(folder))
        again = type(model.generation_config).from_pretrained(folder)
    assert again.eos_token_id == [2, 1], f"after saving [2, 1] it has {again.eos_token_id}"


@relies_on("transformers", "A configuration's `get_text_config` has hidden_size, num_hidden_layers, vocab_size and "
           "max_position_embeddings.")  # fmt: skip
def configurations_have_their_sizes() -> None:
    config = text_config(tiny_model())
    found = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    assert [*found, longest_text(tiny_model())] == [16, 2, 16, 64], f"{found} and {longest_text(tiny_model())}"
