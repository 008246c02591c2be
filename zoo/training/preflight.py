"""The memory of a run, before anything is loaded: what each role holds at the peak, and which options need less.

It needs configuration files alone. Weights, gradients and activations are those of a step that is traced without
numbers (`zoo.models.memory`), the optimizer's state is measured on small weights. torch is loaded only where the
numbers are not in the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.libraries.quiet import quiet_tracing
from zoo.models.facts import weights_in
from zoo.models.names import read_config
from zoo.numbers import size
from zoo.optimizers.chosen import Chosen
from zoo.options.checks import FSDP, check_values, names_in
from zoo.options.config import TrainConfig
from zoo.options.roles import ROLES, TRAINED
from zoo.processes import free_memory

if TYPE_CHECKING:
    from zoo.models.memory import Held, Step, Way
    from zoo.optimizers.memory import StateBytes

SMALL = 3e6
"""Weights of a model whose memory is not worth a look."""
ROWS, PREFILL, ROOM = 64, 8192, 1.25
"""Answers and prompt tokens that the local engine has in flight, and the share of columns that its block has."""
PROCESS = 43e6
"""What a process takes beside its tensors once it trains: tokenizer, records, threads (`benchmarks/memory.py`)."""
ASSUMED = 80e9
"""Bytes of a GPU for a plan that is made where there is none."""
TIGHT = 0.95
"""Share of the free memory from which a run is warned."""


@dataclass(frozen=True)
class Texts:
    """The texts of a run, in tokens: `answers` answers to a prompt. longest: of the records that were seen.

    apart: each answer is an example, whose prompt counts for each of them, as in an online run.
    """

    prompt: int
    completion: int
    answers: int
    longest: int
    apart: bool = False

    @property
    def counted(self) -> int:
        """The tokens of a prompt and its answers, as micro-batches count them."""
        return (self.answers if self.apart else 1) * self.prompt + self.answers * self.completion

    @property
    def laid_out(self) -> int:
        """The same as they lie in a row that shares prompts."""
        return self.prompt + self.answers * self.completion


@dataclass(frozen=True)
class Plan:
    """What a run will hold. models: the folder of each role's model that stays in memory; steps: None if unknown;
    processes: over all machines; here: on this one; copies: roles with the weights that the policy begins with.
    """

    core: TrainConfig
    models: Mapping[str, Path]
    texts: Texts
    optimizer: Chosen
    online: bool
    steps: int | None
    accelerator: str
    precision: str
    processes: int = 1
    here: int = 1
    copies: Collection[str] = ()

    @property
    def shards(self) -> int:
        """Tensor groups among which weights, gradients and optimizer states are divided."""
        return self.groups if self.core.strategy == "fsdp" else 1

    @property
    def groups(self) -> int:
        """Tensor groups, each of which has a share of every step."""
        return max(1, self.processes // self.core.tensor_parallel)

    @property
    def offloads(self) -> bool:
        """Whether weights, gradients and optimizer states lie in the machine's memory, not on the device."""
        return self.core.offload and self.accelerator == "cuda"

    @property
    def stays(self) -> float:
        """The share of weights, gradients and optimizer states that lies on the device of a process."""
        return 0.0 if self.offloads else 1 / self.shards

    @property
    def tokens(self) -> int:
        """The largest micro-batch of a process."""
        asked = self.core.micro_tokens or self._default_tokens()
        return min(max(asked, self.texts.longest), self.share)

    def _default_tokens(self) -> int:
        from zoo.libraries.architecture import text_of
        from zoo.libraries.tracing import configuration
        from zoo.models.devices import CPU_MICRO_TOKENS, tokens_that_fit

        if self.accelerator != "cuda":
            return CPU_MICRO_TOKENS
        folder = self.models["policy"]
        trained = 0 if self.core.lora else weights_in(folder)[0]
        free, config = int(_free(self)[0] or 0), text_of(configuration(folder))
        return tokens_that_fit(free, trained, config, self.core.recomputes_all)

    @property
    def share(self) -> int:
        """The tokens of a process in a step."""
        prompts = self.core.batch_size / self.groups / (self.texts.answers if self.texts.apart else 1)
        return max(1, round(prompts)) * self.texts.counted


