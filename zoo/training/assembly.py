"""What a run trains with, made from its options: model, template and data; then roles, records and steps.

What writes into the run folder is made last: a run that fails before its folder is opened leaves none.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from zoo.contract import registry
from zoo.contract.hook_arguments import learns_from_rewards, may_write, named_hook
from zoo.data.encoding.named import listed, template_args
from zoo.data.loader import Loader, StepLoader
from zoo.errors import PluginError, ZooError
from zoo.evals.chosen import choose
from zoo.guards import GuardSetup
from zoo.guards.chosen import ask, available
from zoo.guards.watch import Guards
from zoo.libraries.adapters import ALL_LINEAR, frozen_parameters, left_out
from zoo.libraries.adapters import told as told_of_adapters
from zoo.libraries.architecture import ending_ids
from zoo.libraries.cluster import find_place
from zoo.libraries.connected import Connected
from zoo.libraries.peers import refuse_another
from zoo.libraries.reliance import require
from zoo.libraries.sharding import shard, whole_shapes
from zoo.libraries.stored import is_stored
from zoo.libraries.whole_modules import told as told_of_whole
from zoo.models.devices import choose_accelerator, choose_micro_tokens
from zoo.models.experts import watch
from zoo.models.facts import weights_of
from zoo.models.loading import load_template
from zoo.models.precision import autocast, choose_base, choose_precision, rounding_tolerance, weights_dtype
from zoo.models.scalar import choose_padding, is_scorer, set_unit, token_scores
from zoo.models.scoring import check_head, choose_layout, score_answers
from zoo.models.start import load_policy, resolve_start
from zoo.numbers import amount
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES, Chosen, Kind
from zoo.optimizers.joint import Joint
from zoo.options.checks import FSDP, names_in
from zoo.options.config import AUTO, Resolved
from zoo.options.effect import without_effect
from zoo.options.roles import TRAINED, model_options
from zoo.options.spelling import name_in
from zoo.rewards.reward import Reward
from zoo.runs import Run
from zoo.terminal import Console
from zoo.training.datasets import load_data, make_collate, make_loader, make_prompts, sample_answers
from zoo.training.domains import Domains, domains_of
from zoo.training.fingerprints import (
    Contents,
    Prints,
    day_of,
    merged,
    of_choices,
    of_data,
    of_device,
    of_template,
    of_tokenizer,
)
from zoo.training.mixing import Mixing
from zoo.training.online import assembly as online
from zoo.training.online.experience import Experience
from zoo.training.online.rollouts import Rollouts
from zoo.training.outlook import of_few_steps
from zoo.training.record.progress import counter
from zoo.training.resuming import Beginning
from zoo.training.roles import make_frozen, make_models
from zoo.training.step.guarding import Keeper
from zoo.training.step.hooks import prepared_records
from zoo.training.step.module import PostTraining
from zoo.training.step.parts import Parts
from zoo.training.step.schedule import make_optimizer, parameter_groups
from zoo.training.step.timing import Timing
from zoo.training.streaming import needing_all, refuse_own_records
from zoo.values.records import Records, first_of_each

RATES = {"lr", "critic_lr", "weight_decay", "optimizer"}
"""Options that a checkpoint's optimizer holds too."""
RUN_FOLDER = "ZOO_RUN_FOLDER"
"""Environment variable in which the first process names the run to the processes that it starts."""


