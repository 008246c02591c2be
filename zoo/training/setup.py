"""Putting a run together: data to encoded records, names to models, options to numbers."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from zoo.config import Resolved, TrainConfig
from zoo.data.encode import Encoded, default_collate, encode
from zoo.data.formats import parse_columns
from zoo.data.load import DataSet, judge, load, split_by_prompt
from zoo.data.loader import StepLoader, answers_among, record_tokens
from zoo.data.template import ChatTemplate
from zoo.errors import ZooError, nearest
from zoo.judges import make as judges
from zoo.judges.make import SELF
from zoo.models.attention import use_cpu_attention
from zoo.models.critic import Critic, ValueHead
from zoo.models.default import NAME, cache_folder
from zoo.models.loading import (
    NotFound,
    Source,
    add_lora,
    is_adapted,
    load_model,
    load_tokenizer,
    named_models,
    resolve_model,
)
from zoo.models.precision import round_frozen, weights_dtype
from zoo.models.reference_cache import ReferenceCache, architecture, fingerprint
from zoo.models.roles import Models, Policy, Reference
from zoo.models.scalar import ScalarPolicy, is_scorer
from zoo.models.scorer import require_head, scorer_to_train
from zoo.registry import PluginManager, contributions
from zoo.runs import Run, find_run, find_runs, is_run_name
from zoo.training.randomness import seed_everything as seed_everything
from zoo.training.schedule import decay_begin
from zoo.types import Answer, Batch

Say = Callable[[str], None]
CPU_MICRO_TOKENS = 1024
"""On a CPU more tokens at once cost memory and gain nothing."""
PROBE = 16
"""Tokens of a text that stands for an answer where there is none yet."""


@dataclass
class Data:
    """Encoded training and held-out records, and what data.json says of them."""

    train: Encoded
    held_out: Encoded | None
    facts: dict[str, Any]
    decay: Encoded | None = None
    """The records of the decay phase, where it has other data."""


def columns_of(columns: Any) -> dict[str, str] | None:
    """The mapping that --columns or a file gives. Raises ZooError."""
    return parse_columns(columns) if isinstance(columns, str) and columns else columns or None


def load_data(
    core: TrainConfig, kinds: Sequence[str], template: ChatTemplate, plugins: PluginManager, say: Say
) -> Data:
    """Load, check and encode the data of a run, and hold some out. Prints what was kept and dropped.

    kinds: those that the algorithm learns from, the preferred one first.
    """
    named = contributions(plugins, "sources")
    options: dict[str, Any] = {
        "columns": columns_of(core.columns), "format": core.format, "strict": core.strict, "named_sources": named,
        "limit": core.limit,
    }  # fmt: skip
    train = load(core.data, kinds, split=core.split, **options)
    held_out = _held_out(core, train.kind, train, options)
    for line in train.report.lines():
        say(line)
    encoding: dict[str, Any] = {"max_length": core.max_length, "long_rows": core.long_rows}
    encoded = _encode(train, template, encoding, core.strict)
    facts = {"train": _facts(train, encoded)}
    encoded_held_out = None
    if held_out is not None and held_out.records:
        encoded_held_out = _encode(held_out, template, encoding, core.strict)
        facts["held_out"] = _facts(held_out, encoded_held_out)
    for line in encoded.lines():
        say(line)
    decay = None
    if core.decay_data is not None:
        later = load(core.decay_data, train.kind, split=core.split, **options)
        decay = _encode(later, template, encoding, core.strict)
        facts["decay"] = _facts(later, decay)
        for line in [*later.report.lines(), *decay.lines()]:
            say(line)
    count = len(encoded_held_out) if encoded_held_out else 0
    say(f"Held out for validation: {count:,} records." if count else "Nothing is held out: no validation.")
    return Data(encoded, encoded_held_out, facts, decay)


def make_loader(
    core: TrainConfig, data: Data, records: list[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], Batch],
    rank: int = 0, processes: int = 1,
) -> StepLoader:  # fmt: skip
    """The steps of a run over prepared records, those of the decay phase over its own data if it has some."""
    loader = StepLoader(
        records, collate, batch_size=core.batch_size, epochs=core.epochs, max_steps=core.max_steps, seed=core.seed,
        rank=rank, processes=processes,
    )  # fmt: skip
    if data.decay is not None:
        loader.switch(data.decay.records, decay_begin(len(loader), core.decay_share), core.decay_mix)
    return loader


def _encode(data: DataSet, template: ChatTemplate, options: dict[str, Any], strict: bool) -> Encoded:
    encoded = encode(data.records, data.kind, template, **options)
    if strict:
        judge(encoded.report, len(encoded.records), strict, data.report)
    if not encoded.records:
        raise ZooError(
            f"No row of {data.name} is left after encoding: {'; '.join(line.strip() for line in encoded.lines())}",
            f"`zoo data {data.name} --for {data.kind}` shows the rows; --max-length and --long-rows cut may help.",
        )
    return encoded


def _facts(data: DataSet, encoded: Encoded) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "format": data.format,
        **data.report.as_json(),
        "encoded": encoded.as_json(),
    }


def _held_out(core: TrainConfig, kind: str, train: DataSet, options: dict[str, Any]) -> DataSet | None:
    """The data named, else the source's own held-out split, else a share of the prompts taken out of `train`."""
    if core.eval_data:
        return load(core.eval_data, kind, split=core.split, **options)
    if not core.eval_fraction:
        return None
    if core.data.split(":")[0] in options["named_sources"] and core.split == "train":
        try:
            return load(core.data, kind, split="heldout", **options)
        except ZooError:
            return None
    if len(train) < 20:
        return None
    # The same prompts whatever the seed: runs of several seeds are then validated on the same rows.
    train.records, rest = split_by_prompt(train.records, core.eval_fraction, 0)
    return DataSet(train.name, train.kind, train.source_kind, rest, train.fingerprint, train.format, train.report)


