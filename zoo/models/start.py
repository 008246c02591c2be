"""The model that a run trains: found by its name, loaded, and written after training; or made of a checkpoint.

A checkpoint holds the trained weights alone. On the first use they are put into the model that training started from,
and the result is kept in zoo's cache as a folder like a run's `model/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from zoo.cards import described
from zoo.contract.plugin_files import is_file_name
from zoo.data.encoding.named import listed, template_args
from zoo.data.encoding.new_tokens import NewTokens
from zoo.errors import ZooError, in_words
from zoo.libraries.adapters import merged, set_base_named
from zoo.libraries.architecture import ending_ids, recompute_activations, save_ending_ids, set_ending_ids
from zoo.libraries.pretrained import Gathered, save
from zoo.libraries.scattered import WHOLE, weights_in
from zoo.libraries.second_adapter import continued, has_start
from zoo.libraries.sharding import is_sharding
from zoo.libraries.wrappers import base_of, is_adapted
from zoo.models.attention import use_cpu_attention
from zoo.models.card import FILE as CARD
from zoo.models.devices import choose_accelerator
from zoo.models.experts import freeze_routers
from zoo.models.facts import check_going_on
from zoo.models.loading import (
    add_lora,
    load_model,
    load_template,
    load_tokenizer,
    require_head,
    rows_for,
    scorer_to_train,
)
from zoo.models.names import NotFound, Source, find_checkpoint, kept_model, resolve_model, told_of_runs
from zoo.models.precision import round_frozen, weights_dtype
from zoo.models.scalar import choose_padding, is_scorer, set_unit
from zoo.models.vocabulary import START_HINT, other_tokens
from zoo.options.checks import names_in
from zoo.options.config import TrainConfig
from zoo.options.fields import build
from zoo.paths import replacing
from zoo.randomness import restore_rng, rng_state
from zoo.runs import Run, find_run, is_run_name, own_template, split_checkpoint

Say = Callable[[str], None]
TRIES = 3
"""`last` may be removed by its run while it is read; then there is a newer one."""
NO_TOKENS = NewTokens()
POLICY = "policy."
"""The beginning of the policy's names in a checkpoint; a critic's weights are left out."""


def resolve_start(name: str, out: str, say: Say) -> Source:
    """The model to start from; the name may be that of a run, or `last`, or a run's checkpoint: `last@step-200`."""
    if split_checkpoint(name)[1]:
        return _of_checkpoint(name, out, say)
    if is_run_name(name, out):
        name = str(find_run(name, out).path)
    try:
        return resolve_model(name, say)
    except NotFound as error:
        raise told_of_runs(error, name, out) from None


@in_words
def load(name: str, out: str = "runs") -> tuple[Any, Any]:
    """A model in float32 on the CPU, and its tokenizer: `zoo.load("last")`.

    name: what `--model` takes, runs by their name among them; out: the folder of the runs. Raises ZooError.
    """
    source = resolve_start(name, out, print)
    return load_model(source, torch.float32), load_tokenizer(source)


def require_same_tokens(
    name: str, source: Source, tokenizer: Any, than: str, new: NewTokens = NO_TOKENS,
    hint: str = START_HINT,
) -> NewTokens:  # fmt: skip
    """Raises ZooError where a model that is to read token ids of another one has another vocabulary.

    than: whose ids they are, and what cannot be: "the model that is trained, so it cannot be its critic"; new: tokens
    that the other one was given; hint: what to do. Returns what this one lacks of them.
    """
    own = load_tokenizer(source, new_tokens=new.named)
    given = new.given_to(own)
    if (ours := own.get_vocab()) != (theirs := tokenizer.get_vocab()):
        raise other_tokens(name, len(ours), len(theirs), than, hint)
    return given


def load_policy(
    core: TrainConfig, source: Source, precision: str, head: str = "lm", new: NewTokens = NO_TOKENS,
    in_files: bool = False,
) -> Any:  # fmt: skip
    """The model to train: all of it, or adapters on a frozen base. Adapters it came with are merged first, or go on.

    head: "lm" for a language model, "scalar" for a scorer, which a language model becomes by a new head; new: tokens
    that get rows, which are trained under LoRA too; in_files: as of `load_model`.
    """
    goes_on = core.lora and core.lora_continue
    if goes_on:
        check_going_on(core, source, head, bool(new.added or new.asked))
    # What is frozen is rounded as it is read. dora and pissa look at matrices before.
    looks = core.lora and any(kind in core.lora_kind for kind in ("dora", "pissa"))
    in_files = (in_files or (core.lora and not is_sharding())) and not looks
    if head == "scalar":
        model = scorer_to_train(source, weights_dtype(precision), core.seed, core.trust_remote_code, in_files)
    else:
        require_head(source, head)
        model = load_model(source, weights_dtype(precision), core.trust_remote_code, in_files)
    if goes_on:
        model = continued(model, core.lora_dropout)
    elif is_adapted(model):
        model = merged(model).requires_grad_(True)
    tokens = [] if goes_on else rows_for(model, new)
    if choose_accelerator(core.accelerator) == "cpu":
        use_cpu_attention(model)
    model = with_trained(model, core, core.lora_rank, tokens)
    if core.lora:
        round_frozen(model, precision, core.frozen_dtype)
    if core.gradient_checkpointing:
        recompute_activations(model, core.lora, core.checkpoint_layers)
    return model


