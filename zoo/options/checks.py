"""Checks for values of the right type that still cannot work, before anything is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.numbers import amount, seconds_in
from zoo.options.config import BY_HAND, Resolved, TrainConfig
from zoo.options.roles import TRAINED
from zoo.options.spelling import name_in, split

Rule = tuple[Callable[[Any], bool], str]


def _is_time(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return seconds_in(text) > 0
    return False


MOST_EPOCHS = 10**9
"""Beyond that the number of steps cannot be counted."""
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
POSITIVE: Rule = (lambda value: value > 0, "above 0")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "0 or more")
SHARE: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
RULES: dict[str, Rule] = {
    "seed": (lambda value: 0 <= value < 2**63, "at least 0 and below 2^63"),
    "epochs": (lambda value: 0 < value <= MOST_EPOCHS, f"above 0 and at most {MOST_EPOCHS:,}"),
    **dict.fromkeys(("batch_size", "max_steps", "limit", "micro_tokens", "data_workers"), POSITIVE),
    "checkpoint_layers": POSITIVE,
    "shuffle_buffer": POSITIVE,
    **dict.fromkeys(("lora_rank", "lora_alpha", "lora_plus"), POSITIVE),
    **dict.fromkeys(("devices", "num_nodes", "tensor_parallel"), POSITIVE),
    **dict.fromkeys(("eval_every", "patience", "log_every", "keep_last"), POSITIVE),
    **dict.fromkeys(("reward_timeout", "answers_per_prompt", "minibatches", "rollout_epochs"), POSITIVE),
    **dict.fromkeys(("max_new_tokens", "max_turns", "environment_timeout", "eval_prompts", "critic_lr"), POSITIVE),
    **dict.fromkeys(
        ("temperature", "top_k", "reference_every", "keep_every", "keep_top", "max_rollbacks", "router_aux_loss"),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(("lr", "lr_floor", "warmup", "weight_decay", "max_grad_norm", "save_every"), NOT_NEGATIVE),
    **dict.fromkeys(("decay_mix", "rollback_lr"), (lambda value: 0 < value <= 1, "above 0 and at most 1")),
    **dict.fromkeys(("eval_fraction", "lora_dropout", "ema"), SHARE),
    "max_length": (lambda value: value >= 2, "2 or more, a token of the prompt and one of the answer"),
    "accelerator": (lambda value: value in ACCELERATORS, f"one of {', '.join(ACCELERATORS)}"),
    "max_time": (_is_time, "a time with its unit, such as 90s, 45m, 3h50m or 1-02:00:00"),
}
EXAMPLES = {"max_time": "3h50m"}
"""What to write for an option that has no default and is no number."""
FSDP = "fsdp"
STRATEGIES = ("auto", "ddp", FSDP)
LOGGERS = {
    "tensorboard": ("TensorBoardLogger", "tensorboard"),
    "wandb": ("WandbLogger", "wandb"),
    "csv": ("CSVLogger", ""),
    "mlflow": ("MLFlowLogger", "mlflow"),
}
"""Lightning's class for each logger, and the package that it needs."""
STAND_INS = {"tensorboard": "tensorboardX"}
"""Packages that serve as a substitute."""
FEWEST = 20
"""From this many records on, a share of them is held out."""


def _example(name: str, allowed: Callable[[Any], bool]) -> Any:
    """A value that an option may have, and that does something."""
    values = (EXAMPLES.get(name), getattr(TrainConfig(), name), 1, 0.1)
    return next(value for value in values if value and allowed(value))


