"""The core's options, and how their values are collected.

Every option has one flat name. Values come from the core's defaults, the algorithm's defaults (from its paper), the
data's defaults, a YAML file, and the command line (or keyword arguments); later sources have priority.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import ZooError, nearest
from zoo.options.fields import build, options_of, refuse_unknown

if TYPE_CHECKING:
    from zoo.contract.algorithm import Algorithm

DATA = "starter"
"""The default data."""
AUTO = "auto"
"""The value of `score` for the data's own evaluation."""


@dataclass
class ModelOptions:
    """Model"""

    model: str = "smollm2-135m"
    """Where to start: a local folder, a hub name, a .gguf file, a run (`last`, `runs/mine`), or smollm2-135m."""
    reference: str | None = None
    """The frozen reference; by default the starting weights."""
    lora: bool = False
    """Train low-rank adapters instead of all weights."""
    lora_rank: int = 16
    """Rank r of the adapters."""
    lora_alpha: float = 32.0
    """Scale α of the adapters; they are multiplied by α/r."""
    lora_dropout: float = 0.0
    """Dropout before the adapters."""
    lora_targets: list[str] | str = "all-linear"
    """Modules that get adapters: all-linear, or names as peft takes them."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: uses less memory and about a third more time."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. It can be set only on the command line, never in a file."""


@dataclass
class DataOptions:
    """Data"""

    data: str = DATA
    """Training data: a file or folder (jsonl, json, csv, parquet, arrow), a hub data set, or a named source."""
    split: str = "train"
    """Split of the data."""
    columns: dict[str, str] | str | None = None
    """Names of columns: prompt=question,completion=answer."""
    format: str | None = None
    """The format of the rows, if it cannot be detected (docs/data.md lists them). A named source is asked for
    the format's kind: --data starter --format ranking gives whole rankings instead of pairs."""
    limit: int | None = None
    """Read the first N rows only, of held-out data too."""
    strict: bool = False
    """Stop if any row is bad, instead of dropping and counting bad rows."""
    eval_data: str | None = None
    """Held-out data; by default the source's own held-out split, else a share of the rows."""
    eval_fraction: float = 0.05
    """Share of the prompts to hold out if the data has no held-out rows; 0 turns validation off."""
    decay_data: str | None = None
    """Other data for the decay phase of the schedule wsd, which is mid-training."""
    decay_mix: float = 1.0
    """Share of the decay phase's examples from decay_data; the rest is from data."""
    template: str = "auto"
    """Chat template: auto (the model's own), none (raw text), or a .jinja file."""
    max_length: int = 1024
    """Longest prompt plus answer, in tokens."""
    long_rows: Literal["drop", "cut", "split"] = "drop"
    """What to do with longer rows: drop, cut (without a false end), or, for plain text, split into several."""


@dataclass
class OptimizationOptions:
    """Optimization"""

    variant: str | None = None
    """Preset of the algorithm, by its name in the paper; `zoo algos NAME` lists them."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int | None = None
    """Stop after this many optimizer steps, unless `epochs` ends sooner."""
    batch_size: int = 16
    """Examples per optimizer step, over all processes; for online algorithms, the answers per step. Micro-batches are
    chosen automatically."""
    lr: float = 1e-5
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate decays after the warmup; wsd is constant until the decay phase at the end."""
    decay_share: float = 0.1
    """Share of the steps in the decay phase of wsd, in which the learning rate falls linearly."""
    warmup: float = 0.1
    """Steps of linear warmup; a number below 1 is a share of all steps."""
    lr_floor: float = 0.0
    """The learning rate at the end of the schedule, as a share of lr."""
    weight_decay: float = 0.0
    """AdamW weight decay; norms and biases are left out."""
    adam_beta1: float = 0.9
    """AdamW β₁."""
    adam_beta2: float = 0.999
    """AdamW β₂."""
    adam_eps: float = 1e-8
    """AdamW ε."""
    max_grad_norm: float = 1.0
    """Clip the gradient to this global norm; 0 for no clipping."""
    seed: int = 0
    """Seed of all random numbers."""


