"""The LightningModule: one Lightning batch is one optimizer step.

A step is cut into micro-batches by a token budget. Losses come as numerators; their gradients add up, are
synchronised once, and are divided by the denominator of the whole step over all micro-batches and processes.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import lightning
import torch

from zoo.contract.hook_arguments import named_hook
from zoo.data.loader import micro_batches
from zoo.errors import PluginError, TrainingStopped
from zoo.guards.watch import Guards
from zoo.libraries.sharding import complete_gradients, held_apart, is_sharding, whole_shapes
from zoo.libraries.trainer import without_exchange
from zoo.libraries.turns import take_outputs
from zoo.models.experts import Balance
from zoo.models.roles import Models
from zoo.optimizers import average
from zoo.optimizers.chosen import Chosen
from zoo.options.config import TrainConfig
from zoo.processes import begin_exchange, gathered, is_distributed, my_place
from zoo.randomness import part_ways, restore_rng, rng_state
from zoo.training.step.gradients import reached, total_norm
from zoo.training.step.guarding import Guarding, Keeper, Part
from zoo.training.step.hooks import Hooks
from zoo.training.step.parts import Parts
from zoo.training.step.schedule import lr_factor, make_optimizer, parameter_groups
from zoo.training.step.sums import Sums
from zoo.training.step.timing import TRAINING, Timing
from zoo.values.answers import answer_weights, answers_in
from zoo.values.loss import Loss
from zoo.values.types import Batch, metric_sums

SMALLEST_MICRO_BATCH = 128
"""Tokens; when memory runs out below this, halving cannot help."""
MOVED, REACHED = "moved by this step: ", "reached by this step: "
"""Before a role's name, under which micro-batches and processes are compared; no metric can be called so."""
STATE = (
    "processes", "algorithm", "steps_done", "skipped_steps", "guards", "tokens_seen", "optimizer", "timing", "rollouts",
    "roles",
)  # fmt: skip
"""What a checkpoint holds of a module under `zoo`."""


class Rolling(Protocol):
    """The rollouts of an online run, as far as its steps know them."""

    def take_metrics(self) -> dict[str, float]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


