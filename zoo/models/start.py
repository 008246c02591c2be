"""The model that a run trains: found by its name, loaded, and written after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from zoo.errors import ZooError
from zoo.libraries.adapters import merged, set_base_named
from zoo.libraries.architecture import recompute_activations
from zoo.libraries.pretrained import save
from zoo.libraries.wrappers import base_of, is_adapted
from zoo.models.attention import use_cpu_attention
from zoo.models.devices import choose_accelerator
from zoo.models.loading import add_lora, load_model, load_tokenizer, require_head, scorer_to_train
from zoo.models.names import NotFound, Source, resolve_model, told_of_runs
from zoo.models.precision import weights_dtype
from zoo.models.scalar import is_scorer
from zoo.options.config import TrainConfig
from zoo.paths import replacing
from zoo.runs import Run, find_run, is_run_name

Say = Callable[[str], None]


def resolve_start(name: str, out: str, say: Say) -> Source:
    """The model to start from; the name may be that of a run, or `last`."""
    if is_run_name(name, out):
        name = str(find_run(name, out).path)
    try:
        return resolve_model(name, say)
    except NotFound as error:
        raise told_of_runs(error, name, out) from None


def load(name: str, out: str = "runs") -> tuple[Any, Any]:
    """A model in float32 on the CPU, and its tokenizer: `zoo.load("last")`.

    name: what `--model` takes, runs by their name among them; out: the folder of the runs. Raises ZooError.
    """
    source = resolve_start(name, out, print)
    return load_model(source, torch.float32), load_tokenizer(source)


def require_same_tokens(name: str, source: Source, tokenizer: Any, than: str) -> None:
    """Raises ZooError where a model that is to read token ids of another one has another vocabulary.

    than: whose ids they are, and what cannot be: "the model that is trained, so it cannot be its critic".
    """
    if load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
        raise ZooError(
            f"{name} has other tokens than {than}.", "Name the model that training started from, or one made of it."
        )


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises ZooError where the tokenizer writes ids that the model has no embeddings for."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ZooError(
            f"The tokenizer writes token ids up to {largest}, and the model has embeddings for {rows} tokens only.",
            "They do not belong together: copy the model's own tokenizer into its folder.",
        )


def load_policy(core: TrainConfig, source: Source, precision: str, head: str = "lm") -> Any:
    """The model to train: all of it, or adapters on a frozen base. Adapters it came with are merged first.

    head: "lm" for a language model, "scalar" for a scorer, which a language model becomes by a new head.
    """
    if head == "scalar":
        model = scorer_to_train(source, weights_dtype(precision), core.seed, core.trust_remote_code)
    else:
        require_head(source, head)
        model = load_model(source, weights_dtype(precision), core.trust_remote_code)
    if is_adapted(model):
        model = merged(model).requires_grad_(True)
    if choose_accelerator(core.accelerator) == "cpu":
        use_cpu_attention(model)
    if core.lora:
        model = add_lora(model, core.lora_rank, core.lora_alpha, core.lora_dropout, core.lora_targets)
    if core.gradient_checkpointing:
        recompute_activations(model, adapted=core.lora)
    return model


def export_model(policy: Any, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder (or a peft one for adapters), complete or not at all."""
    try:
        with replacing(folder) as beside:
            save(policy, beside)
            if is_adapted(policy) and is_scorer(policy):
                # Gain and bias of the reward have no place in an adapter's own files.
                base_of(policy).config.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
    except (OSError, SafetensorError) as error:
        raise ZooError(
            f"The model could not be written to {folder}: {error}.", "Free some space and try again."
        ) from error


def name_base(policy: Any, source: Source, run: Run, precision: str, trust_remote_code: bool) -> None:
    """Name the base model in the adapters' files, so that they load from any working folder.

    If the model they were trained on had adapters itself, these are merged and the sum is kept in the run as `base/`.
    """
    if not is_adapted(policy):
        return
    if source.is_adapter:
        base = merged(load_model(source, weights_dtype(precision), trust_remote_code))
        export_model(base, load_tokenizer(source, trust_remote_code), run.path / "base")
        source = Source(source.name, run.path / "base")
    set_base_named(policy, *source.as_base)
