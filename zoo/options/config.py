"""The core's options, and how their values are resolved.

Every option has one flat name. Its value comes from the core's defaults, the algorithm's defaults, the data, a YAML
file, or the command line (or keyword arguments); each of these overrides those before it. A default that depends on the
model is a list of points (`zoo.options.points`); it gets its value here, or later if the model is not there yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.errors import ZooError, nearest
from zoo.options.fields import build, options_of, refuse_unknown
from zoo.options.points import OPTIMIZER, Choice, Point, Weights, choose, is_points, unscaled
from zoo.options.roles import ONE, ROLES, Role
from zoo.options.spelling import name_in, parse, spell

if TYPE_CHECKING:
    from zoo.contract.algorithm import Algorithm

DATA = "starter"
"""The training data when none is named."""
DEFAULT = "default"
"""The origin of a value that is the core's default."""
OF_ENVIRONMENT = "environment"
"""The reward that an environment gives, by default in a run that has one."""
AUTO = "auto"
"""The value of `score` for the data's own evaluation."""


@dataclass
class ModelOptions:
    """Model"""

    model: str = "smollm2-135m"
    """The initial model: a local folder, a hub name, a .gguf file, a run (`last`, `runs/mine`), its checkpoint
    (`last@step-200`), or smollm2-135m."""
    reference: str | None = None
    """The frozen reference model; by default the weights that training starts from."""
    teacher: str | None = None
    """The frozen teacher, for algorithms that have one (zoo algos NAME says what each needs): any model that --model
    takes, or one for each domain of the rows: math=MODEL,code=MODEL."""
    lora: bool = False
    """Train low-rank adapters instead of all weights."""
    lora_continue: bool = False
    """Train the adapters that the model comes with further; without it they are merged, and new ones are trained on
    top of them."""
    adapter: str | None = None
    """Which adapter to take of a model folder that has several; default is the one in the folder itself."""
    lora_rank: int = 16
    """Rank r of the adapters."""
    lora_alpha: float = 32.0
    """Scale α of the adapters: their output is multiplied by α/r."""
    lora_dropout: float = 0.0
    """Dropout on the input of the adapters."""
    lora_kind: Literal["lora", "rslora", "dora", "dora+rslora", "pissa", "pissa_niter_16"] = "lora"
    """lora; rslora divides α by √r instead of r; dora also trains the length of each row of a matrix; or both; pissa
    begins with the largest singular values of each matrix, pissa_niter_16 with a fast estimate of them."""
    lora_plus: float = 1.0
    """Learning rate of the adapters' matrices B over that of A; LoRA+ takes 16."""
    lora_targets: list[str] | str = "all-linear"
    """Modules that get adapters: all-linear, or names as peft takes them; experts, for the weights of the experts of a
    mixture of experts."""
    train_modules: list[str] | str = ""
    """Modules whose weights are all trained beside the adapters of lora, separated by commas: lm_head,norm (peft's
    modules_to_save)."""
    freeze_routers: bool = False
    """Do not train the routers of a mixture of experts."""
    router_aux_loss: float | None = None
    """Coefficient of the auxiliary loss by which the routers of a mixture of experts load them evenly; by default the
    model's own, or 0 with frozen routers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_layers: int | None = None
    """With gradient_checkpointing, recompute the first N layers alone; by default all."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Accepted only on the command line, never from a file."""


