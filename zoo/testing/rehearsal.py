"""A rehearsal of stages that are too large to run here: one optimizer step each, on a tiny model of the architecture.

The algorithm and its options are the stage's own; model, data and rewards are small and generated. A rehearsal shows
that the algorithm can be built, collates rows of its kind, and takes a step on such a model. It says nothing about the
result.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.libraries.pretrained import save
from zoo.options.config import Resolved, TrainConfig
from zoo.options.roles import model_options
from zoo.options.spelling import name_in
from zoo.terminal import Console
from zoo.testing.tiny import make_tokenizer, tiny_rows
from zoo.training.run import execute

FAMILIES = {
    "pythia": "gpt_neox", "gpt-neox": "gpt_neox", "gpt2": "gpt2", "opt-": "opt", "mistral": "mistral",
    "zephyr": "mistral", "mixtral": "mixtral", "qwen3": "qwen3", "qwen": "qwen2", "olmo-2": "olmo2", "gemma": "gemma2",
    "phi-2": "phi", "phi-3": "phi3", "llama": "llama", "alpaca": "llama", "deepseek": "llama",
    "smollm": "llama",
}  # fmt: skip
"""Part of a model's name → its architecture in transformers; the first match counts."""
ROWS, ANSWERS = 12, 2
MORE_TOKENS = 8
"""Rows of the embeddings for tokens that tokenizers of some families add when they are loaded."""
HUB = re.compile(r"[\w.-]+/[\w.-]+(?:[:@].*)?")
"""Data of the hub: owner/name, with a configuration or a split."""


def family_of(name: str) -> str:
    """The architecture inferred from a model's name; llama by default."""
    return next((family for part, family in FAMILIES.items() if part in name.lower()), "llama")


MORE_TOKENS = 8


def write_stand_in(family: str, folder: Path) -> Path:
    """A two-layer model of an architecture with random weights, and the tokenizer of the tests."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    end = tokenizer.eos_token_id
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer) + MORE_TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, bos_token_id=end,
        eos_token_id=end, pad_token_id=end, ffn_dim=64, word_embed_proj_dim=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(AutoModelForCausalLM.from_config(config).float(), folder)
    tokenizer.save_pretrained(folder)
    return folder


def rehearse(resolved: Resolved, cls: Any, start: str) -> str:
    """One step of a stage; returns a sentence about it. start: the stage's initial model.

    Raises ZooError if the step fails, and any exception of a plugin's bug.
    """
    family, kind = family_of(start), cls.kinds()[0]
    with tempfile.TemporaryDirectory(prefix="zoo-rehearsal-") as place:
        folder = Path(place)
        data, further = folder / "rows.jsonl", folder / "further.jsonl"
        # Pairs suit most further data that an algorithm may need.
        for file, wanted in ((data, kind), (further, "preference")):
            file.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(wanted, ROWS)), encoding="utf-8")
        model = str(write_stand_in(family, folder / "model"))
        core = dataclasses.replace(resolved.core, **_small(resolved.core, model, str(data), cls.online(), folder))
        # An algorithm's own options may name further hub datasets.
        own = dataclasses.asdict(resolved.algorithm)
        roles = model_options(cls.role_table())
        more = {
            name: model if name in roles else str(further)
            for name, value in own.items()
            if isinstance(value, str) and (name in roles or HUB.fullmatch(value))
        }
        algorithm = dataclasses.replace(resolved.algorithm, **more)
        execute(dataclasses.replace(resolved, core=core, algorithm=algorithm), cls, Console(quiet=True))
    return f"one step on a tiny {family} with {ROWS} rows of {kind}"


def _small(core: TrainConfig, model: str, data: str, online: bool, folder: Path) -> Mapping[str, Any]:
    """The options that make the stage small, and resets of those that need something not available here."""
    default = TrainConfig()
    reset = (
        "split", "columns", "format", "limit", "strict", "eval_data", "decay_data", "template", "gold_reward", "stop",
        "critic_model", "engine", "token_budget", "minibatches", "rollout_epochs", "keep_best", "keep_top", "patience",
        "devices", "num_nodes", "strategy", "tensor_parallel", "offload", "micro_tokens", "loggers", "name",
        "long_rows",
    )  # fmt: skip
    answers = min(core.answers_per_prompt, ANSWERS)
    return {
        **{name: getattr(default, name) for name in reset},
        "model": model, "data": data, "out": str(folder / "runs"), "accelerator": "cpu", "precision": "32-true",
        **{option: model for option in ("reference", "teacher", "judge") if getattr(core, option)},
        "reward": "zoo.testing.tiny:tiny_reward" if online else None, "answers_per_prompt": answers,
        "batch_size": 4 * answers, "max_steps": 1, "epochs": 1.0, "max_length": 256, "max_new_tokens": 8,
        "warmup": min(core.warmup, 0.5), "eval_fraction": 0.0, "save_every": 0, "score": "none",
        "reference_cache": "off", "lora_rank": min(core.lora_rank, 4),
        "schedule": "constant" if name_in(core.schedule) == "wsd" else core.schedule,
    }  # fmt: skip


def rehearse_all(stages: Mapping[str, tuple[Resolved, Any, str]]) -> dict[str, str]:
    """A sentence about each stage, by name. Raises one ZooError for all stages that fail."""
    told, failed = {}, []
    for name, (resolved, cls, start) in stages.items():
        try:
            told[name] = rehearse(resolved, cls, start)
        except ZooError as error:
            failed.append(f"{name}: {re.sub(r'/[^ ]*zoo-rehearsal-[^ /]*/', '', error.message)}")
    if failed:
        raise ZooError(
            "Stages that fail on a tiny model of the same architecture:\n" + "\n".join(failed),
            "Fix their options. Nothing was run at full size.",
        )
    return told