class PostTraining(lightning.LightningModule):
    """Trains the policy with the chosen algorithm's hooks.

    rollouts: of an online run; their numbers stand in the first row of a rollout, their state in checkpoints.
    optimizer: called with the parameter groups; schedule: called with a step, all steps and those of the warmup.
    before_training: called once, on the device, before anything is scored in this process. guards: look at each step
    before it is taken; keeper: keeps the rows they object to, and gives the checkpoint for a rollback. balance:
    of the routers of a mixture of experts; parts: of a mixture of data.
    """

    def __init__(
        self, policy: torch.nn.Module, models: Models, hook: Any, algorithm: Any, config: Any, core: TrainConfig,
        *, optimizer: Chosen, schedule: Chosen, total_steps: int, micro_tokens: int,
        critic: torch.nn.Module | None = None, rollouts: Rolling | None = None, timing: Timing | None = None,
        before_training: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print, warn: Callable[[str], None] | None = None, guards: Guards | None = None,
        keeper: Keeper | None = None, balance: Balance | None = None, parts: Parts | None = None,
    ):  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.policy, self.critic = policy, critic
        self.models, self.algorithm, self.core = models, algorithm, core
        self.hooks = Hooks(hook, algorithm, models, config, list(self.learners))
        self.optimizer, self.schedule = optimizer, schedule
        self.total_steps, self.micro_tokens = total_steps, micro_tokens
        self.steps_done = 0
        self.skipped_steps = 0
        self.rollouts, self.before_training = rollouts, before_training
        self.say, self.warn = say, warn or say
        self.tokens_seen = 0.0
        self.timing = timing or Timing()
        self.balance, self.mixed = balance, parts
        self.step_metrics: dict[str, float] = {}
        self.parts: list[Part] = []
        """Of the present step."""
        self.guarding = Guarding(self, guards or Guards(), keeper)
        self._restored_rng: dict[str, Any] | None = None
        self.new_rates = False
        """Whether the optimizer of a checkpoint has other options than this run by now."""

    # -- one optimizer step --------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, index: int) -> None:
        cpu, clock, tokens = time.process_time(), time.perf_counter(), self.tokens_seen
        self._step(batch)
        self.timing.cpu_seconds += time.process_time() - cpu
        self.timing.add(TRAINING, time.perf_counter() - clock, self.tokens_seen - tokens)

    def _step(self, batch: Batch) -> None:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        rate = {"lr": optimizer.param_groups[0]["lr"]}
        if self.guarding.passes_over(self.steps_done):
            metrics = self._skipped(rate)
        else:
            sums = self._backward_within_memory(batch, optimizer)
            self.tokens_seen += sums.total("tokens")
            metrics = self._taken({**self._numbers(sums), **rate, **self._of_rollout()}, optimizer)
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        metrics["num_tokens"] = self.tokens_seen
        self.steps_done += 1
        self.step_metrics, self.parts = metrics, []

    def _numbers(self, sums: Sums) -> dict[str, float]:
        """The means and norms of a step; the gradients, which were summed, get their scale."""
        means = sums.means()
        still = [role for role in self.learners if not self._is_moved(role, means)]
        # A gradient of 0 that only the exchange needed would let the optimizer's momentum move a role.
        unreached = [role for role in self.learners if not means.pop(REACHED + role, 1.0)]
        self._leave_alone([*still, *unreached])
        if self.steps_done == 0:
            self.hooks.refuse_unused_roles(but=still)
        scale = my_place()[1] / max(sums.count("loss"), torch.finfo(torch.float32).tiny)
        loads = {} if self.balance is None else self.balance.take_metrics()
        return {**means, **loads, **self._scale_and_clip(scale)}

    def _of_rollout(self) -> dict[str, float]:
        return self.rollouts.take_metrics() if self.rollouts is not None else {}

    def _taken(self, metrics: dict[str, float], optimizer: Any) -> dict[str, float]:
        """The metrics, after the gradients have moved the weights, unless a guard objects or there are none."""
        metrics, action = self.guarding.verdict(metrics)
        if action == "rollback":
            return {**metrics, "skipped": 1.0}
        if action == "skip":
            return self._skipped(metrics)
        if "loss" in metrics:
            optimizer.step()
            if self.core.ema:
                average.update(self._plain_optimizer(), self.core.ema)
            return metrics
        # Examples may teach nothing: rewards that are equal or missing, ties, steps without a label. No fault.
        if not type(self.algorithm).online():
            self.say(f"Step {self.steps_done + 1}: nothing in it can be learned from; no weight was changed.")
        return self._skipped(metrics)

    def _skipped(self, metrics: dict[str, float]) -> dict[str, float]:
        self.skipped_steps += 1
        return {**metrics, "skipped": 1.0}

    def _backward_within_memory(self, batch: Batch, optimizer: Any) -> Sums:
        """Forward and backward of all micro-batches; when memory runs out, again with half the micro-batch."""
        start = (rng_state(), self.algorithm.state())
        while True:
            try:
                return self._backward(batch)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self.halve(error)
            optimizer.zero_grad(set_to_none=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            restore_rng(start[0])
            self.algorithm.load_state(start[1])

    def halve(self, error: RuntimeError) -> None:
        """After memory ran out: micro-batches of half the size. Raises TrainingStopped when that cannot help."""
        if self.micro_tokens // 2 < SMALLEST_MICRO_BATCH or is_distributed():
            raise TrainingStopped(
                f"Memory ran out with micro-batches of {self.micro_tokens} tokens: {str(error).splitlines()[0]}",
                "Three knobs: a smaller --micro-tokens, --gradient-checkpointing, --lora.",
            ) from error
        self.micro_tokens //= 2
        self.say(f"Memory ran out; micro-batches now have {self.micro_tokens} tokens (the result is the same).")

    def _backward(self, batch: Batch) -> Sums:
        parts = micro_batches(batch, self.micro_tokens, self.algorithm.measured)
        self.hooks.measure(parts, self.device)
        sums, self.parts = Sums(), []
        if self.balance is not None:
            self.balance.forget()
        most = max(gathered(len(parts))) if is_sharding() else len(parts)
        for i, part in enumerate(parts):
            loss = self.hooks.loss(part, self.steps_done)
            self.parts.append((part, Loss(loss.values.detach(), loss.weights.detach())))
            tokens = torch.tensor(sum(len(answer) for answer in answers_in(part)))
            sums.add({"loss": (loss.numerator, loss.denominator), **metric_sums(loss.metrics)})
            if self.mixed is not None:
                sums.add(self.mixed.sums(loss, part))
            sums.add({"tokens": (tokens, torch.tensor(0))})
            sums.add(_moved(self.learners, loss.trains))
            numerator = loss.numerator + self._balance(loss, part, sums)
            last = i == len(parts) - 1
            if is_sharding():
                self._backward_together(numerator, sums)
            else:
                with self._gradients_stay_here(last):
                    self.manual_backward(numerator + (self._touch(numerator, sums) if last else 0.0))
        if is_sharding():
            self._idle_passes(most - len(parts))
        return sums.reduced(self.device)

    # -- sharded models ------------------------------------------------------------------------------------------

    def _backward_together(self, numerator: torch.Tensor, sums: Sums) -> None:
        """The backward pass of a micro-batch, with a gradient of 0 for passes that no loss of this process reaches."""
        if len(self.learners) > 1:
            found = reached(numerator, self.learners)
            sums.add(
                {f"{REACHED}{role}": (torch.tensor(float(role in found)), torch.tensor(1)) for role in self.learners}
            )
        begin_exchange()
        zero = take_outputs()
        self.manual_backward(numerator if zero is None else numerator + zero)

    def _idle_passes(self, missing: int) -> None:
        """Take part in the micro-batches that other processes have more of, and exchange the other gradients."""
        for _ in range(missing):
            begin_exchange()
            if (zero := take_outputs()) is not None:
                self.manual_backward(zero)
        complete_gradients(p for model in self.learners.values() for p in model.parameters())

    # -- the parts of a step -------------------------------------------------------------------------------------

    def _balance(self, loss: Loss, part: Batch, sums: Sums) -> torch.Tensor | float:
        """The routers' auxiliary loss of a micro-batch, with the weights that its texts have in the loss."""
        if self.balance is None:
            return 0.0
        weights = answer_weights(loss, part)
        found = self.balance.numerator(weights)
        total = torch.tensor(sum(weights.values()))
        sums.add({"router/aux_loss": (torch.as_tensor(found), total)})
        moves = loss.trains is None or "policy" in loss.trains
        return self.balance.coefficient * found if moves else 0.0

    def _touch(self, numerator: torch.Tensor, sums: Sums) -> torch.Tensor | float:
        """0, with a gradient of 0 for roles that no loss of the step has reached; notes which those are.

        Processes exchange the gradients of all weights, and wait for those that never come.
        """
        if not is_distributed() or len(self.learners) == 1:
            return 0.0
        found = reached(numerator, self.learners)
        sums.add({f"{REACHED}{role}": (torch.tensor(float(role in found)), torch.tensor(1)) for role in self.learners})
        others = [model for role, model in self.learners.items() if role not in found]
        return sum((0.0 * p.sum() for model in others for p in model.parameters() if p.requires_grad), 0.0)

    def _is_moved(self, role: str, means: dict[str, float]) -> bool:
        """Whether this step moves a role; takes that out of the means. Raises PluginError where the parts differ."""
        share = means.pop(MOVED + role)
        if share not in (0.0, 1.0):
            raise PluginError(
                f"{named_hook(self.algorithm, 'loss')} gave other roles as trains in one micro-batch of a step than in "
                "another.", "Let them depend on the options and on `step` alone.",
            )  # fmt: skip
        return share == 1.0

    def _leave_alone(self, roles: list[str]) -> None:
        """Without a gradient the optimizer passes over a weight, its momentum included."""
        for role in roles:
            for parameter in self.learners[role].parameters():
                parameter.grad = None

    def _gradients_stay_here(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged between processes at the last micro-batch only."""
        return contextlib.nullcontext() if last else without_exchange(self.trainer)

    @property
    def learners(self) -> dict[str, torch.nn.Module]:
        """The models that are trained, by role."""
        return {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic})

    def _scale_and_clip(self, scale: float) -> dict[str, float]:
        """Divide the summed gradients and clip each model's in one pass; returns the norms before clipping."""
        norms = {}
        for role, model in self.learners.items():
            reached_ones = [p for p in model.parameters() if p.grad is not None]
            gradients = [p.grad for p in reached_ones if p.grad is not None]
            if not gradients:
                continue
            norm = total_norm(gradients, held_apart(reached_ones)) * scale
            too_long = self.core.max_grad_norm and norm > self.core.max_grad_norm
            torch._foreach_mul_(gradients, scale * self.core.max_grad_norm / (norm + 1e-6) if too_long else scale)
            norms["grad_norm" if role == "policy" else f"{role}/grad_norm"] = norm
        return norms

    # -- the average of the weights ------------------------------------------------------------------------------

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the weights are their averages over the steps, if the options ask for one."""
        return average.averaged(self._plain_optimizer()) if self.core.ema else contextlib.nullcontext()

    def take_average(self) -> None:
        """Make the weights their averages over the steps, if the options ask for one."""
        if self.core.ema:
            average.take(self._plain_optimizer())

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        found: Any = self.optimizers(use_pl_optimizer=False)
        return found

    # -- optimizer and checkpoints -------------------------------------------------------------------------------

    def trained(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """The weights that are trained, by role and name."""
        return {
            role: {name: p for name, p in model.named_parameters() if p.requires_grad}
            for role, model in self.learners.items()
        }

    def make_optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.optimizer, parameter_groups(self.learners, self.core))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        factor = lr_factor(self.schedule, self.total_steps, self.core.warmup, self.core.lr_floor)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {f"{role}.{name}" for role, named in self.trained().items() for name in named}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["zoo"] = {
            # Each process's own: its noise, and what fits its device.
            "processes": gathered({"rng": rng_state(), "micro_tokens": self.micro_tokens}),
            "algorithm": self.algorithm.state(),
            "steps_done": self.steps_done,
            "skipped_steps": self.skipped_steps,
            "guards": self.guarding.state(),
            "tokens_seen": self.tokens_seen,
            "optimizer": {"name": self.optimizer.name, "shapes": shapes_of(self.optimizers(use_pl_optimizer=False))},
            "timing": self.timing.state(),
            "rollouts": self.rollouts.state() if self.rollouts is not None else None,
            "roles": {name: role.state() for name, role in self.models.frozen().items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["zoo"]
        self.algorithm.load_state(state["algorithm"])
        self.steps_done, self.skipped_steps = state["steps_done"], state["skipped_steps"]
        self.guarding.load_state(state["guards"])
        self.tokens_seen = state["tokens_seen"]
        self.timing.load_state(state["timing"])
        if self.rollouts is not None:
            self.rollouts.load_state(state["rollouts"])
        for name, role in self.models.frozen().items():
            role.load_state(state["roles"][name])
        if (place := my_place()[0]) < len(state["processes"]):
            mine = state["processes"][place]
            self.micro_tokens, self._restored_rng = mine["micro_tokens"], mine["rng"]

    def on_train_start(self) -> None:
        # Models come in evaluation mode, in which gradient checkpointing and the adapters' dropout do nothing.
        for model in self.learners.values():
            model.train()
        if self.balance is not None:
            self.balance.open()
        # Restoring earlier would be undone: Lightning draws numbers between loading and the first step.
        if self._restored_rng is None:
            part_ways(self.core.seed, my_place()[0])
        else:
            restore_rng(self._restored_rng)
            self._restored_rng = None
        if self.new_rates:
            self._take_rates()

    def _take_rates(self) -> None:
        """Give the restored optimizer the rates of the options."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        own = self.make_optimizer().param_groups
        lowered = self.core.rollback_lr**self.guarding.guards.rollbacks
        schedule.base_lrs = [group["lr"] * lowered for group in own]
        for group, given, factor in zip(optimizer.param_groups, own, schedule.lr_lambdas, strict=True):
            options = {name: value for name, value in given.items() if name != "params"}
            group.update(options, initial_lr=given["lr"], lr=given["lr"] * lowered * factor(schedule.last_epoch))

    def on_train_end(self) -> None:
        self.policy.eval()
        if self.balance is not None:
            self.balance.close()


def _moved(learners: Iterable[str], trains: tuple[str, ...] | None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each role that is trained whether a micro-batch moves it, as a sum and a count of 1."""
    moved = {role: trains is None or role in trains for role in learners}
    return {MOVED + role: (torch.tensor(float(is_moved)), torch.tensor(1)) for role, is_moved in moved.items()}


def shapes_of(optimizer: Any) -> list[list[list[int]]]:
    """The shapes of an optimizer's weights, by group, in its order."""
    return [whole_shapes(group["params"]) for group in optimizer.param_groups]


def out_of_memory(error: BaseException) -> bool:
    """CUDA has a type for it; on the CPU it is a plain RuntimeError with a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