@dataclass
class DataOptions:
    """Data"""

    data: str = DATA
    """The training data: a file or folder (jsonl, json, csv, parquet, arrow), a hub dataset, a named source, or a
    mixture of them: 0.7*chat.jsonl + 0.3*maths.jsonl."""
    mix_by: Literal["examples", "tokens"] = "examples"
    """What the weights of a mixture are shares of: the examples, or the tokens."""
    split: str = "train"
    """Split of the data."""
    columns: dict[str, str] | str | None = None
    """Which column is which: prompt=question,completion=answer."""
    format: str | None = None
    """The format of the rows, if it cannot be detected (docs/data.md lists the formats). For a named source it selects
    the kind: --data starter --format ranking gives whole rankings instead of pairs."""
    limit: int | None = None
    """Read only the first N rows, of the held-out data too."""
    stream: bool = False
    """Read the data as it comes, for data larger than the disk: files, patterns such as 'shards/*.jsonl', addresses, or
    hub datasets. Needs max_steps and eval_data."""
    shuffle_buffer: int = 10_000
    """Records of a stream among which each example is drawn, at least."""
    data_workers: int | None = None
    """Processes that encode data of many rows; by default the CPU cores."""
    strict: bool = False
    """Stop if any row is bad, instead of dropping and counting it."""
    eval_data: str | None = None
    """Held-out data; by default the source's own held-out split, else a share of the rows."""
    eval_fraction: float = 0.05
    """Share of the prompts to hold out if the data has no held-out rows; 0 turns validation off."""
    decay_data: str | None = None
    """Other data for the decay phase of the wsd schedule (mid-training)."""
    decay_mix: float = 1.0
    """Share of the decay phase's examples that come from decay_data; the rest come from data."""
    template: str = "auto"
    """Chat template: auto (the model's own), none (raw text), a name (`zoo templates`), or a .jinja file."""
    template_args: dict[str, Any] | str | None = None
    """Variables of the chat template: enable_thinking=false,effort=high."""
    new_tokens: list[str] | str = ""
    """Tokens to add to the vocabulary, separated by commas; those that the template needs are added by themselves."""
    max_length: int = 1024
    """Maximum length of prompt plus answer, in tokens."""
    long_rows: Literal["drop", "cut", "split"] = "drop"
    """What to do with longer rows: drop them, cut them, or split them (plain text only). A cut answer gets no
    end-of-turn token."""


@dataclass
class OptimizationOptions:
    """Optimization"""

    variant: str | None = None
    """Preset of the algorithm, under the name its paper uses; `zoo algos NAME` lists them."""
    epochs: float = 1.0
    """Passes over the data; fractions are allowed."""
    max_steps: int | None = None
    """Stop after this many optimizer steps, if `epochs` does not end sooner."""
    batch_size: int = 16
    """Examples per optimizer step, over all processes; for online algorithms, answers. Micro-batches are chosen
    automatically."""
    lr: float = 1e-5
    """Peak learning rate."""
    optimizer: str = "adamw"
    """The optimizer, with its options in brackets: adamw, "adamw(beta2=0.95)", adamw_8bit, paged_adamw_8bit, adafactor,
    lion, muon, rmsprop, or a plugin's; `zoo optimizers` lists them."""
    schedule: str = "cosine"
    """Learning-rate schedule after the warmup: cosine, linear, constant, wsd (warmup-stable-decay, constant until its
    decay phase: "wsd(decay_share=0.2)"), inverse_sqrt, or a plugin's; `zoo schedules` lists them."""
    warmup: float = 0.1
    """Steps of linear warmup; a value below 1 is a share of all steps."""
    lr_floor: float = 0.0
    """Final learning rate, as a share of lr."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer; not applied to norms and biases."""
    max_grad_norm: float = 1.0
    """Clip the gradient to this global norm; 0 for no clipping."""
    ema: float = 0.0
    """Average the trained weights over the steps, with this decay: 0.999 (exponential moving average). Held-out data
    and the finished model see the average; 0 for none."""
    seed: int = 0
    """Seed for everything random."""


@dataclass
class RolloutOptions:
    """Rollouts"""

    reward: str | None = None
    """The reward of an answer: `instructions`, a run of a reward model, module:function, or a sum of these
    (docs/rewards.md); by default the data's own."""
    gold_reward: str | None = None
    """A reward that is measured on held-out prompts but never trained on, to detect over-optimisation."""
    environment: str | None = None
    """What answers the policy in an episode of several turns: calculator, a plugin's environment, or mine.py:Class
    (docs/environments.md); by default an answer is one turn. Its own reward is then the default of reward."""
    max_turns: int = 8
    """Turns of the policy in an episode; one that goes on after these is cut."""
    environment_timeout: float = 30.0
    """Time limit for one answer of the environment, in seconds; an episode that waits longer has no reward."""
    reward_timeout: float = 30.0
    """Time limit for scoring a batch of answers, in seconds; answers not scored by then have no reward."""
    answers_per_prompt: int = 1
    """Answers that the policy generates per prompt."""
    minibatches: int = 1
    """Optimizer steps in one pass over a rollout, which has batch_size · minibatches answers."""
    rollout_epochs: int = 1
    """Passes over each rollout."""
    max_new_tokens: int = 128
    """Maximum length of an answer, in tokens."""
    token_budget: int = 0
    """Mean tokens per answer that a rollout may use: when they are spent, the longest answers are cut, so that the
    rollout does not wait for a few. 0 for no budget."""
    temperature: float = 1.0
    """Sampling temperature; log-probabilities are computed at the same temperature."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens with this total probability (nucleus sampling); 1 for all."""
    stop: list[str] | str = ""
    """Strings that end an answer, separated by commas."""
    engine: str = "local"
    """What generates the answers: local, in this process, or a plugin's engine."""
    critic: Literal["own", "head"] = "own"
    """The critic, for algorithms that have one: own, a separate model, or head, a value head on the policy."""
    critic_model: str | None = None
    """The initial model of a separate critic, such as the run of a reward model; by default the policy's."""
    critic_lr: float | None = None
    """Peak learning rate of the critic; by default the policy's, or five times it for a head, which starts at zero. An
    algorithm may have one for a separate critic by its size."""
    judge: str | None = None
    """The judge, for algorithms that have one: a model, a run, or https://host/v1#model; by default the model that
    training starts from."""
    reference_every: int = 0
    """Reset the reference to the current policy every N optimizer steps; 0 for never."""
    eval_prompts: int = 64
    """Held-out prompts that a validation generates answers to."""