def check_values(core: TrainConfig, origin: dict[str, str]) -> None:
    """Raises ZooError that names the option, its value, and where the value came from."""
    for field in dataclasses.fields(core):
        if getattr(core, field.name) == "" != field.default:
            flag = "--" + field.name.replace("_", "-")
            raise ZooError(
                f"Option '{field.name}' ({origin.get(field.name, 'default')}) is empty.",
                f"Give {flag} a value, or leave it out.",
            )
    for name, (allowed, wanted) in RULES.items():
        value = getattr(core, name)
        if value is not None and not allowed(value):
            flag = "--" + name.replace("_", "-")
            raise ZooError(
                f"Option '{name}' ({origin.get(name, 'default')}) must be {wanted}, got {value!r}.",
                f"Write for example {flag} {_example(name, allowed)}.",
            )
    check_tensor_parallel(core)
    shares = core.devices * core.num_nodes // core.tensor_parallel
    if core.batch_size < shares:
        raise ZooError(
            f"batch_size {core.batch_size} is below the {shares} processes: each needs an example in every step.",
            "Raise --batch-size, or use fewer --devices.",
        )
    if core.decay_data is not None and name_in(core.schedule) != "wsd":
        raise ZooError(
            f"--decay-data is for the decay phase of the schedule wsd, but the schedule is {core.schedule}.",
            "Add --schedule wsd, or leave out --decay-data.",
        )
    check_stream(core, origin)
    if core.ema and core.precision in ("bf16-true", "16-true"):
        raise ZooError(
            f"--ema {core.ema:g} needs weights of 32 bits: in {core.precision} a small change is rounded away.",
            "Use --precision bf16-mixed, or leave out --ema.",
        )
    if core.ema and name_in(core.engine) != "local":
        raise ZooError(
            f"--ema {core.ema:g} validates with averaged weights, which the engine {core.engine} does not have.",
            "Leave out --engine, or leave out --ema.",
        )
    if core.strategy not in STRATEGIES:
        raise ZooError(
            f"There is no strategy '{core.strategy}'.{nearest(core.strategy, STRATEGIES)}",
            f"Use {', '.join(STRATEGIES)}.",
        )
    if core.lora and not core.lora_continue:
        check_kind(core, core.lora_kind)
    if core.quantize and core.strategy == FSDP:
        raise ZooError(
            f"--quantize {core.quantize} cannot be shared out: blocks of quantised weights are no matrices.",
            f"Leave out --strategy {FSDP}, and each process keeps its quantised copy; or leave out --quantize.",
        )
    if (name := name_in(core.optimizer)) in OF_BITSANDBYTES and core.strategy == FSDP:
        raise ZooError(
            f"The optimizer {name} is bitsandbytes', which cannot read weights that are shared out.",
            f"Use --optimizer adamw or adafactor, or leave out --strategy {FSDP}.",
        )
    if core.offload and core.strategy != FSDP:
        raise ZooError("--offload is for models that are sharded.", f"Add --strategy {FSDP}, or leave out --offload.")


NEW_ADAPTERS = "Leave out --lora-continue, and new adapters are trained"
"""What to do where the adapters of a model cannot go on."""


def check_kind(core: TrainConfig, kind: str, brought_by: str = "") -> None:
    """Raises ZooError where adapters of this kind do not go with other options.

    kind: as of `--lora-kind`; brought_by: the model with adapters that are to go on, whatever that option says.
    """
    named = f"The kind of the adapters of {brought_by}, {kind}," if brought_by else f"--lora-kind {kind}"

    def others(kinds: str) -> str:
        return NEW_ADAPTERS if brought_by else f"Use --lora-kind {kinds}"

    if core.quantize and "dora" in kind:
        raise ZooError(
            f"{named} reads whole matrices, and --quantize {core.quantize} keeps them packed.",
            f"{others('lora, rslora or pissa')}, or leave out --quantize.",
        )
    if core.tensor_parallel > 1 and any(part in kind for part in ("dora", "pissa")):
        raise ZooError(
            f"{named} reads whole matrices, and --tensor-parallel cuts them.",
            f"{others('lora or rslora')}, or use --strategy fsdp alone.",
        )
    if core.lora_dropout and "pissa" in kind:
        raise ZooError(
            f"{named} has no dropout: what it drops would be taken away from the base.",
            "Leave out --lora-dropout, or take another --lora-kind.",
        )


OF_BITSANDBYTES = ("adamw_8bit", "paged_adamw_8bit")
WHOLE_MATRICES = ("muon", "adafactor")
"""Optimizers for which a part of a matrix is not what the matrix is."""