@dataclass
class RolloutOptions:
    """Rollouts"""

    reward: str | None = None
    """The reward of answers: `instructions`, a run of a reward model, module:function, or a sum of these
    (docs/rewards.md); by default the data's own reward."""
    gold_reward: str | None = None
    """A reward that is measured on held-out prompts and never trained on, to detect over-optimisation."""
    reward_timeout: float = 30.0
    """Most seconds for the rewards of a batch of answers; rewards that take longer are missing."""
    answers_per_prompt: int = 1
    """Answers that the policy writes to each prompt."""
    minibatches: int = 1
    """Optimizer steps in one pass over a rollout, which has batch_size · minibatches answers."""
    rollout_epochs: int = 1
    """Passes over each rollout."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    token_budget: int = 0
    """Most tokens per answer on average over a rollout; beyond it the longest answers are cut, so that a rollout does
    not wait for a few of them. 0 for no budget."""
    temperature: float = 1.0
    """Sampling temperature; log-probs are computed at it too."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens with this total probability; 1 for all."""
    stop: list[str] | str = ""
    """Strings that end an answer."""
    engine: str = "local"
    """The engine that writes the answers: local, in this process, or an engine of a plugin."""
    critic: Literal["own", "head"] = "own"
    """The critic, for algorithms that have one: a separate model, or a head on the policy."""
    critic_model: str | None = None
    """The start of a separate critic, such as the run of a reward model; by default the policy's start."""
    critic_lr: float | None = None
    """Peak learning rate of the critic; by default the policy's, and five times that for a head, which starts at 0."""
    judge: str | None = None
    """The judge, for algorithms that have one: a model, a run, or https://host/v1#model; by default the start."""
    reference_every: int = 0
    """Replace the reference by the current policy every N optimizer steps; 0 for never."""
    eval_prompts: int = 64
    """Held-out prompts to answer in each validation."""


@dataclass
class EvaluationOptions:
    """Validation and stopping"""

    eval_every: int | None = None
    """Validate every N steps; by default four times a run, twice if the held-out records are more than an eighth of the
    run's examples, and only at the end if they are more than a quarter (an algorithm with a separate measuring pass
    reads each of them twice). With keep_best or patience always four times."""
    best_metric: str = "val/loss"
    """Metric for keep_best and patience."""
    best_mode: Literal["auto", "min", "max"] = "auto"
    """Whether best_metric should fall or rise; auto knows losses, rewards, accuracies, margins and grades."""
    keep_best: bool = False
    """Write the weights with the best validation into model/, not the last ones."""
    patience: int | None = None
    """Stop when the metric has not improved in this many validations."""
    score: list[str] | str = AUTO
    """Evaluations before and after training: names as in `zoo eval`, auto (the data's own), or none."""


@dataclass
class ComputeOptions:
    """Compute"""

    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    """Precision of the arithmetic; auto chooses what is fast on the device."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, mps."""
    devices: int = 1
    """Processes on this machine."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """Lightning's strategy: auto, ddp."""
    layout: Literal["auto", "shared", "packed", "padded"] = "auto"
    """Layout of answers in rows: shared prompts, packed rows, or one padded row each. The result is the same."""
    micro_tokens: int | None = None
    """Tokens in one forward pass; by default chosen from free memory, and halved when memory runs out."""
    reference_cache: Literal["auto", "off"] = "auto"
    """Keep reference log-probs on disk, keyed by content."""


@dataclass
class RunOptions:
    """Run folder"""

    name: str | None = None
    """Name of the run; by default algorithm-model-number."""
    out: str = "runs"
    """Folder that holds the runs."""
    save_every: int = 100
    """Write a checkpoint every N steps; 0 for only on ctrl-C."""
    keep_checkpoints: bool = False
    """Keep the last checkpoint, optimizer state included, after a finished run."""
    log_every: int = 1
    """Write metrics every N steps."""
    loggers: list[str] | str = ""
    """Additional Lightning loggers: tensorboard, wandb, csv, mlflow."""


@dataclass
class TrainConfig(
    RunOptions, ComputeOptions, EvaluationOptions, RolloutOptions, OptimizationOptions, DataOptions, ModelOptions
):
    """All options of the core."""


@dataclass(frozen=True)
class Resolved:
    """A complete configuration: the core's options, the algorithm's options, and the origin of each value."""

    algo: str
    core: TrainConfig
    algorithm: Any
    origin: dict[str, str]
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The algorithm's options as given, before its class checked them."""

    def of_class(self, cls: type[Algorithm]) -> Resolved:
        """The same configuration with another class for the algorithm's options."""
        config = build(cls.Config, self.own, what=f"algorithm {self.algo}", where=self.origin)
        return dataclasses.replace(self, algorithm=config)

    def as_dict(self) -> dict[str, Any]:
        """Flat JSON types, as in run.yaml, which can be run again."""
        return {"algo": self.algo, **dataclasses.asdict(self.core), **dataclasses.asdict(self.algorithm)}