@dataclass
class EvaluationOptions:
    """Validation and stopping"""

    eval_every: int | None = None
    """Validate every N steps. By default four times a run, twice if the held-out records are more than an eighth of the
    run's examples, and only at the end if they are more than a quarter (an algorithm that measures in a first pass
    reads each of them twice); always four times with keep_best, keep_top or patience."""
    best_metric: str = "val/loss"
    """Metric for keep_best, keep_top and patience."""
    best_mode: Literal["auto", "min", "max"] = "auto"
    """Whether lower or higher is better; auto infers it for losses, rewards, accuracies, margins and grades."""
    keep_best: bool = False
    """Write the weights with the best validation to model/, instead of the last ones."""
    patience: int | None = None
    """Stop when the metric has not improved for this many validations."""
    score: list[str] | str = AUTO
    """Evaluations to run before and after training: names as in `zoo eval`, auto (the data's own), or none."""


@dataclass
class GuardOptions:
    """Guards"""

    guards: list[str] | str = ""
    """Guards to change or to add, separated by commas: loss_spike(action=rollback, k=8), entropy(action=off). The
    actions are off, warn, skip, rollback and stop; `zoo guards` lists the guards."""
    max_rollbacks: int = 3
    """Rollbacks to a checkpoint after which the next one stops the run."""
    rollback_lr: float = 1.0
    """Factor for the learning rate after each rollback."""


@dataclass
class ComputeOptions:
    """Compute"""

    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    """Numerical precision; auto chooses what is fast on the device."""
    base_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrices that are not trained: those under adapters, and those of frozen roles. auto is bfloat16 with
    bf16-mixed, which computes the same with them."""
    quantize: Literal["nf4", "int8"] | None = None
    """Keep the matrices that are not trained, under adapters and in frozen roles, in 4 bits (nf4, which with lora is
    QLoRA) or 8 (int8), and widen them for each product. Needs bitsandbytes."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, mps."""
    devices: int = 1
    """Processes on this machine."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """How several processes share the work: auto, ddp (each has the whole model), fsdp (each has a part of it)."""
    tensor_parallel: int = 1
    """Processes that compute each layer together, each with a part of its matrices, on the same rows."""
    offload: bool = False
    """With fsdp: weights, gradients and optimizer state in the CPU's memory."""
    layout: Literal["auto", "shared", "packed", "padded"] = "auto"
    """How texts are arranged in rows: shared prompts, packed rows, or one padded row each. The result is the same."""
    micro_tokens: int | None = None
    """Maximum tokens per micro-batch; by default chosen from the free memory, and halved when memory runs out."""
    reference_cache: Literal["auto", "off"] = "auto"
    """Keep reference log-probabilities on disk, keyed by content."""


@dataclass
class RunOptions:
    """Run folder"""

    name: str | None = None
    """Name of the run; by default made from the algorithm, the model and a number."""
    out: str = "runs"
    """Folder that holds the runs."""
    save_every: int = 100
    """Write a checkpoint every N steps; 0 writes one only on ctrl-C."""
    keep_last: int = 1
    """Checkpoints to keep while the run goes on: the newest N."""
    keep_checkpoints: bool = False
    """Keep these, and one of the last step, when the run is finished."""
    keep_every: int = 0
    """Write a checkpoint every N steps and keep it for good; 0 for none."""
    keep_top: int = 0
    """Write a checkpoint after each of the N best validations by best_metric, and keep it for good; 0 for none."""
    max_time: str | None = None
    """Save and end before this much time has passed: 90s, 45m, 3h50m, 1-02:00:00. `zoo resume` goes on, with the same
    time again."""
    log_every: int = 1
    """Write metrics every N steps."""
    loggers: list[str] | str = ""
    """Additional Lightning loggers: tensorboard, wandb, csv, mlflow."""