class Assembly:
    """Holds what `load` and then `plan` make of a complete configuration, in this process of the run.

    `make_rollouts`, `make_loader` and `make_module` give what needs an open run folder.

    plugins: the run's plugin manager; resumed: the run that goes on; allowed: what may have changed since it began.
    """

    def __init__(
        self, resolved: Resolved, algorithm: Any, plugins: registry.PluginManager, console: Console,
        resumed: Run | None, allowed: Collection[str] = (),
    ):  # fmt: skip
        self.resolved, self.core, self.algorithm = resolved, resolved.core, algorithm
        self.plugins, self.console = plugins, console
        self.resumed = resumed
        self.place = find_place(self.core.devices, self.core.num_nodes)
        refuse_another(self.place)
        self.rank, self.processes = self.place.rank, self.place.processes
        together = self.core.tensor_parallel
        self.share = self.rank // together, self.processes // together
        """The share of the rows that this process has, and how many there are."""
        self.main = self.rank == 0
        self.online = algorithm.online()
        self.allowed = allowed
        self.beginning: Beginning | None = None
        """What the first process of a resumed run compares with."""
        self.contents = Contents(self.core.out)
        self.connected: Connected | None = None
        """The processes of a run whose models are shared out among them."""
        self.rewards: dict[str, Reward] = {}
        self.loader: Loader
        """Of the records: one item is an optimizer step, in an online run the prompts of a rollout."""

    def say(self, text: str) -> None:
        if self.main:
            self.console.say(text)

    def warn(self, text: str) -> None:
        """The same for what the user should look at."""
        if self.main:
            self.console.say(text, event="warning", level="warning")

    def connect(self, held: contextlib.ExitStack) -> None:
        """Start the processes that share out the models, before anything is loaded. held: ends them in any case."""
        if self.core.strategy == FSDP or self.core.tensor_parallel > 1:
            self._before_connecting()
            local, accelerator = self.place.local_rank, choose_accelerator(self.core.accelerator)
            device = torch.device("cuda", local) if accelerator == "cuda" else torch.device(accelerator)
            self.connected = Connected(
                self.place, self.core.devices, self.core.num_nodes, device, self.console.say,
                self.core.tensor_parallel, self.core.strategy == FSDP,
            )  # fmt: skip
            held.callback(self.connected.close)
            self.connected.connect()

    def _before_connecting(self) -> None:
        """What every process does alone: once it is one of several, transformers writes files in the first one only."""
        for library in ("torch", "transformers", "lightning", *(["peft"] if self.core.lora else [])):
            require(library)
        self._name_models()
        if self.core.critic_model is not None:
            resolve_start(self.core.critic_model, self.core.out, self.say)

    def load(self) -> None:
        """Model, template and data."""
        core = self.core
        for library in ("torch", "transformers", "lightning"):
            require(library)
        if self.resumed is not None and self.main:
            self.beginning = Beginning(self.resumed, self.allowed, self.say)
        self.accelerator = choose_accelerator(core.accelerator)
        local = self.place.local_rank
        self.device = torch.device("cuda", local) if self.accelerator == "cuda" else torch.device(self.accelerator)
        self.precision, reason = choose_precision(core.precision, self.accelerator)
        self.evals = choose(self._scores(), registry.contributions(self.plugins, "evals"), self.algorithm.head)
        online.try_environment(core, self.plugins)
        if self.connected is None:
            self._name_models()
        for note in self.resolved.notes:
            self.say(note)
        if self.beginning:
            self.beginning.compare(of_choices(self.resolved), whole=False)
            self._refuse_other_optimizer(self.beginning)
        self.template = load_template(
            self.source, core.template, trust_remote_code=core.trust_remote_code, new_tokens=listed(core.new_tokens),
            day=self._day(), args=template_args(core.template_args), say=self.say,
        )  # fmt: skip
        self.tokenizer = self.template.tokenizer
        # Before a scalar head chooses the padding.
        self.tokenizer_print = of_tokenizer(self.tokenizer)
        self.data = load_data(core, self.algorithm.kinds(), self.template, self.plugins, self.say)
        self._give_domains()
        self.say(self.template.preflight(*self.data.train.statistics.ends()))
        if self.beginning:
            self.beginning.compare(self.prints())
        shared = self.connected is not None
        self.policy = load_policy(
            core, self.source, self.precision, self.algorithm.head, self.template.new, in_files=shared
        )
        if shared and not is_stored(self.policy):
            self.say(
                "Each process reads the whole model before it keeps its part: its weights are stored in another form."
            )
        if self.source.is_adapter:
            merged = f"merged into its weights{'; new ones are trained on top' if core.lora else ''}"
            self.say(f"The adapters of {self.source.name} are {'trained further' if core.lora_continue else merged}.")
        if core.lora:
            self.say(told_of_adapters(self.policy))
        for note in left_out(self.policy) if core.lora and ALL_LINEAR in names_in(core.lora_targets) else []:
            self.say(note)
        for note in told_of_whole(self.policy) if core.lora and core.train_modules else []:
            self.say(note)
        self.resolved.choose(self._weights)
        if added := self.template.new.added:
            listed_ones = ", ".join(self.tokenizer.convert_ids_to_tokens(list(added)))
            self.say(
                f"New tokens: {listed_ones}. Their rows begin as the mean of the {self.template.new.known:,} others."
            )
        self.template.eos_ids |= ending_ids(self.policy)
        if is_scorer(self.policy):
            set_unit(self.policy, "step" if self.data.train.kind == "stepwise" else "answer")
            if not choose_padding(self.policy, self.tokenizer, self.template.eos_ids):
                self.say("The tokenizer pads with the end of the turn: score with zoo, not with transformers alone.")
        shard(self.policy, self.core.offload)
        set_by = f"set by {self.resolved.origin['precision']}"
        self.say(f"Precision {self.precision}: {reason if core.precision == AUTO else set_by}.")
        self._say_base()

    def _give_domains(self) -> None:
        """Let roles of several models know which of them a row is for. Raises ZooError for a row without one."""
        wanted = domains_of(self.resolved, self.algorithm.roles(self.resolved.algorithm))
        data, core = self.data, self.core
        if not wanted:
            return
        where = None if data.streaming is None else data.streaming.where
        give = Domains(wanted, core.data, data.labels, where)
        # What a stream gives is looked at as it comes.
        data.train.records = give.checked(data.train.records) if where is None else data.train.records.map(give)
        if data.held_out is not None:
            give = Domains(wanted, core.eval_data or core.data, data.held_out_parts)
            data.held_out.records = give.checked(data.held_out.records)

    def _say_base(self) -> None:
        """The type of the weights that are not trained, if there are any."""
        core, origin = self.core, self.resolved.origin
        frozen = [name for name in self.algorithm.roles(self.resolved.algorithm) if name not in TRAINED]
        copies = [name for name in frozen if self.resolved.is_copy(name)]
        others = core.lora or frozen != copies or (self.online and core.reward)
        if others and core.quantize:
            rest = str(weights_dtype(self.precision)).removeprefix("torch.")
            shared = ", nor projections to keys and values that heads share" if core.quantize == "nf4" else ""
            self.say(
                f"Frozen matrices {core.quantize}: set by {origin['quantize']}. Embeddings, norms and heads ({rest}) "
                f"are not quantised{shared}."
            )
            for name in copies:
                self.say(f"The {name} is not quantised: it must equal the weights that training starts from.")
        elif others or copies:
            wanted = core.base_dtype if others else core.copy_dtype
            dtype, reason = choose_base(wanted, self.precision)
            by = reason if wanted == AUTO else f"set by {origin['base_dtype']}"
            self.say(f"Frozen matrices {str(dtype).removeprefix('torch.')}: {by}.")

    def _refuse_other_optimizer(self, beginning: Beginning) -> None:
        """Raises ZooError for an accepted change of the optimizer: another one cannot take over the state."""
        for change in beginning.changes:
            was, now = (name_in(str(change[when])) for when in ("was", "is"))
            if change["name"] == "optimizer" and was != now:
                raise ZooError(
                    f"The checkpoints hold the state of {was}, with which {now} cannot go on.",
                    f"Only the options of {was} may change. Begin a run with --optimizer {now} and --model RUN@step-N.",
                )

    def _weights(self, name: str, out: str) -> float | None:
        """The size of a model by name, also of a policy that only now is there."""
        counted = _count_weights(values for _, values in frozen_parameters(self.policy))
        return weights_of(name, out) or (counted if name == self.core.model else None)

    def _say_choices(self) -> None:
        """The options that depend on the model, with their reasons. A critic that had to be fetched is there by now."""
        self.resolved.choose(self._weights)
        for name, choice in self.resolved.choices.items():
            self.say(f"{name} {choice.value:g}: {choice.reason}.")
            for note in choice.notes:
                self.say(note)

    def _scores(self) -> list[str]:
        return [] if self.core.score == AUTO else names_in(self.core.score)

    def _name_models(self) -> None:
        """Put the path of a run in the place of `last`, which names another run as soon as this one has begun."""
        core, folder = self.core, os.environ.get(RUN_FOLDER)
        if not self.main and folder and not self.resumed:
            began = Run(Path(folder)).config
            for option in model_options(self.resolved.roles, "lm"):
                self.resolved.set(option, began[option])
        self.source = resolve_start(core.model, core.out, self.say)
        core.model = self.source.name
        for role in self.resolved.roles.values():
            if role.is_frozen_copy and (name := self.resolved.value(role.option)) is not None:
                text = role.with_models(name, lambda model: resolve_start(model, core.out, self.say).name)
                self.resolved.set(role.option, text)

    def _day(self) -> date | None:
        """The day that the run began, which a chat template may write into every text."""
        folder = os.environ.get(RUN_FOLDER)
        begun = self.resumed or (Run(Path(folder)) if folder and not self.main else None)
        return day_of(begun) if begun else None

    def prints(self) -> Prints:
        """What the result depends on, as far as it is known by now: all of it once the run is planned."""
        roles = self.algorithm.roles(self.resolved.algorithm)
        return merged(
            of_choices(self.resolved), of_device(self.device), of_data(self.data.facts), of_template(self.template),
            self.tokenizer_print, self.contents.of_models(self.resolved, roles),
        )  # fmt: skip

    def plan(self) -> None:
        """Row layout, roles, the records as the algorithm prepares them, and the steps."""
        core = self.core
        device = next(self.policy.parameters()).device
        answers = [answer.to(device) for answer in sample_answers(self.data.train.records)]
        tolerance, scores = rounding_tolerance(self.precision), is_scorer(self.policy)
        if not scores and (note := check_head(self.policy, answers, tolerance)):
            self.say(note)
        layout, note = choose_layout(
            self.policy, answers, core.layout, tolerance, score=token_scores if scores else score_answers,
            longest=core.max_length + core.max_new_tokens * self.online,
        )  # fmt: skip
        if note:
            self.say(note)
        self.balance = watch(self.policy, core.router_aux_loss, core.freeze_routers, self.say)
        roles = self.algorithm.roles(self.resolved.algorithm)
        temperature = (core.temperature or 1.0) if self.online else 1.0
        rescores = self.online and core.minibatches * core.rollout_epochs > 1
        self.models = models = make_models(
            self.resolved, roles, self.policy, self.source, self.template, layout, self.precision, self.say,
            temperature=temperature,
            make_writer=online.writer_of(core, self.template, self.precision, self.device, self.plugins, rescores),
        )  # fmt: skip
        self._say_choices()
        for option, why in without_effect(self.resolved, roles, may_write(type(self.algorithm)), self.device.type):
            self.say(f"Note: --{option.replace('_', '-')} has no effect: {why}.")
        self.records = self._prepared(models)
        if self.online:
            self._plan_rollouts(layout, temperature)
        else:
            collate = make_collate(self.plugins.hook, self.tokenizer, self.resolved.algorithm, core.max_length)
            self.loader = make_loader(core, self.data, self.records, collate, *self.share)
        self.total_steps = online.steps_of(self.loader, core) if self.online else len(self.loader)
        self.micro_tokens = choose_micro_tokens(core, self.device, self.policy)
        self.guards = self._guards()
        self.optimizer, self.schedule = self._chosen(OPTIMIZERS, core.optimizer), self._chosen(SCHEDULES, core.schedule)
        self._say_plan(layout)
        self._try_optimizer()

    def _chosen(self, kind: Kind, text: str) -> Chosen:
        return kind.choose(text, kind.available(registry.contributions(self.plugins, f"{kind.what}s")))

    def _try_optimizer(self) -> None:
        """Make the optimizer once, before the run has a folder, and say which part of it takes which weights."""
        learners = {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic})
        made = make_optimizer(self.optimizer, parameter_groups(learners, self.core))
        if isinstance(made, Joint):
            self.say(f"Optimizer {self.optimizer.name}: {' and '.join(map(_part, made.parts))}.")

    def _guards(self) -> Guards:
        roles = self.algorithm.roles(self.resolved.algorithm)
        setup = GuardSetup(self.online, learns_from_rewards(type(self.algorithm), roles))
        factories = available(registry.contributions(self.plugins, "guards"))
        asked = ask(names_in(self.core.guards), factories, setup)
        return Guards([one.made(setup) for one in asked], self.core.max_rollbacks)

    def _plan_rollouts(self, layout: str, temperature: float) -> None:
        """Rewards, the prompts of each rollout, and the start that validation measures the distance from."""
        core = self.core
        for frozen in self.models.frozen().values():
            frozen.stop_caching()
        if "reference" in self.models:
            self.start = self.models.built("reference")
        else:
            self.start = make_frozen(
                core, None, self.policy, self.source, layout, self.precision, self.say, temperature, self.template.new,
                cached=False,
            )  # fmt: skip
        self.rewards = online.make_rewards(core, self.plugins, self.device, self.say)
        self.loader = make_prompts(core, self.data, self.records, *self.share)

    def _say_plan(self, layout: str) -> None:
        core = self.core
        learners = torch.nn.ModuleList([self.policy, *([] if self.critic is None else [self.critic])])
        trained = _count_weights(p for p in learners.parameters() if p.requires_grad)
        prompts = self.loader.count(0) if self.online else 0
        size = min(core.batch_size, prompts * core.answers_per_prompt) if prompts else core.batch_size
        self.say(
            f"Training {self.resolved.algo}: {self._count()}, {amount(self.total_steps, 'step')} of {size} "
            f"(micro-batches of {self.micro_tokens} tokens, {layout} rows), {trained / 1e6:.1f} M trained weights."
        )
        if self.online:
            each = core.minibatches * core.rollout_epochs
            self.say(
                f"A rollout has {amount(prompts, 'prompt')} with {amount(core.answers_per_prompt, 'answer')} each "
                f"and serves {amount(each, 'step')}."
            )
        if not self.data.streaming and (note := of_few_steps(core.max_steps, core.epochs, self.total_steps)):
            self.say(f"Note: {note}")
        if self.data.mixing is not None:
            self._say_mixture(self.data.mixing)

    def _count(self) -> str:
        return "a stream" if self.data.streaming else amount(len(self.records), "record")

    def _say_mixture(self, mixing: Mixing) -> None:
        """How often the run reads each part; data.json has it too."""
        assert isinstance(self.loader, StepLoader)
        steps = len(self.loader)
        if self.online:
            steps = math.ceil(self.total_steps / (self.core.minibatches * self.core.rollout_epochs))
        seen = mixing.seen(self.loader, steps)
        told = ", ".join(f"{label} {of_part}" for label, of_part in seen.items())
        self.say(f"The mixture, by {self.core.mix_by}: {told}.")
        if unread := [label for label, of_part in seen.items() if not of_part.examples]:
            self.say(f"Nothing is read of {', '.join(unread)}: the weight is too small for {amount(steps, 'step')}.")
        for facts in (self.data.facts["train"], self.data.facts.get("decay", {})):
            for label, of_part in facts.get("parts", {}).items():
                of_part |= seen[label]._asdict()

    @property
    def critic(self) -> torch.nn.Module | None:
        """The trained module of a critic."""
        return self.models.built("critic").head if "critic" in self.models else None

    @property
    def _labels(self) -> Parts | None:
        """The parts of a mixture."""
        return self.data.labels

    @property
    def held_out(self) -> Sequence[dict[str, Any]]:
        """The encoded held-out records; of an online run its held-out prompts."""
        records = self.data.held_out.records if self.data.held_out else []
        return list(first_of_each(records, self.core.eval_prompts)) if self.online else records

    def close(self) -> None:
        """End the processes that rewards and environments run in, and those that encode ahead."""
        if self.data.streaming is not None:
            self.data.streaming.close()
        for reward in self.rewards.values():
            reward.close()
        if self.online and (writer := self.models.built("policy").writer) is not None:
            writer.close()

    # -- for an open run folder ----------------------------------------------------------------------------------

    def make_rollouts(
        self, run: Run, timing: Timing, micro_tokens: Callable[[], int], notify: Callable[..., None]
    ) -> Rollouts | None:
        """The rollouts of an online run; see `Rollouts` for the arguments."""
        if not self.online:
            return None
        # A stream has no other prompts than those that it gives.
        prompts = [] if self.data.streaming else self.records
        return Rollouts(
            self.plugins.hook, self.algorithm, self.resolved.algorithm, self.models,
            self.models.built("policy").writer, self.rewards, prompts, self.precision, self.warn, micro_tokens,
            start=self.start, reference_every=self.core.reference_every, timing=timing, run=run, notify=notify,
            mixed=(self._labels, self.data.held_out_parts),
        )  # fmt: skip

    def make_loader(self, rollouts: Rollouts | None) -> Loader | Experience:
        """The loader of optimizer steps."""
        return self.loader if rollouts is None else online.make_experience(self.loader, rollouts, self.core)

    def make_module(
        self, rollouts: Rollouts | None, timing: Timing, before_training: Callable[[], None], keeper: Keeper
    ) -> PostTraining:
        """The Lightning module of the run."""
        module = PostTraining(
            self.policy, self.models, self.plugins.hook, self.algorithm, self.resolved.algorithm, self.core,
            optimizer=self.optimizer, schedule=self.schedule,
            total_steps=self.total_steps, micro_tokens=self.micro_tokens, critic=self.critic, rollouts=rollouts,
            timing=timing, before_training=before_training, say=self.say, warn=self.warn, guards=self.guards,
            keeper=keeper, balance=self.balance, parts=self._labels,
        )  # fmt: skip
        module.new_rates = bool(self.beginning and self.beginning.accepted & RATES)
        return module

    # -- records ---------------------------------------------------------------------------------------------------

    def _prepared(self, models: Any) -> Records:
        """The records to train on: as encoded, or what the algorithm's `prepare` makes of them."""
        records = self.data.train.records
        if not self.plugins.hook.prepare.get_hookimpls():
            return records
        self.policy.to(self.device)
        with autocast(self.precision, self.device), self._preparing(models), needing_all(self.algorithm):
            made = self.plugins.hook.prepare(records=records, models=models, config=self.resolved.algorithm)
            prepared = prepared_records(made, self.algorithm)
        if self.data.streaming:
            refuse_own_records(prepared, self.algorithm)
        elif prepared is not records:
            if self.online:
                self._check_prompts(prepared)
            self.say(f"Prepared: {amount(len(records), 'record')} became {len(prepared):,}.")
        return prepared

    def _check_prompts(self, prepared: Records) -> None:
        """Raises PluginError where a prompt lacks a field that a rollout needs."""
        missing = next((name for name in ("row", "record") for record in prepared if name not in record), None)
        if missing:
            raise PluginError(
                f"{named_hook(self.algorithm, 'prepare')} returned a record without '{missing}', by which a rollout "
                "finds what the reward reads.",
                f"Keep '{missing}' of the record that was given.",
            )

    def _preparing(self, models: Any) -> contextlib.AbstractContextManager[None]:
        """Cache what the policy writes in `prepare`: a resumed run need not write it again."""
        writer = getattr(models.built("policy"), "writer", None)
        if writer is None:
            return contextlib.nullcontext()
        progress = counter(self.console, "Preparing: answers") if self.main else None
        key = (self.precision, self.core.engine)
        return writer.preparing(lambda: online.kept_answers(self.policy, key, self.template, self.say), progress)


def _part(optimizer: torch.optim.Optimizer) -> str:
    """`Muon for 14 tensors with 115,200 weights`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = amount(len(parameters), "tensor")
    return f"{type(optimizer).__name__} for {tensors} with {_count_weights(parameters):,} weights"


def _count_weights(parameters: Iterable[torch.Tensor]) -> int:
    """The weights in whole parameters."""
    return sum(map(math.prod, whole_shapes(parameters)))