def resolve_start(name: str, out: str, say: Say) -> Source:
    """The model to start from; a run may be meant by its name or `last`."""
    if is_run_name(name, out):
        name = str(find_run(name, out).path)
    try:
        return resolve_model(name, say)
    except NotFound as error:
        runs = [run.name for run in find_runs(out)]
        listed = f"Runs in {out}/: {', '.join(runs)}. " if runs else f"There are no runs in {out}/. "
        raise NotFound(error.message + nearest(name, [*runs, NAME, *named_models()]), listed + error.hint) from None


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
        model = model.merge_and_unload()
        model.requires_grad_(True)
    if choose_accelerator(core.accelerator) == "cpu":
        use_cpu_attention(model)
    if core.lora:
        model = add_lora(model, core.lora_rank, core.lora_alpha, core.lora_dropout, core.lora_targets)
    if core.gradient_checkpointing:
        # The older name warns in newer versions of transformers, which have both.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        if core.lora:
            model.enable_input_require_grads()
    return model


def name_base(policy: Any, source: Source, run: Run, precision: str, trust_remote_code: bool) -> None:
    """Make adapters say what they belong to, so that they load from any working folder.

    If the model they were trained on had adapters itself, these are merged and the sum is kept in the run as `base/`.
    """
    if not is_adapted(policy):
        return
    if source.is_adapter:
        merged = load_model(source, weights_dtype(precision), trust_remote_code).merge_and_unload()
        export_model(merged, load_tokenizer(source, trust_remote_code), run.path / "base")
        source = Source(source.name, run.path / "base")
    for settings in policy.peft_config.values():
        settings.base_model_name_or_path, settings.revision = source.as_base


def make_models(
    resolved: Resolved, roles: tuple[str, ...], policy: Any, source: Source, template: ChatTemplate, layout: str,
    precision: str, say: Say,
) -> Models:  # fmt: skip
    """The declared roles around the loaded policy."""
    core = resolved.core
    made: dict[str, Any] = {"policy": ScalarPolicy(policy, layout) if is_scorer(policy) else Policy(policy, layout)}
    if "reference" in roles and not is_scorer(policy):
        made["reference"] = make_reference(core, policy, source, layout, precision, say)
    if "critic" in roles:
        made["critic"] = make_critic(core, policy, source, layout, precision, say)
    if "judge" in roles:
        made["judge"] = make_judge(core, policy, source, template, precision, say)
    if unknown := set(roles) - set(made):
        raise ZooError(f"{resolved.algo} needs the role '{unknown.pop()}', which this version does not build.")
    return Models(**made)


def make_critic(core: TrainConfig, policy: Any, source: Source, layout: str, precision: str, say: Say) -> Critic:
    """A head on the policy, or a model of its own that starts where the policy does, or from a reward model."""
    if core.critic == "head":
        if core.critic_model is not None:
            raise ZooError("--critic-model is the start of a critic of its own.", "Leave it out, or add --critic own.")
        return Critic(policy, ValueHead.on(policy), layout)
    start = source if core.critic_model is None else resolve_start(core.critic_model, core.out, say)
    model = load_policy(replace(core, lora=False), start, precision, "scalar")
    if core.critic_model is None:
        torch.nn.init.zeros_(model.score.weight)
    return Critic(model, model, layout)