def check_tensor_parallel(core: TrainConfig) -> None:
    """Raises ZooError for tensor groups into which the processes cannot be divided, or with what they cannot have."""
    size, processes = core.tensor_parallel, core.devices * core.num_nodes
    if size == 1:
        return
    if processes % size or (core.num_nodes > 1 and core.devices % size):
        count = core.devices if core.num_nodes > 1 else processes
        where = f"{amount(count, 'process', 'processes')}{' of a machine' if core.num_nodes > 1 else ''}"
        raise ZooError(
            f"--tensor-parallel {size} does not divide the {where} of --devices: a group lies on one machine.",
            f"Add --devices {size}, or a multiple of it; --tensor-parallel 1 cuts nothing.",
        )
    if core.strategy == "ddp":
        raise ZooError(
            f"--tensor-parallel {size} cuts the layers, and --strategy ddp keeps whole copies of them.",
            f"Leave out --strategy ddp{f', or take --strategy {FSDP}' if processes > size else ''}.",
        )
    if core.strategy != FSDP and processes > size:
        raise ZooError(
            f"--tensor-parallel {size} with {processes} processes shares out the weights among the groups.",
            f"Add --strategy {FSDP}, or use --devices {size}.",
        )
    if core.quantize:
        raise ZooError(
            f"--quantize {core.quantize} cannot be cut: blocks of quantised weights are no matrices.",
            "Leave out --tensor-parallel, or --quantize.",
        )
    if core.lora and not core.lora_continue:
        check_kind(core, core.lora_kind)
    if (name := name_in(core.optimizer)) in WHOLE_MATRICES:
        raise ZooError(
            f"The optimizer {name} looks at whole matrices, and --tensor-parallel cuts them.",
            "Use --optimizer adamw, or --strategy fsdp alone.",
        )


def check_stream(core: TrainConfig, origin: dict[str, str]) -> None:
    """Raises ZooError for options that a stream needs, and for those that it cannot have."""
    if not core.stream:
        if core.shuffle_buffer != TrainConfig().shuffle_buffer:
            raise ZooError(
                "--shuffle-buffer is for data that is read as it comes; without --stream all records are shuffled.",
                "Add --stream, or leave out --shuffle-buffer.",
            )
        return
    if core.max_steps is None:
        raise ZooError(
            "--stream needs --max-steps: nobody knows how many records are to come.",
            "Add for example --max-steps 1000.",
        )
    if core.eval_data is None and core.eval_fraction:
        raise ZooError(
            "--stream needs --eval-data: no share of what is still to come can be held out.",
            "Name held-out rows with --eval-data FILE, or train without validation: --eval-fraction 0.",
        )
    for name, instead in NOT_OF_A_STREAM.items():
        # The run.yaml of a stream has the epochs that the algorithm has by default.
        typed = name != "epochs" or origin.get(name) in BY_HAND
        if typed and getattr(core, name) != getattr(TrainConfig(), name):
            raise ZooError(
                f"--{name.replace('_', '-')} needs all records, and --stream reads them as they come.", instead
            )


NOT_OF_A_STREAM = {
    "limit": "Leave it out: --max-steps says how much is read.",
    "epochs": "Leave it out: --max-steps says how much is read, and after a pass a stream begins again.",
    "decay_data": "Leave it out, or train twice, the second time with --model last.",
    "mix_by": "Leave it out: the weights of streams are shares of the examples.",
}
"""Options that a stream cannot have, and what to do instead."""


def check_decay(core: TrainConfig, algorithm: Any) -> None:
    """Raises ZooError for decay-phase data if the algorithm (its class) does not train on its data."""
    if core.decay_data is None:
        return
    if algorithm.online():
        raise ZooError(
            f"--decay-data is for algorithms that train on their data; {algorithm.__name__} writes its own answers.",
            "Train twice instead, the second time with --model last and the other data.",
        )