@dataclass
class TrainConfig(
    RunOptions,
    ComputeOptions,
    GuardOptions,
    EvaluationOptions,
    RolloutOptions,
    OptimizationOptions,
    DataOptions,
    ModelOptions,
):
    """All options of the core."""

    @property
    def frozen_dtype(self) -> str:
        """How matrices that are not trained are kept: as `--quantize` says, else `--base-dtype`."""
        return self.quantize or self.base_dtype

    @property
    def copy_dtype(self) -> str:
        """The same for a copy of a policy that is trained in full: the policy begins at it, so it is not rounded."""
        return AUTO if self.base_dtype == "bfloat16" else self.base_dtype

    @property
    def recomputes_all(self) -> bool:
        """Whether the activations of all layers are recomputed."""
        return self.gradient_checkpointing and self.checkpoint_layers is None


@dataclass(frozen=True)
class Resolved:
    """A complete configuration: the core's options, the algorithm's options, and the origin of each value."""

    algo: str
    core: TrainConfig
    algorithm: Any
    origin: dict[str, str]
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The algorithm's options as given, before its class checked them."""
    roles: Mapping[str, Role] = dataclasses.field(default_factory=lambda: ROLES)
    """The roles that the algorithm may have."""
    points: Mapping[str, Sequence[Point]] = dataclasses.field(default_factory=dict)
    """Options of the core whose value depends on the model."""
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    """Why an option has its default, where that is known."""
    choices: dict[str, Choice] = dataclasses.field(default_factory=dict)
    """The choices among the points."""
    notes: tuple[str, ...] = ()
    """Sentences about options that are spelled otherwise by now."""

    def is_copy(self, role: str) -> bool:
        """Whether a frozen role has the weights that a policy which is trained in full begins with.

        With adapters, it is the policy without them.
        """
        facts = self.roles[role]
        starts_there = facts.is_frozen_copy and facts.start == "policy" and self.value(facts.option) is None
        return starts_there and not self.core.lora

    def choose(self, weights_of: Weights) -> None:
        """Give the options that depend on the model their values.

        Adapters matter to `lr` alone. A critic of its own is trained in full and has its own size; its rate follows the
        policy's if that was given.
        """
        for name, points in self.points.items():
            critic = name == "critic_lr"
            if critic and (self.core.critic != "own" or "lr" not in self.points):
                continue
            model = (self.core.critic_model if critic else None) or self.core.model
            lora = self.core.lora and name == "lr"
            choice = choose(name, points, weights_of(model, self.core.out), lora, name_in(self.core.optimizer))
            setattr(self.core, name, choice.value)
            self.choices[name], self.reasons[name] = choice, choice.reason
        if "lr" not in self.points and is_default(self.origin["lr"]):
            weights = weights_of(self.core.model, self.core.out)
            set_with = self.origin["optimizer"] if self.origin["optimizer"] == self.origin["lr"] else None
            optimizer = OPTIMIZER if set_with else name_in(self.core.optimizer)
            choice = unscaled("lr", self.core.lr, weights or 0, optimizer)
            if choice.notes:
                self.choices["lr"], self.reasons["lr"] = choice, choice.reason

    def origins(self) -> dict[str, str]:
        """Where each value came from; for those that depend on the model with the reason."""
        return {name: self.came(name) if name in self.choices else text for name, text in self.origin.items()}

    def came(self, name: str) -> str:
        """Where a value came from, and why."""
        if name in self.choices:
            return f"{self.origin[name]}: {self.reasons[name]}"
        return ". ".join(filter(None, (self.origin[name], self.reasons.get(name))))

    def of_class(self, cls: type[Algorithm]) -> Resolved:
        """The same configuration with another class for the algorithm's options."""
        config = build(cls.Config, self.own, what=f"algorithm {self.algo}", where=self.origin)
        return dataclasses.replace(self, algorithm=config)

    def value(self, name: str) -> Any:
        """The value of an option, of the core or of the algorithm."""
        return getattr(self.core if hasattr(self.core, name) else self.algorithm, name)

    def models(self, role: str) -> dict[str, str | None]:
        """The models that are named for a role, by domain; {ONE: None} if none is. Raises ZooError."""
        facts = self.roles[role]
        text = self.value(facts.option)
        return {ONE: None} if text is None else dict(facts.models(text))

    def set(self, name: str, value: Any) -> None:
        """Change an option, of the core or of the algorithm."""
        setattr(self.core if hasattr(self.core, name) else self.algorithm, name, value)

    def typed(self, name: str) -> bool:
        """Whether the option was given by hand, in a command or a call, and not by a default or a file."""
        return self.origin[name] in BY_HAND

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
    "teacher_model": "teacher",
    "teacher_model_name_or_path": "teacher",
    "load_in_4bit": "quantize",
    "load_in_8bit": "quantize",
    "quantization_bit": "quantize",
    "use_peft": "lora",
    "adapter_name": "adapter",
    "lora_r": "lora_rank",
    "modules_to_save": "train_modules",
    "lora_modules_to_save": "train_modules",
    "additional_target": "train_modules",
    "use_dora": "lora_kind",
    "init_lora_weights": "lora_kind",
    "recompute_num_layers": "checkpoint_layers",
    "use_rslora": "lora_kind",
    "loraplus_lr_ratio": "lora_plus",
    "router_aux_loss_coef": "router_aux_loss",
    "dataset": "data",
    "dataset_name": "data",
    "streaming": "stream",
    "shuffle_buffer_size": "shuffle_buffer",
    "buffer_size": "shuffle_buffer",
    "max_seq_length": "max_length",
    "max_prompt_length": "max_length",
    "output_dir": "out",
    "run_name": "name",
    "lr_scheduler_type": "schedule",
    "optim": "optimizer",
    "adam_epsilon": "optimizer",
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
"""Names of options in other trainers, with zoo's name: the error message points their users to it."""