OTHER_NAMES = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "model_name_or_path": "model",
    "model_name": "model",
    "ref_model": "reference",
    "use_peft": "lora",
    "lora_r": "lora_rank",
    "dataset": "data",
    "dataset_name": "data",
    "max_seq_length": "max_length",
    "max_prompt_length": "max_length",
    "output_dir": "out",
    "run_name": "name",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "save_steps": "save_every",
    "logging_steps": "log_every",
    "eval_steps": "eval_every",
    "report_to": "loggers",
    "bf16": "precision",
    "num_generations": "answers_per_prompt",
    "max_completion_length": "max_new_tokens",
    "response_length": "max_new_tokens",
    "reward_funcs": "reward",
    "reward_model_path": "reward",
    "num_iterations": "rollout_epochs",
    "num_mini_batches": "minibatches",
}
"""Names of options in other trainers, and their names here, for error messages."""

RESERVED = {"algo", "config", "recipe", "stage", "laptop", "dry_run", "as_json", "json", "quiet", "help"}
"""Flags and arguments of `train` that are not options."""
TO_COME = {
    "teacher", "opponent", "environment", "optimizer", "quantize", "base_dtype", "offload", "tensor_parallel", "ema",
    "max_time", "stream", "staleness",
}  # fmt: skip
"""Names reserved for later options of the core."""
CORE_NAMES = frozenset({option.name for option in options_of(TrainConfig)} | RESERVED | TO_COME)
"""Names that an option of an algorithm must not have."""


ONLINE_ONLY = ("reward", "gold_reward", "minibatches", "rollout_epochs", "eval_prompts", "reference_every")
"""Options without effect for an algorithm that does not learn from its own answers."""


def resolve(
    algo: str,
    cls: type[Algorithm],
    layers: Sequence[tuple[str, Mapping[str, Any]]],
    data_defaults: Callable[[str, type[Algorithm]], Mapping[str, Any]] | None = None,
) -> Resolved:
    """Combine the options; later layers have priority over earlier ones.

    layers: (origin, values) of the YAML file and the command line; data_defaults: gives a source's defaults for an
    algorithm, which these layers override. Raises ZooError for unknown names and bad values.
    """
    core_options, own_options = options_of(TrainConfig), options_of(cls.Config)
    core_names, own_names = {o.name for o in core_options}, {o.name for o in own_options}
    values: dict[str, Any] = {}
    origin = dict.fromkeys(core_names, "default") | dict.fromkeys(own_names, f"default of {algo}")
    own_layers = [(f"default of {algo}", cls.defaults), *_variant(algo, cls, layers)]
    data = next((str(layer["data"]) for _, layer in reversed([*own_layers, *layers]) if layer.get("data")), DATA)
    brought = [(f"data {data}", data_defaults(data, cls))] if data_defaults else []
    for source, layer in [*own_layers, *brought, *layers]:
        for name, value in layer.items():
            if not (name == "score" and value == AUTO):
                values[name], origin[name] = value, source
    by_hand = ("default", "command line", "keyword argument")
    if values.get("trust_remote_code") and origin["trust_remote_code"] not in by_hand:
        raise ZooError(f"trust_remote_code cannot be set in {origin['trust_remote_code']}.", "Give it as a flag.")
    command = f"zoo train --algo {algo} --help"
    names = [*(option.name for option in own_options), *(option.name for option in core_options)]
    refuse_unknown(values, names, what=f"--algo {algo}", where=origin, listed_by=command, other_names=OTHER_NAMES)
    _refuse_online(algo, cls, values, origin)
    core_values = {name: value for name, value in values.items() if name in core_names}
    own_values = {name: value for name, value in values.items() if name in own_names}
    core = build(TrainConfig, core_values, what="zoo train", where=origin)
    own = build(cls.Config, own_values, what=f"algorithm {algo}", where=origin)
    return Resolved(algo, core, own, origin, own_values)


def _variant(
    algo: str, cls: type[Algorithm], layers: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The preset that was asked for, as a layer. Raises ZooError for one that does not exist."""
    name = next((layer["variant"] for _, layer in reversed(layers) if "variant" in layer), None)
    if name in (None, "none"):
        return []
    if name not in cls.variants:
        hint = f"It has: {', '.join(cls.variants)}." if cls.variants else "It has none; leave out --variant."
        raise ZooError(f"Algorithm '{algo}' has no variant '{name}'.{nearest(name, cls.variants)}", hint)
    return [(f"variant {name}", cls.variants[name])]


def _refuse_online(algo: str, cls: type[Algorithm], values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Raises ZooError for options that an offline algorithm would ignore."""
    for name in ONLINE_ONLY:
        if values.get(name) is not None and origin[name] in ("command line", "keyword argument") and not cls.online():
            raise ZooError(
                f"--{name.replace('_', '-')} is for algorithms that learn from their policy's own answers, but {algo} "
                "learns from the data.",
                "`zoo algos` lists which do. To score answers: zoo eval MODEL --reward …",
            )