@dataclass
class Need:
    """Bytes of a process: of each role by what they are for, and of the run at the peak of each phase.

    free: what its device has left; rough: an architecture that could not be traced. host: what all `here` processes of
    a machine keep in its memory because of --offload; host_free: what that has left, None if it is another machine.
    """

    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    shards: int = 1
    cut: int = 1
    free: float | None = None
    device: str = "this machine"
    rough: bool = False
    host: float = 0.0
    host_free: float | None = None
    here: int = 1
    remedies: dict[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        return max(self.phases.values(), default=0.0)

    @property
    def fits(self) -> bool:
        return self.fits_device and self.fits_host

    @property
    def fits_device(self) -> bool:
        return self.free is None or self.peak <= TIGHT * self.free

    @property
    def fits_host(self) -> bool:
        return self.host_free is None or self.host <= TIGHT * self.host_free

    def text(self) -> str:
        """One line: the peak, what is free, and the parts."""
        free = "" if self.free is None else f" of {size(round(self.free))} free on {self.device}"
        roles = [f"{role}: {', '.join(f'{what} {size(round(of))}' for what, of in parts.items())}"
                 for role, parts in self.parts.items()]  # fmt: skip
        of_group = f", layers cut among {self.cut} processes" if self.cut > 1 else ""
        shards = f", shards over {self.shards} {'groups' if self.cut > 1 else 'processes'}" if self.shards > 1 else ""
        about = "very roughly" if self.rough else "about"
        return (
            f"{about} {size(round(self.peak))}{free}, micro-batches of {self.tokens:,} tokens{of_group}{shards}. "
            + "; ".join(roles)
            + self._host_text()
        )

    def _host_text(self) -> str:
        if not self.host:
            return ""
        free = "" if self.host_free is None else f" of {size(round(self.host_free))} free"
        return f". Offloaded to the machine's memory, by {self.here} processes: {size(round(self.host))}{free}"

    def warning(self) -> str:
        """What to do where it does not fit; empty where it does."""
        if self.fits_device and self.fits_host:
            return ""
        if self.fits_device:
            free, who, what, device = self.host_free or 0.0, "--offload", self.host, "this machine"
        else:
            free, who, what, device = self.free or 0.0, "This run", self.peak, self.device
        ways = [f"{flags} ({size(round(needed))})" for flags, needed in self.remedies.items()]
        fit = [way for way, needed in zip(ways, self.remedies.values(), strict=True) if needed <= TIGHT * free]
        said = f"It would fit with {' or '.join(fit)}." if fit else f"Less is needed with {', '.join(ways)}."
        return (
            f"{who} needs about {size(round(what))} of memory, and {device} has {size(round(free))} left. "
            f"{said if ways else 'Take a smaller model.'}"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "peak": round(self.peak), "free": None if self.free is None else round(self.free), "fits": self.fits,
            "device": self.device, "rough": self.rough, "micro_tokens": self.tokens, "shards": self.shards,
            "cut": self.cut, "host": round(self.host),
            "host_free": None if self.host_free is None else round(self.host_free),
            "parts": {role: {what: round(of) for what, of in parts.items()} for role, parts in self.parts.items()},
            "phases": {phase: round(of) for phase, of in self.phases.items()},
            "with": {flags: round(of) for flags, of in self.remedies.items()},
        }  # fmt: skip


def preflight(models: Mapping[str, Path], plan_for: Callable[[Mapping[str, Path]], Plan]) -> Need | None:
    """What a run needs, and if that does not fit, what it would need with other options. None for small models.

    models: the folders by role; plan_for: makes the plan from them, which loads torch.
    """
    if max(weights_in(folder)[0] for folder in models.values()) < SMALL:
        return None
    plan = plan_for(models)
    free, device = _free(plan)
    host_free = _host_free(plan)

    def needed(one: Plan) -> Need:
        need = of_plan(one, free)
        need.free, need.device, need.host_free = free, device, host_free
        return need

    need = needed(plan)
    if not need.fits:
        others = {flags: needed(other) for flags, other in _others(plan, need.tokens) if _is_possible(other)}
        if need.fits_device:
            sizes = {flags: (other.host, need.host, other.fits_device) for flags, other in others.items()}
        else:
            sizes = {flags: (other.peak, need.peak, other.fits_host) for flags, other in others.items()}
        need.remedies = {flags: less for flags, (less, now, fits) in sizes.items() if less < 0.97 * now and fits}
    return need


def _free(plan: Plan) -> tuple[float | None, str]:
    """What a process may take of its device."""
    if plan.accelerator == "cuda":
        import torch

        if not torch.cuda.is_available():
            return ASSUMED, "an assumed GPU (there is none here)"
        return min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())), "the GPU"
    left = free_memory()
    device = "this machine" if plan.here == 1 else f"this machine for each of {plan.here} processes"
    return None if left is None else left / plan.here, device


