"""The core's options, and how they are put together from several places.

Every option has one flat name. Values come, each outranking the one before, from the core's defaults, what the
algorithm's paper sets otherwise, what fits the data, a YAML file, and the command line (or keyword arguments).
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
"""What is learned from when nothing is named."""
AUTO = "auto"
"""As the value of `score`: what the data brings."""


@dataclass
class ModelOptions:
    """Model"""

    model: str = "smollm2-135m"
    """Where to start: a local folder, a hub name, a .gguf file, a run (`last`, `runs/mine`), or smollm2-135m."""
    reference: str | None = None
    """The frozen reference; by default the weights that training starts from."""
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
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Never taken from a file, only from the command line."""


@dataclass
class DataOptions:
    """Data"""

    data: str = DATA
    """What to learn from: a file or folder (jsonl, json, csv, parquet, arrow), a hub data set, or a named source."""
    split: str = "train"
    """Split of the data."""
    columns: dict[str, str] | str | None = None
    """Names of columns: prompt=question,completion=answer."""
    format: str | None = None
    """The format of the rows, where detection is not sure (docs/data.md lists them). A named source is asked for
    the format's kind: --data starter --format ranking gives whole rankings where pairs come otherwise."""
    limit: int | None = None
    """Read the first N rows only, of held-out data too."""
    strict: bool = False
    """Train nothing if any row is bad, instead of dropping and counting it."""
    eval_data: str | None = None
    """Held-out data; by default the source's own held-out split, else a share of the rows."""
    eval_fraction: float = 0.05
    """Share of the prompts held out when the data brings no held-out rows; 0 turns validation off."""
    decay_data: str | None = None
    """Other data for the decay phase of the schedule wsd, which is mid-training."""
    decay_mix: float = 1.0
    """Share of the decay phase's examples that are decay_data; the rest is data."""
    template: str = "auto"
    """Chat template: auto (the model's own), none (raw text), or a .jinja file."""
    max_length: int = 1024
    """Longest prompt plus answer, in tokens."""
    long_rows: Literal["drop", "cut", "split"] = "drop"
    """What to do with longer rows; cut ones are never taught a false end. Plain text can be split into several."""


@dataclass
class OptimizationOptions:
    """Optimization"""

    variant: str | None = None
    """Preset of the algorithm, by the name that its paper has; `zoo algos NAME` lists them."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int | None = None
    """Stop after so many optimizer steps, if `epochs` does not end sooner."""
    batch_size: int = 16
    """Examples per optimizer step, over all processes; of online algorithms the answers that a step learns from.
    Micro-batches follow by themselves."""
    lr: float = 1e-5
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls after the warmup; wsd is constant until the decay phase at the end."""
    decay_share: float = 0.1
    """Share of the steps that are the decay phase of wsd, where the learning rate falls linearly."""
    warmup: float = 0.1
    """Steps of linear warmup; below 1 a share of all steps."""
    lr_floor: float = 0.0
    """Where the schedule ends, as a share of lr."""
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
    """Seed of everything that is random."""


@dataclass
class RolloutOptions:
    """Rollouts"""

    reward: str | None = None
    """What answers are worth: `instructions`, a run of a reward model, module:function, or a sum of these
    (docs/rewards.md); by default what the data brings."""
    gold_reward: str | None = None
    """A reward that is measured on held-out prompts and never trained on, so that over-optimisation shows."""
    reward_timeout: float = 30.0
    """Seconds that a reward may take for a batch of answers; what is not scored by then is missing."""
    answers_per_prompt: int = 1
    """Answers that the policy writes to each prompt."""
    minibatches: int = 1
    """Optimizer steps in one pass over a rollout, which has batch_size · minibatches answers."""
    rollout_epochs: int = 1
    """Passes over each rollout."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    token_budget: int = 0
    """Most tokens that the answers of a rollout take on average: when they are spent, the longest are cut, so that it
    does not wait for a few. 0 for no budget."""
    temperature: float = 1.0
    """Sampling temperature; log-probs are taken at it too."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that have this probability together; 1 for all."""
    stop: list[str] | str = ""
    """Strings that end an answer."""
    engine: str = "local"
    """What writes the answers: local, in this process, or an engine of a plugin."""
    critic: Literal["own", "head"] = "own"
    """The critic of algorithms that have one: a model of its own, or a head on the policy."""
    critic_model: str | None = None
    """Where a critic of its own starts, such as the run of a reward model; by default the policy's start."""
    critic_lr: float | None = None
    """Peak learning rate of the critic; by default that of the policy, and five times it for a head, which begins at
    zero."""
    judge: str | None = None
    """The judge of algorithms that have one: a model, a run, or https://host/v1#model; by default the model that
    training starts from."""
    reference_every: int = 0
    """Optimizer steps after which the reference becomes the policy of the moment; 0: it stays what it is."""
    eval_prompts: int = 64
    """Held-out prompts that a validation writes answers to."""