def check_roles(resolved: Resolved, algorithm: Any, roles: Sequence[str]) -> None:
    """Raises ZooError for a role without a model, and for options without effect for the roles of a run.

    algorithm: its class or instance.
    """
    core = resolved.core
    for name in roles:
        _check_named(resolved, name)
    if core.reference_every and algorithm.online() and "reference" not in roles:
        raise ZooError(
            "--reference-every renews the reference, but this run has none.",
            "Leave it out, or give the KL to the reference a weight.",
        )
    if "critic" in roles and core.critic == "head" and core.critic_model is not None:
        raise ZooError("--critic-model is the start of a separate critic.", "Leave it out, or add --critic own.")
    if core.quantize:
        _check_quantised(resolved, roles, algorithm.online())
    if algorithm.online():
        prompts_in_rollout(core)


def _check_named(resolved: Resolved, name: str) -> None:
    """Raises ZooError for a role that nothing names a model of."""
    role = resolved.roles[name]
    if role.start == "named" and resolved.value(role.option) is None:
        flag = f"--{role.option.replace('_', '-')}"
        raise ZooError(
            f"{resolved.algo} learns from a model in the role {name}, and none was named.",
            f"Add {flag} MODEL: a local folder, a hub name, a .gguf file, a run or its checkpoint.",
        )


def _check_quantised(resolved: Resolved, roles: Sequence[str], online: bool) -> None:
    """Raises ZooError where nothing can be quantised, or nothing could be computed with it."""
    core = resolved.core
    frozen = [name for name in roles if name not in TRAINED]
    copies = [name for name in frozen if resolved.is_copy(name)]
    if not (core.lora or frozen != copies or (online and core.reward)):
        why, instead = "this run trains all that it has", ""
        if copies:
            why = f"the only ones here, the {copies[0]}'s, must equal the weights that training starts from"
            instead = f", name another model as --{resolved.roles[copies[0]].option.replace('_', '-')}"
        raise ZooError(
            f"--quantize {core.quantize} is for matrices that are not trained, and {why}.",
            f"Add --lora{instead}, or leave out --quantize.",
        )
    if find_spec("bitsandbytes") is None:
        raise ZooError(
            f"--quantize {core.quantize} needs bitsandbytes, which is not installed.",
            "pip install bitsandbytes",
        )


def check_loggers(names: list[str]) -> None:
    """Raises ZooError for an unknown logger, or one whose package is not installed."""
    check_names(names, LOGGERS, "logger")
    for name in names:
        package = LOGGERS[name][1]
        if package and not any(find_spec(module) for module in filter(None, (package, STAND_INS.get(package)))):
            raise no_package(name, package)


def no_package(name: str, package: str) -> ZooError:
    """The error for a logger whose package is missing."""
    return ZooError(f"The logger {name} needs a package that is not installed.", f"pip install {package}")


def prompts_in_rollout(core: TrainConfig) -> int:
    """The number of prompts in a rollout: the answers of all its steps over the answers per prompt."""
    answers, each = core.batch_size * core.minibatches, core.answers_per_prompt
    if answers % each:
        fitting = math.ceil(core.batch_size / each) * each
        raise ZooError(
            f"A rollout of {amount(answers, 'answer')} (batch_size {core.batch_size} times "
            f"{amount(core.minibatches, 'minibatch', 'minibatches')}) cannot hold {each} answers to each prompt.",
            f"Use for example --batch-size {fitting}.",
        )
    return answers // each


def names_in(wanted: list[str] | str) -> list[str]:
    """Names from a list or from text with commas, which may have options in brackets; `none` is left out."""
    parts = [wanted] if isinstance(wanted, str) else wanted
    names = [name for part in parts for name in split(part) or [part]]
    return [name for name in names if name.strip() and name != "none"]


def check_names(names: list[str], available: Any, what: str) -> None:
    """Raises ZooError with the nearest name for a name that is not among `available`."""
    for name in names:
        if name not in available:
            raise ZooError(
                f"No {what} is called '{name}'.{nearest(name, available)}", f"There are: {', '.join(available)}."
            )