FREE = (
    "name", "out", "loggers", "data_workers", "keep_checkpoints", "keep_last", "keep_every", "keep_top", "save_every",
    "max_time",
)  # fmt: skip
"""Options that change what is stored or where, never the result; a resume may have other ones."""
TOLD = (
    "accelerator", "devices", "num_nodes", "strategy", "tensor_parallel", "offload", "layout", "micro_tokens",
    "gradient_checkpointing", "checkpoint_layers", "base_dtype", "reference_cache", "reward_timeout",
    "environment_timeout", "log_every",
    "trust_remote_code",
    "versions", "device",
)  # fmt: skip
"""What changes a result by rounding, by luck or in no number at all: a resume tells it, and goes on."""

RESERVED = {
    "algo",
    "config",
    "recipe",
    "stage",
    "laptop",
    "small",
    "gpu",
    "resume",
    "dry_run",
    "as_json",
    "json",
    "quiet",
    "help",
}
"""Flags and arguments of `train` that are not options."""
TO_COME = {"staleness"}
"""Names reserved for future options of the core."""
FORMER = {
    "adam_beta1": ("optimizer", "adamw", "beta1"),
    "adam_beta2": ("optimizer", "adamw", "beta2"),
    "adam_eps": ("optimizer", "adamw", "eps"),
    "decay_share": ("schedule", "wsd", "decay_share"),
}
"""Former options, by name: the option whose text has them now, what they belong to, and their name there."""
CORE_NAMES = frozenset({option.name for option in options_of(TrainConfig)} | RESERVED | TO_COME | set(FORMER))
"""Names that an algorithm's own options may not have."""


NUMBERS = frozenset(
    option.name for option in options_of(TrainConfig) if {int, float} & {option.type, *get_args(option.type)}
)  # fmt: skip
"""Options of the core that may depend on the model: a default may be a list of points."""


ONLINE_ONLY = (
    "reward", "gold_reward", "minibatches", "rollout_epochs", "eval_prompts", "reference_every", "engine",
    "environment",
)  # fmt: skip
"""Options without effect for an algorithm that does not learn from its own answers."""
BY_HAND = ("command line", "keyword argument")
"""Origins of the values that somebody typed."""
OF_DEFAULTS = ("default of ", "variant ", "data ", "environment ")
"""How the origins begin of values that nobody gave for this run, but for the core's defaults."""


def own_default(algo: str) -> str:
    """The origin of an algorithm's default."""
    return f"default of {algo}"


def is_default(origin: str) -> bool:
    """Whether nobody gave a value of this origin for the run."""
    return origin == DEFAULT or origin.startswith(OF_DEFAULTS)