@dataclass
class EvaluationOptions:
    """Validation and stopping"""

    eval_every: int | None = None
    """Validate every N steps; by default four times a run, twice where the held-out records are more than an eighth of
    the run's examples, and at the end alone where they are more than a quarter (an algorithm with a pass of its own for
    what it measures reads each of them twice). With keep_best or patience always four times."""
    best_metric: str = "val/loss"
    """Metric for keep_best and patience."""
    best_mode: Literal["auto", "min", "max"] = "auto"
    """Whether best_metric should fall or rise; auto knows losses, rewards, accuracies, margins and grades."""
    keep_best: bool = False
    """Write the weights with the best validation into model/, not the last ones."""
    patience: int | None = None
    """Stop when the metric has not improved in so many validations."""
    score: list[str] | str = AUTO
    """Evaluations made before and after: names as `zoo eval` has them, auto (what the data brings), or none."""


@dataclass
class ComputeOptions:
    """Compute"""

    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    """Arithmetic; auto takes what the device does fast."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, mps."""
    devices: int = 1
    """Processes on this machine."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """Lightning's strategy: auto, ddp."""
    layout: Literal["auto", "shared", "packed", "padded"] = "auto"
    """How answers lie in rows: shared prompts, packed rows, or one padded row each. The result is the same."""
    micro_tokens: int | None = None
    """Tokens in one forward pass; by default from free memory, halved when memory runs out."""
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
    """Write a checkpoint every N steps; 0 for none but on ctrl-C."""
    keep_checkpoints: bool = False
    """Keep the last checkpoint, optimizer state included, after a finished run."""
    log_every: int = 1
    """Write metrics every N steps."""
    loggers: list[str] | str = ""
    """More Lightning loggers: tensorboard, wandb, csv, mlflow."""


@dataclass
class TrainConfig(
    RunOptions, ComputeOptions, EvaluationOptions, RolloutOptions, OptimizationOptions, DataOptions, ModelOptions
):
    """Everything the core needs to know about a run."""


@dataclass(frozen=True)
class Resolved:
    """A complete configuration: the core's options, the algorithm's, and where each value came from."""

    algo: str
    core: TrainConfig
    algorithm: Any
    origin: dict[str, str]
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The algorithm's options as they were given, before its class looked at them."""

    def of_class(self, cls: type[Algorithm]) -> Resolved:
        """The same with the options of another class of the same algorithm."""
        config = build(cls.Config, self.own, what=f"algorithm {self.algo}", where=self.origin)
        return dataclasses.replace(self, algorithm=config)

    def as_dict(self) -> dict[str, Any]:
        """Flat JSON types, as in run.yaml; runs again as it is."""
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
"""What other trainers call an option, and its name here: their users find it by the message."""

RESERVED = {"algo", "config", "recipe", "stage", "laptop", "dry_run", "as_json", "json", "quiet", "help"}
"""Flags and arguments of `train` that are no options."""
TO_COME = {
    "teacher", "opponent", "environment", "optimizer", "quantize", "base_dtype", "offload", "tensor_parallel", "ema",
    "max_time", "stream", "staleness",
}  # fmt: skip
"""Names that later options of the core will have."""
CORE_NAMES = frozenset({option.name for option in options_of(TrainConfig)} | RESERVED | TO_COME)
"""No option of an algorithm may be called so."""


ONLINE_ONLY = ("reward", "gold_reward", "minibatches", "rollout_epochs", "eval_prompts", "reference_every")
"""Options that mean nothing to an algorithm that does not learn from its own answers."""


def resolve(
    algo: str,
    cls: type[Algorithm],
    layers: Sequence[tuple[str, Mapping[str, Any]]],
    data_defaults: Callable[[str, type[Algorithm]], Mapping[str, Any]] | None = None,
) -> Resolved:
    """Put the options together; later layers outrank earlier ones.

    layers: (origin, values) of the YAML file and the command line; data_defaults: what a source brings for an
    algorithm, which stands below them. Raises ZooError on unknown names and bad values.
    """
    core_options, own_options = options_of(TrainConfig), options_of(cls.Config)
    core_names, own_names = {o.name for o in core_options}, {o.name for o in own_options}
    values: dict[str, Any] = {}
    origin = dict.fromkeys(core_names, "default") | dict.fromkeys(own_names, f"default of {algo}")
    own_layers = [(f"default of {algo}", cls.defaults), *_variant(algo, cls, layers)]
    data = next((str(given["data"]) for _, given in reversed([*own_layers, *layers]) if given.get("data")), DATA)
    brought = [(f"data {data}", data_defaults(data, cls))] if data_defaults else []
    for source, given in [*own_layers, *brought, *layers]:
        for name, value in given.items():
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
    name = next((given["variant"] for _, given in reversed(layers) if "variant" in given), None)
    if name in (None, "none"):
        return []
    if name not in cls.variants:
        hint = f"It has: {', '.join(cls.variants)}." if cls.variants else "It has none; leave --variant out."
        raise ZooError(f"Algorithm '{algo}' has no variant '{name}'.{nearest(name, cls.variants)}", hint)
    return [(f"variant {name}", cls.variants[name])]


def _refuse_online(algo: str, cls: type[Algorithm], values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Raises ZooError for options that an offline algorithm would take and never look at."""
    for name in ONLINE_ONLY:
        if values.get(name) is not None and origin[name] in ("command line", "keyword argument") and not cls.online():
            raise ZooError(
                f"--{name.replace('_', '-')} is for algorithms that learn from their policy's own answers, and {algo} "
                "learns from the data.",
                "`zoo algos` tells which do. To score answers: zoo eval MODEL --reward …",
            )