def make_reference(core: TrainConfig, policy: Any, source: Source, layout: str, precision: str, say: Say) -> Reference:
    """The frozen model: another one by name, the policy with its adapters off, or its own starting weights."""

    def kept(model: Any, weights: Any) -> ReferenceCache | None:
        if core.reference_cache == "off":
            return None
        key = fingerprint(weights, precision, architecture(model))
        try:
            return ReferenceCache(cache_folder() / "reference", key)
        except (OSError, sqlite3.Error) as error:
            say(f"Reference log-probs are kept in memory only: {cache_folder()} cannot be written ({error}).")
            return ReferenceCache(None, key)

    if core.reference is None and is_adapted(policy):
        base = [(n, p) for n, p in policy.named_parameters() if "lora_" not in n]
        return Reference(lambda: policy, layout, kept(policy, base), borrow=policy.disable_adapter)
    if core.reference is not None:
        other = frozen(core, resolve_start(core.reference, core.out, say), policy, precision)
        known = kept(other, other.named_parameters())
        round_frozen(other, precision)
        return Reference(lambda: other, layout, known)
    return Reference(
        lambda: round_frozen(frozen(core, source, policy, precision), precision),
        layout,
        kept(policy, policy.named_parameters()),
    )


def frozen(core: TrainConfig, source: Source, policy: Any, precision: str) -> Any:
    """A model that is not trained, on the policy's device."""
    plain = load_policy(TrainConfig(trust_remote_code=core.trust_remote_code), source, precision)
    return plain.requires_grad_(False).eval().to(next(policy.parameters()).device)


def make_judge(core: TrainConfig, policy: Any, source: Source, template: ChatTemplate, precision: str, say: Say) -> Any:
    """The judge that was named, else the weights that training starts from."""
    options: dict[str, Any] = {"device": next(policy.parameters()).device, "out": core.out, "say": say}
    if core.judge is not None:
        return judges.make_judge(core.judge, precision=precision, trust_remote_code=core.trust_remote_code, **options)
    if is_adapted(policy):
        return judges.make_judge(SELF, policy, template, precision, borrow=policy.disable_adapter, **options)

    @cache
    def start() -> Any:
        return round_frozen(frozen(core, source, policy, precision), precision)

    return judges.make_judge(SELF, start, template, precision, **options)


def ending_ids(model: Any) -> set[int]:
    """Ids that end an answer according to the model's generation settings."""
    settings = getattr(model, "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    return set(found) if isinstance(found, list) else set() if found is None else {found}


def choose_micro_tokens(core: TrainConfig, device: torch.device, model: Any) -> int:
    """Tokens in one forward pass: as asked, else what fits in half of the free memory of a GPU."""
    if core.micro_tokens is not None:
        return core.micro_tokens
    if device.type != "cuda":
        return CPU_MICRO_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    config = model.config.get_text_config()
    # Some 40 hidden-sized values a layer are kept for the backward pass, a few if they are recomputed.
    values = (4 if core.gradient_checkpointing else 40) * config.num_hidden_layers * config.hidden_size
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    left = max(free - 12 * trained, free // 8)
    return int(min(max(left // 2 // (values * 4), 1024), 65536))


def sample_answers(records: list[dict[str, Any]], count: int = 3) -> list[Answer]:
    """A few answers of the data for the layout's self-test, those of the shortest records."""
    shortest = sorted(records, key=record_tokens)[:count]
    if shortest and isinstance(shortest[0].get("prompt"), torch.Tensor):
        # Prompts have no answers yet: each is continued by the text of the others.
        prompts = [record["prompt"] for record in shortest]
        every = torch.ones(PROBE, dtype=torch.bool)
        return [Answer(p, other[-PROBE:], every[-len(other) :]) for p in prompts for other in prompts]
    return [answer for record in shortest for answer in answers_among(record.values())]


def make_collate(hook: Any, tokenizer: Any, config: Any) -> Callable[[list[dict[str, Any]]], Batch]:
    """The algorithm's collation, or the default of its data kind."""

    def collate(records: list[dict[str, Any]]) -> Batch:
        batch = hook.collate(records=records, tokenizer=tokenizer, config=config)
        return default_collate(records) if batch is None else batch

    return collate


def choose_accelerator(wanted: str) -> str:
    """The device type that Lightning will choose: cpu, cuda or mps. Raises ZooError."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    names = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps"}
    if wanted not in names:
        raise ZooError(f"--accelerator {wanted} is not known.", f"Choose one of auto, {', '.join(names)}.")
    if names[wanted] == "cuda" and not torch.cuda.is_available():
        raise ZooError("--accelerator gpu: torch sees no GPU here.", "Use --accelerator auto.")
    return names[wanted]


def export_model(policy: Any, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder (or a peft one for adapters), complete or not at all."""
    beside = folder.parent / f".tmp-{folder.name}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        # Adapters never change the vocabulary, and peft would ask the hub whether they did.
        policy.save_pretrained(beside, **({"save_embedding_layers": False} if is_adapted(policy) else {}))
        if is_adapted(policy) and is_scorer(policy):
            # Gain and bias of the reward, which an adapter's own files have no place for.
            policy.get_base_model().config.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise ZooError(
            f"The model could not be written to {folder}: {error}.", "Free some space and try again."
        ) from error