def resolve(
    algo: str,
    cls: type[Algorithm],
    layers: Sequence[tuple[str, Mapping[str, Any]]],
    data_defaults: Callable[[str, type[Algorithm]], Mapping[str, Any]] | None = None,
    weights_of: Weights = lambda model, out: None,
    data_of: Callable[[str], str] = lambda environment: "",
) -> Resolved:
    """Resolve all options; later layers override earlier ones.

    layers: (origin, values) of the YAML file and the command line; data_defaults: gives a source's defaults for an
    algorithm, which these layers override; weights_of: gives the size of a model, for defaults that depend on it;
    data_of: gives the source of an environment. Raises ZooError for unknown names and bad values.
    """
    core_options, own_options = options_of(TrainConfig), options_of(cls.Config)
    core_names, own_names = {o.name for o in core_options}, {o.name for o in own_options}
    values: dict[str, Any] = {}
    origin = dict.fromkeys(core_names, DEFAULT) | dict.fromkeys(own_names, own_default(algo))
    own_layers = [(own_default(algo), cls.defaults), *_variant(algo, cls, layers)]
    environment = _last("environment", layers)
    data = _last("data", [*own_layers, *layers]) or (data_of(environment) if environment else "") or DATA
    brought = [(f"data {data}", data_defaults(data, cls))] if data_defaults else []
    if environment := environment or _last("environment", brought):
        # It knows what an episode is worth, whatever the data's own reward is.
        brought.append((f"environment {environment}", {"reward": OF_ENVIRONMENT, "data": data}))
    notes: list[str] = []
    for source, layer in [*own_layers, *brought, *layers]:
        for name, value in _translated(layer, values, source, notes).items():
            if not (name == "score" and value == AUTO):
                values[name], origin[name] = value, source
    if values.get("trust_remote_code") and origin["trust_remote_code"] not in (DEFAULT, *BY_HAND):
        raise ZooError(f"trust_remote_code cannot be set in {origin['trust_remote_code']}.", "Give it as a flag.")
    command = f"zoo train --algo {algo} --help"
    names = [*(option.name for option in own_options), *(option.name for option in core_options)]
    refuse_unknown(values, names, what=f"--algo {algo}", where=origin, listed_by=command, other_names=OTHER_NAMES)
    _refuse_online(algo, cls, values, origin)
    points = {name: value for name, value in values.items() if is_points(value)}
    core_values = {name: value for name, value in values.items() if name in core_names and name not in points}
    own_values = {name: value for name, value in values.items() if name in own_names}
    core = build(TrainConfig, core_values, what="zoo train", where=origin)
    own = build(cls.Config, own_values, what=f"algorithm {algo}", where=origin)
    if "critic_lr" in points and "critic" not in cls().roles(own):
        del points["critic_lr"]
    reasons = {name: text for name, text in cls.reasons.items() if origin.get(name) in (DEFAULT, own_default(algo))}
    resolved = Resolved(algo, core, own, origin, own_values, cls.role_table(), points, reasons, notes=tuple(notes))
    resolved.choose(weights_of)
    return resolved


def _last(name: str, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The text that the last of these layers sets an option to, "" if none does."""
    return next((str(layer[name]) for _, layer in reversed(layers) if layer.get(name)), "")


def _translated(layer: Mapping[str, Any], below: Mapping[str, Any], source: str, notes: list[str]) -> dict[str, Any]:
    """A layer with its former options in the texts of those that have them now; adds a note for each.

    below: the values of the layers below. One that belongs to something else than what is chosen has no effect; raises
    ZooError if it was typed.
    """
    values = {name: value for name, value in layer.items() if name not in FORMER}
    for name in (name for name in layer if name in FORMER):
        option, owner, key = FORMER[name]
        text = str(values.get(option, below.get(option, getattr(TrainConfig, option))))
        if name_in(text) == owner:
            chosen, options = parse(text, option)
            values[option] = spell(chosen, {**options, key: layer[name]})
            notes.append(f"{name} ({source}) belongs to {owner} by now: write {option} '{values[option]}'.")
        elif source in BY_HAND:
            raise ZooError(
                f"Option '{name}' ({source}) is one of {owner}, but the {option} is {text}.",
                f"Leave it out; `zoo {option}s {name_in(text)}` shows the options of {name_in(text)}.",
            )
    return values


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
        if values.get(name) is not None and origin[name] in BY_HAND and not cls.online():
            raise ZooError(
                f"--{name.replace('_', '-')} is for algorithms that learn from their policy's own answers; {algo} "
                "learns from the data.",
                "`zoo algos` shows which are online. To score answers: zoo eval MODEL --reward …",
            )