def _host_free(plan: Plan) -> float | None:
    """What the machine of the devices has left; None where that is another one."""
    from zoo.models.devices import is_here

    return free_memory() if is_here(plan.accelerator) else None


def _others(plan: Plan, tokens: int) -> Iterator[tuple[str, Plan]]:
    """Plans that may need less."""
    core = plan.core
    one = plan.texts.longest

    def other(flags: str, **options: Any) -> tuple[str, Plan]:
        return flags, replace(plan, core=replace(core, **options))

    if tokens // 4 >= one:
        yield other(f"--micro-tokens {tokens // 4}", micro_tokens=tokens // 4)
    if not core.gradient_checkpointing:
        yield other("--gradient-checkpointing", gradient_checkpointing=True)
    if not core.lora:
        if plan.optimizer.name != "adafactor":
            flags, with_it = other("--optimizer adafactor", optimizer="adafactor")
            yield flags, replace(with_it, optimizer=_adafactor())
        yield other("--lora", lora=True)
        yield other("--lora --gradient-checkpointing", lora=True, gradient_checkpointing=True)
        yield other(
            "--lora --base-dtype bfloat16 --gradient-checkpointing", lora=True, base_dtype="bfloat16",
            gradient_checkpointing=True,
        )  # fmt: skip
    elif not core.quantize:
        if core.base_dtype != "bfloat16":
            yield other("--base-dtype bfloat16", base_dtype="bfloat16")
        if core.strategy != FSDP and find_spec("bitsandbytes"):
            yield other("--quantize nf4", quantize="nf4")
    if plan.online and core.critic == "own" and "critic" in plan.models:
        models = {role: folder for role, folder in plan.models.items() if role != "critic"}
        yield "--critic head", replace(plan, models=models, core=replace(core, critic="head"))
    yield from _sharded(plan)


def _sharded(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """The plan with its weights divided among more devices, or in the memory of the machine."""
    core = plan.core
    if plan.accelerator != "cuda":
        return
    sharded = "" if core.strategy == FSDP else f"--strategy {FSDP} "
    for devices in (2, 4, 8):
        if devices > plan.here or (sharded and devices == plan.here > core.tensor_parallel):
            more = replace(core, strategy=FSDP, devices=devices)
            processes = devices * core.num_nodes
            yield f"{sharded}--devices {devices}", replace(plan, core=more, processes=processes, here=devices)
    if core.strategy == FSDP and not core.offload:
        more = replace(core, offload=True, gradient_checkpointing=True)
        yield f"--offload{'' if core.gradient_checkpointing else ' --gradient-checkpointing'}", replace(plan, core=more)


def _is_possible(plan: Plan) -> bool:
    """Whether a run takes these options together."""
    try:
        check_values(plan.core, {})
    except ZooError:
        return False
    return True


def _adafactor() -> Chosen:
    from zoo.optimizers.chosen import OPTIMIZERS

    return OPTIMIZERS.choose("adafactor", OPTIMIZERS.bundled)


# -- the sum of a plan ---------------------------------------------------------------------------------------------


AVERAGE = 4.0
"""Bytes a weight of the average of --ema."""


def of_plan(plan: Plan, free: float | None = None) -> Need:
    """The bytes of a process. free: what it may take; a checkpoint is copied only where that has room."""
    from zoo.optimizers.memory import state_bytes

    step, state = _step(plan), state_bytes(plan.optimizer)
    if plan.core.ema:
        state = replace(state, matrices=state.matrices + AVERAGE, others=state.others + AVERAGE)
    need = Need(tokens=plan.tokens, shards=plan.shards, cut=plan.core.tensor_parallel, here=plan.here)
    holds: dict[str, Held] = {}
    for role, folder in plan.models.items():
        of_process, rough = _held(folder, _way(plan, role), step)
        holds[role] = _in_groups(of_process, plan) if is_cut(plan.core, role) else of_process
        need.rough |= rough
    learners = {role: held for role, held in holds.items() if held.gradients}
    for role, held in holds.items():
        need.parts[role] = {"weights": held.weights * (plan.stays if is_cut(plan.core, role) else 1)}
        if role in learners:
            need.parts[role] |= _of_learner(held, state, plan)
            if gathered := _gathered(held, plan):
                need.parts[role]["gathered"] = gathered
    sums = {what: sum(parts.get(what, 0.0) for parts in need.parts.values())
            for what in ("weights", "gradients", "optimizer", "activations")}  # fmt: skip
    kept = sums["weights"] + sums["optimizer"]
    need.phases["steps"] = kept + _steps(learners, plan)
    making = sum(_making(held, state) for held in learners.values()) * plan.stays
    need.phases["optimizer"] = kept + sums["gradients"] + making
    if plan.online and plan.core.engine == "local":
        need.parts["rollouts"] = _of_rollouts(holds["policy"], plan)
        need.phases["rollouts"] = kept + sum(need.parts["rollouts"].values())
    if plan.accelerator == "cpu":
        need.parts["process"] = {"beside tensors": PROCESS}
        need.phases = {phase: bytes + PROCESS for phase, bytes in need.phases.items()}
    if copied := _checkpoint(learners, sums["optimizer"], plan):
        if free is None or need.phases["steps"] + copied < free:
            need.parts["checkpoint"] = {"copy": copied}
            need.phases["steps"] += copied
    if plan.offloads:
        need.host = _of_host(holds, state, plan)
    return need


def _of_host(holds: Mapping[str, Held], state: StateBytes, plan: Plan) -> float:
    """What the processes of a machine have offloaded, at the peak of an optimizer step."""
    weights = sum(held.weights for role, held in holds.items() if is_cut(plan.core, role))
    learned = sum(held.gradients + state.of(held.matrices, held.others) + _making(held, state)
                  for held in holds.values() if held.gradients)  # fmt: skip
    return (weights + learned) * plan.here / plan.shards


def _making(held: Held, state: StateBytes) -> float:
    """What an optimizer step of the whole model makes beside its state."""
    return state.step * (held.matrices + held.others) + state.largest * held.largest / 4


def _in_groups(held: Held, plan: Plan) -> Held:
    """A model whose layers are cut: what is outside of the blocks is shared out among all processes, not the groups."""
    size = plan.core.tensor_parallel
    if size == 1 or plan.core.strategy != FSDP:
        return held
    less, all_of_it = held.outside * (1 - 1 / size), held.gradients >= held.weights
    return replace(
        held, weights=held.weights - less, gradients=held.gradients - less * all_of_it,
        others=held.others / size if all_of_it else held.others,
    )  # fmt: skip


def _of_learner(held: Held, state: StateBytes, plan: Plan) -> dict[str, float]:
    peak = max(held.step, held.rest)
    rounded = held.rounded if peak == held.step else 0.0
    return {
        "gradients": held.gradients * plan.stays,
        "optimizer": state.of(held.matrices, held.others) * plan.stays,
        "activations": peak - rounded,
        **({"rounded weights": rounded} if rounded else {}),
    }


def _steps(learners: Mapping[str, Held], plan: Plan) -> float:
    """Gradients and activations at the peak of a step: with one micro-batch, gradients come as activations go."""
    if plan.share > 1.5 * plan.tokens or len(learners) > 1:
        return sum(
            held.gradients * plan.stays + max(held.step + _gathered(held, plan), held.rest)
            for held in learners.values()
        )
    return sum(
        max(
            held.step + _gathered(held, plan),
            (held.gradients - held.largest) * plan.stays + held.rest,
            held.gradients * plan.stays,
        )
        for held in learners.values()
    )


def _gathered(held: Held, plan: Plan) -> float:
    """What a pass of a sharded model holds beside its parts: what is outside of the blocks, a block, and the next."""
    return held.outside + 2 * held.block if plan.core.strategy == FSDP else 0.0


def _of_rollouts(policy: Held, plan: Plan) -> dict[str, float]:
    """Keys and values of the answers in flight, their logits, the prompts, and weights in the CPU's own layout."""
    core = plan.core
    answers = core.batch_size * core.minibatches
    rows = min(ROWS, answers)
    columns = ROOM * (plan.texts.prompt + core.max_new_tokens)
    prompts = min(PREFILL, rows / max(1, core.answers_per_prompt) * plan.texts.prompt)
    words = int(read_config(plan.models["policy"] / "config.json").get("vocab_size") or 0)
    need = {"cache": rows * columns * policy.cache, "logits": 3.0 * 4 * rows * words}
    need["prompts"] = policy.scoring * prompts / plan.tokens
    if plan.accelerator == "cpu" and plan.precision != "32-true":
        need["packed"] = 2.0 * (policy.matrices or policy.weights / 4)
    return need


def _checkpoint(learners: Mapping[str, Held], optimizer: float, plan: Plan) -> float:
    """The copy that a thread writes while the next steps are made; on a GPU it is not on the device."""
    every = plan.core.save_every
    if plan.accelerator == "cuda" or not every or (plan.steps is not None and plan.steps <= every):
        return 0.0
    return sum(held.gradients for held in learners.values()) * plan.stays + optimizer


def _step(plan: Plan) -> Step:
    from zoo.models.memory import Step

    texts = plan.texts
    prompts = max(1, plan.tokens // texts.counted)
    if texts.apart and texts.counted > plan.tokens:
        # A group that is too large for a micro-batch is divided among several.
        texts = replace(texts, answers=max(1, plan.tokens // (texts.prompt + texts.completion)))
    # With one digit, so that what was found for one file serves another one.
    texts = replace(texts, prompt=_rounded(texts.prompt), completion=_rounded(texts.completion))
    return Step(prompts * texts.laid_out, texts.prompt, texts.completion, texts.answers)


def _way(plan: Plan, role: str) -> Way:
    """How a role, or a reward model (`reward NAME`), is computed."""
    from zoo.models.memory import Way

    core = plan.core
    targets = core.lora_targets if isinstance(core.lora_targets, str) else ",".join(core.lora_targets)
    common: dict[str, Any] = {
        "precision": plan.precision, "base_dtype": core.copy_dtype if role in plan.copies else core.frozen_dtype,
        "on_cpu": plan.accelerator == "cpu",
        "shared": core.layout != "padded", "scalar": role.startswith("reward") or _is_scalar(role),
        "group": core.tensor_parallel if is_cut(core, role) else 1,
    }  # fmt: skip
    if role not in TRAINED:
        return Way(**common, trained=False)
    lora = core.lora and role == "policy"
    return Way(
        **common, lora=lora, rank=core.lora_rank, targets=targets if lora else "all-linear",
        kind=core.lora_kind if lora else "lora", whole=",".join(names_in(core.train_modules)) if lora else "",
        goes_on=lora and core.lora_continue,
        checkpointing=core.gradient_checkpointing, layers=core.checkpoint_layers,
    )  # fmt: skip


def is_cut(core: TrainConfig, role: str) -> bool:
    """Whether the processes of a run share out a role's model: a judge and a reward with a name are whole in each."""
    return " " not in role and (role != "judge" or core.judge is None)


def _is_scalar(role: str) -> bool:
    return role in ROLES and ROLES[role].head == "scalar"


def _held(folder: Path, way: Way, step: Step) -> tuple[Held, bool]:
    """What a model holds, and whether that is rough: from its size alone, where it cannot be traced."""
    from zoo.models import memory

    with contextlib.suppress(Exception), quiet_tracing():
        return memory.held(folder, way, step), False
    return memory.rough(folder, way, step), True


def texts_of(records: Sequence[tuple[int, int, int]], tokens_a_character: float, longest: int) -> Texts:
    """The examples of a run from some records: (characters of the prompt, of all answers, number of answers) each."""
    count = max(1, len(records))
    answers = max(1, round(sum(number for _, _, number in records) / count))
    prompt = sum(prompt for prompt, _, _ in records) / count * tokens_a_character
    completion = sum(rest for _, rest, _ in records) / count / answers * tokens_a_character
    whole = [(prompt + rest) * tokens_a_character for prompt, rest, _ in records] or [longest]
    return Texts(round(prompt), round(completion) + 1, answers, min(_rounded(max(whole)), longest * answers))


def _rounded(tokens: float) -> int:
    step = 1 if tokens < 20 else 10 if tokens < 200 else 100
    return round(min(max(tokens, 1.0), 1e6) / step) * step