def with_trained(model: Any, core: TrainConfig, rank: int, tokens: Sequence[int] = ()) -> Any:
    """The model with adapters if the run has them, frozen but for what is trained. tokens: as of `add_lora`.

    Raises ZooError for options that do not fit the model.
    """
    if core.lora:
        model = add_lora(
            model, rank, core.lora_alpha, core.lora_dropout, core.lora_targets, tokens, core.lora_kind,
            names_in(core.train_modules),
        )  # fmt: skip
    if core.freeze_routers:
        freeze_routers(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ZooError(
            "Nothing is left to train: --freeze-routers freezes the routers, and --lora-targets names nothing else.",
            "Leave out --freeze-routers, or add other layers: --lora-targets all-linear.",
        )
    return model


def export_model(
    policy: Any, tokenizer: Any, folder: Path, ends: Sequence[int] = (), weights: Gathered | None = None
) -> None:
    """Write a Hugging Face folder (or a peft one for adapters), complete or not at all.

    ends: ids that end an answer, for every program that generates with the model; none for what it says itself;
    weights: those of a model that is shared out.
    """
    set_ending_ids(policy, ends, tokenizer.pad_token_id)
    try:
        with replacing(folder) as beside:
            save(policy, beside, weights)
            # What peft writes there is empty, and names folders of this machine.
            (beside / CARD).unlink(missing_ok=True)
            if is_adapted(policy):
                save_ending_ids(policy, beside)
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
    if has_start(policy):
        # Its adapters name their base already.
        return
    if source.is_adapter:
        base = merged(load_model(source, weights_dtype(precision), trust_remote_code))
        export_model(base, load_tokenizer(source, trust_remote_code), run.path / "base")
        source = Source(source.name, run.path / "base")
    set_base_named(policy, *source.as_base)


# -- a checkpoint as a model ---------------------------------------------------------------------------------------


def _of_checkpoint(name: str, out: str, say: Say) -> Source:
    """The model that a checkpoint holds. Raises ZooError for one that is not there, is damaged or does not fit."""
    for _ in range(TRIES):
        run, checkpoint = find_checkpoint(name, out)
        folder = kept_model(checkpoint)
        try:
            if not folder.is_dir():
                say(f"Making a model of {run.name}@{checkpoint.name} (once; kept in {folder}).")
                _make(run, _weights(checkpoint), folder, out, say)
            return Source(f"{run.path}@{checkpoint.name}", folder)
        except FileNotFoundError:
            continue
    raise ZooError(f"The checkpoint {checkpoint} was removed while it was read.", f"Type {run.typed}@last again.")


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    try:
        named = weights_in(checkpoint).items()
        return {name.removeprefix(POLICY): value.read() for name, value in named if name.startswith(POLICY)}
    except (SafetensorError, ValueError, TypeError) as error:
        whole = checkpoint / WHOLE
        damaged = f"{whole} is" if whole.is_file() else f"A part of the weights in {checkpoint} is"
        raise ZooError(f"{damaged} damaged: {error}.", "Name another one.") from None


def _make(run: Run, weights: dict[str, Tensor], folder: Path, out: str, say: Say) -> None:
    """Write the folder of a model. The random numbers of whoever asks are drawn as if nothing had been made."""
    before = rng_state()
    try:
        core = _options(run)
        source = resolve_start(core.model, out, say)
        head = "scalar" if any("score" in name.split(".") for name in weights) else "lm"
        precision = "bf16-true" if torch.bfloat16 in {value.dtype for value in weights.values()} else "32-true"
        template = load_template(
            source, own_template(run, core.template), new_tokens=listed(core.new_tokens),
            args=template_args(core.template_args),
        )  # fmt: skip
        policy = load_policy(core, source, precision, head, template.new)
        _fill(policy, weights, run)
        template.eos_ids |= ending_ids(policy)
        if is_scorer(policy):
            set_unit(policy, "step" if _scores_steps(str(run.config["algo"])) else "answer")
            choose_padding(policy, template.tokenizer, template.eos_ids)
        name_base(policy, source, Run(folder.with_name(f"{folder.name}-base")), precision, False)
        export_model(policy, template.trained_tokenizer(), folder, template.ends)
    finally:
        restore_rng(before)


def _scores_steps(algo: str) -> bool:
    """Whether an algorithm scores the steps of an answer. A file of a stranger's run is not asked."""
    return not is_file_name(algo) and "stepwise" in described(algo)[1].kinds()


def _options(run: Run) -> TrainConfig:
    """The run's options of the core, on this machine's devices. Code that comes with a model is not run."""
    known = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in run.config.items() if name in known}
    core = build(TrainConfig, given, what="a run", where=dict.fromkeys(given, str(run.path / "run.yaml")))
    return replace(core, trust_remote_code=False, gradient_checkpointing=False)


def _fill(policy: Any, weights: dict[str, Tensor], run: Run) -> None:
    """Raises ZooError where the weights are not those that the run trains."""
    trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    wrong = sorted(trained.keys() ^ weights.keys())
    wrong += [name for name in trained.keys() & weights.keys() if trained[name].shape != weights[name].shape]
    if wrong:
        raise ZooError(
            f"The checkpoint does not fit the model that {run.name} started from: {', '.join(wrong[:3])}.",
            "Another model may have taken that one's place.",
        )
    policy.load_state_dict(weights, strict=False)
