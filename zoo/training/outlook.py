"""A look ahead: whether everything a run needs exists, and what the run will make. Loads, fetches and writes nothing.

The run begins with it, and `--dry-run` is it: what is missing is told at once, and not after a model was loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from zoo.cards.contributed import contributed
from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.contract.hook_arguments import learns_from_rewards, may_write
from zoo.data.encoding.named import (
    ARGS_OF_NONE,
    NONE,
    PLAIN,
    check_syntax,
    listed,
    named_templates,
    refuse_unread,
    template_args,
    template_text,
    wanted,
)
from zoo.data.glance import Glance, glance
from zoo.data.sources import held_out_split
from zoo.data.sources.mixture import Part, read_mixture
from zoo.data.sources.reading import Reading
from zoo.environments.named import available as environments
from zoo.environments.named import check_environment
from zoo.errors import ZooError, nearest
from zoo.evals import Eval
from zoo.evals.chosen import choose
from zoo.guards import GuardSetup
from zoo.guards.bundled import BUNDLED
from zoo.guards.chosen import ask, available
from zoo.judges.spelled import check_judge
from zoo.libraries.launched import check_launch
from zoo.models.facts import adapter_options, check_files, check_going_on, configured, describe, tokens_a_character
from zoo.models.names import Found, check_base, head_in, look_for, refuse_head, told_of_adapters
from zoo.models.vocabulary import hold_files, lacking_in, own_template_in, refuse_other_words, told_of_role
from zoo.numbers import amount
from zoo.optimizers.bundled import refuse_missing
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES, Kind
from zoo.options.checks import (
    FEWEST,
    check_decay,
    check_loggers,
    check_roles,
    names_in,
    prompts_in_rollout,
)
from zoo.options.config import AUTO, OF_ENVIRONMENT, Resolved, TrainConfig
from zoo.options.effect import without_effect
from zoo.options.expression import Expression
from zoo.options.roles import POLICY, Role, model_options, of_domain
from zoo.options.spelling import bind, parse
from zoo.paths import typed_path
from zoo.rewards.spelled import check_reward
from zoo.runs import TEMPLATE, Run, check_name, check_writable, default_name, next_name
from zoo.training.preflight import Need, Plan, Texts, preflight, texts_of

START = "reference"
"""The role that validation of an online run measures the distance from, also where the algorithm has none."""
LOCAL = "local"
"""The engine that every installation has."""
OF_LAYERS = ("lora_targets", "lora_dropout", "lora_kind", "train_modules")
"""Options of adapters that do not fit every model."""
FEW_STEPS = 10
"""Steps that hardly move a model, unless its learning rate is high."""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK")


@dataclass
class Outlook:
    """What a look ahead found. facts: by what they are about, in the order to print them.

    steps, tokens: about, None where they are not known; exact: the steps are not about; of_hub: models and data that
    are not here and that the run will fetch, if the hub has them.
    """

    facts: dict[str, str] = field(default_factory=dict)
    steps: int | None = None
    exact: bool = False
    tokens: int | None = None
    run: str = ""
    memory: Need | None = None
    of_hub: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        about = {"steps": self.steps, "steps_are_exact": self.exact, "tokens_about": self.tokens, "run": self.run}
        memory = {} if self.memory is None else {"memory": self.memory.as_json()}
        return {**self.facts, **about, **memory}


def look_ahead(resolved: Resolved, cls: type[Algorithm], resumed: Run | None = None) -> Outlook:
    """Look for everything a run needs. Raises one ZooError that names all problems.

    cls: the algorithm, or a class made from its card; resumed: the run that goes on.
    """
    outlook, missing = look(resolved, cls, resumed)
    if missing:
        raise missing
    return outlook


def look(
    resolved: Resolved, cls: type[Algorithm], resumed: Run | None = None, elsewhere: bool = False
) -> tuple[Outlook, ZooError | None]:
    """The same, with one error that names all problems, or None, beside what was found.

    elsewhere: a launcher will start the run, maybe on other machines; this one need not have their devices.
    """
    found = _Look(resolved, cls, resumed, elsewhere)
    found.all()
    if not found.problems:
        return found.outlook, None
    messages = dict.fromkeys(problem.message for problem in found.problems)
    hints = dict.fromkeys(problem.hint for problem in found.problems if problem.hint)
    return found.outlook, ZooError("\n".join(messages), "\n".join(hints))


def is_first_process() -> bool:
    """Whether this is the first process. The run folder may exist by the time the other processes start."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def evaluations() -> dict[str, Eval]:
    """All evaluations to choose from. Those that come from a card cannot be run."""
    return contributed(
        "evals",
        lambda evaluation: evaluation.run,
        lambda evaluation: {name: getattr(evaluation, name) for name in ("help", "head", "details", "by_default")},
        lambda facts, run: Eval(run=run, **{**facts, "details": tuple(facts["details"])}),
    )


def guards() -> dict[str, Any]:
    """All guards to choose from. Those that come from a card cannot be called."""

    def make(facts: dict[str, Any], function: Any) -> Any:
        vars(function).update(facts)
        return function

    facts = ("action", "runs")
    found = contributed(
        "guards", lambda guard: guard,
        lambda guard: {name: getattr(guard, name) for name in facts if hasattr(guard, name)}, make,
    )  # fmt: skip
    return available(found)


def named(kind: Kind) -> dict[str, Any]:
    """All optimizers or schedules to choose from. Those that come from a card cannot be called."""
    return kind.available(
        contributed(f"{kind.what}s", lambda one: one, lambda one: {}, lambda facts, function: function)
    )


def rewards_in(text: str | None) -> set[str]:
    """The names of the rewards in a text."""
    return {mention.name for mention in Expression(text).mentions} if text else set()


class _Look:
    """The steps of the look ahead. Each adds facts to the outlook, or an error to the problems."""

    def __init__(self, resolved: Resolved, cls: type[Algorithm], resumed: Run | None, elsewhere: bool):
        self.resolved, self.core, self.cls, self.resumed = resolved, resolved.core, cls, resumed
        self.elsewhere = elsewhere
        self.outlook, self.problems = Outlook(), list[ZooError]()
        self.found: Found | None = None
        self.seen: list[tuple[Part, Glance | None]] = []
        self.roles: tuple[str, ...] = ()
        self.template: str | None = None

    def all(self) -> None:
        for part in (
            self._processes, self._roles, self._model, self._layers, self._cuts, self._choices, self._data,
            self._others, self._rewards, self._judge, self._engine, self._environment, self._optimizer, self._guards,
            self._scores, self._loggers, self._run, self._steps,
        ):  # fmt: skip
            self._try(part)
        if not self.problems:
            # It loads torch, for seconds.
            self._try(self._memory)

    def _try(self, part: Callable[[], None]) -> None:
        try:
            part()
        except ZooError as error:
            self.problems.append(error)

    # -- machine and models --------------------------------------------------------------------------------------

    def _processes(self) -> None:
        if self.elsewhere:
            return
        check_launch(self.core.devices, self.core.num_nodes)
        if self.core.accelerator not in (AUTO, "cpu"):
            # Only torch knows what else there is.
            from zoo.models.devices import choose_accelerator

            choose_accelerator(self.core.accelerator)

    def _roles(self) -> None:
        self.roles = self.cls().roles(self.resolved.algorithm)
        check_roles(self.resolved, self.cls, self.roles)
        try:
            args = template_args(self.core.template_args)
            self.template = template_text(self.core.template)
        except ZooError as error:
            if self.resumed is not None and (kept := self.resumed.path / TEMPLATE).is_file():
                error.hint = f"The run has a copy of it: cp {kept} {self.core.template}"
            raise
        if args and self.core.template == NONE:
            raise ZooError(*ARGS_OF_NONE)
        if self.template is not None:
            refuse_unread(args, self.template)

    def _model(self) -> None:
        self.found = self._looked_for("model", self.core.model)
        name, folder = self.found.source.name, self.found.source.folder
        if folder is not None and self.cls.head == "lm":
            refuse_head(name, head_in(folder), "lm")
        self._vocabulary(name, folder)
        if folder is not None and self.core.lora and self.core.lora_continue:
            check_going_on(self.core, self.found.source, self.cls.head, "new tokens" in self.outlook.facts)
        if folder is not None and self.core.template == AUTO and (own := own_template_in(folder)) is not None:
            check_syntax(own, f"of {name}")
            refuse_unread(template_args(self.core.template_args), own or named_templates()[PLAIN].text)

    def _layers(self) -> None:
        """Options that name parts of the model. Plain adapters on all linear layers fit every model."""
        core, usual = self.core, TrainConfig()
        own = any(getattr(core, name) != getattr(usual, name) for name in OF_LAYERS)
        folder = configured(core.model, core.out)
        layers = core.gradient_checkpointing and core.checkpoint_layers
        if folder is not None and ((core.lora and own) or layers or core.freeze_routers or core.router_aux_loss):
            # Without weights, but with the classes of torch and transformers.
            from zoo.models.skeleton import check_layers

            check_layers(folder, core, self.cls.head, "new tokens" in self.outlook.facts)

    def _cuts(self) -> None:
        """The models that a tensor group cuts."""
        core = self.core
        roles = [name for name, role in self.resolved.roles.items() if role.head in ("lm", "scalar")]
        names = {name or core.model for role in roles for name in self.resolved.models(role).values()}
        folders = [folder for name in sorted(names) if (folder := configured(name, core.out))]
        if core.tensor_parallel > 1 and folders:
            # Only the classes of transformers have the plans.
            from zoo.models.skeleton import check_cut

            for folder in folders:
                self._try(lambda folder=folder: check_cut(folder, core.tensor_parallel))  # type: ignore[misc]

    def _choices(self) -> None:
        """The options that depend on the model, and what their sources do not say."""
        for name, choice in self.resolved.choices.items():
            self.outlook.facts[f"{name} by size"] = ". ".join([f"{choice.value:g}, {choice.reason}", *choice.notes])

    def _vocabulary(self, name: str, folder: Path | None) -> None:
        """The tokenizer against the model, by their files, and the tokens that are added."""
        tokens = wanted(self.template, listed(self.core.new_tokens))
        if folder is None:
            lacking = list(tokens)
        else:
            found = hold_files(name, folder, self.template, tokens)
            lacking = lacking_in(folder, tokens)
            if found.notes:
                self.outlook.facts["tokenizer"] = " ".join(found.notes)
        if lacking:
            sure = "" if folder else ", as far as the model lacks them"
            self.outlook.facts["new tokens"] = f"{', '.join(lacking)}{sure}"

    def _others(self) -> None:
        """The models of other roles."""
        roles = self.resolved.roles
        for role, facts in roles.items():
            of_role = self.resolved.models(role) if role != POLICY and facts.head != "judge" else {}
            for domain, name in of_role.items():
                if name is not None:
                    self._try(lambda role=role, domain=domain, name=name: self._other(role, domain, name))  # type: ignore[misc]
        for option, why in without_effect(self.resolved, self.roles, may_write(self.cls), self._device()):
            if option not in model_options(roles):
                self.outlook.facts[option] = f"{getattr(self.core, option)}; unused: {why}"

    def _device(self) -> str | None:
        """The type of the run's device, where an option belongs to one and it is known here."""
        if not self.core.offload or (self.elsewhere and self.core.accelerator == AUTO):
            return None
        # Only torch knows what there is.
        from zoo.models.devices import device_type

        return device_type(self.core.accelerator)

    def _other(self, role: str, domain: str, name: str) -> None:
        fact = of_domain(role, domain)
        model = self._looked_for(fact, name)
        if self.resolved.roles[role].head == "lm" and model.source.folder is not None:
            refuse_head(model.source.name, head_in(model.source.folder), self.cls.head)
            hold_files(name, model.source.folder, None, wanted(self.template, listed(self.core.new_tokens)))
        self._refuse_other_words(role, name, model.source.folder)
        self.outlook.facts[fact] += self._unused(role)
        if note := told_of_adapters(model.source):
            self.outlook.facts[fact] += f". {note}"

    def _refuse_other_words(self, role: str, name: str, folder: Path | None) -> None:
        trained = self.found.source.folder if self.found else None
        if role in self.roles and folder is not None and trained is not None:
            than, hint = told_of_role(role, self.resolved.roles[role].start == "named")
            refuse_other_words(name, folder, trained, than, hint)

    def _looked_for(self, fact: str, name: str) -> Found:
        try:
            model = look_for(name, self.core.out)
        except ZooError:
            if (typed_path(name) / "config.json").is_file():
                self.outlook.facts[fact] = f"{name}: {describe(typed_path(name))}; {typed_path(name)}"
            raise
        folder = model.source.folder
        if folder is not None:
            check_files(name, folder)
        if model.source.is_adapter:
            check_base(model.source)
        about = f"{describe(folder)}; {model.note or folder}" if folder else model.note
        self.outlook.facts[fact] = f"{name}: {about}"
        if model.asked_of_hub:
            self.outlook.of_hub.append(name)
        return model

    def _judge(self) -> None:
        judge = self.core.judge
        if judge is not None:
            about = check_judge(judge, self.core.out)
            self.outlook.facts["judge"] = f"{judge}: {about}" + self._unused("judge")
        elif "judge" in self.roles:
            self.outlook.facts["judge"] = "the start"

    def _unused(self, role: str) -> str:
        if role in self.roles:
            return ""
        return f"; unused: {self.resolved.algo} with these options has no {role}"

    # -- data ----------------------------------------------------------------------------------------------------

    def _data(self) -> None:
        check_decay(self.core, self.cls)
        self.seen = self._glance("data", self.core.data, self.cls.kinds())
        first = self.seen[0][1]
        kinds = (first.kind,) if first else self.cls.kinds()
        for name in ("eval_data", "decay_data"):
            if getattr(self.core, name):
                self._try(lambda name=name: self._more_data(name, kinds))  # type: ignore[misc]

    def _more_data(self, what: str, kinds: tuple[str, ...]) -> None:
        self._glance(what, getattr(self.core, what), kinds)

    def _glance(self, what: str, text: str, kinds: tuple[str, ...]) -> list[tuple[Part, Glance | None]]:
        """The first rows of each part of the data; None for a data set of the hub."""
        parts = read_mixture(text, registry.contributions(registry.manager(), "sources"))
        stream = self.core.stream and what == "data"
        if stream:
            # It loads torch.
            from zoo.data.stream_opening import check_parts

            check_parts(parts)
        seen = [(part, self._glance_at(part, kinds, stream)) for part in parts]
        self.outlook.facts[what] = "; ".join(_told(*one) for one in seen)
        self.outlook.of_hub += [str(part.source) for part, glance in seen if glance is None]
        return seen

    def _glance_at(self, part: Part, kinds: tuple[str, ...], stream: bool) -> Glance | None:
        look = glance
        if stream:
            from zoo.data.stream_opening import glance_at_stream as look  # type: ignore[assignment]

        of_run = Reading.of(self.core, registry.contributions(registry.manager(), "sources"))
        return look(part.source, kinds, part.reading(of_run))

    # -- what is named -------------------------------------------------------------------------------------------

    def _rewards(self) -> None:
        named = registry.contributions(registry.manager(), "rewards")
        for what in ("reward", "gold_reward") if self.cls.online() else ():
            if text := getattr(self.core, what):
                defaults = {"max_new_tokens": self.core.max_new_tokens}
                notes: list[str] = []
                labels = check_reward(text, named, self.core.out, defaults, notes.append)
                self.outlook.facts[what] = ". ".join([f"{text}: {', '.join(labels)}", *notes])
        if learns_from_rewards(self.cls, self.roles) and not self.core.reward:
            raise ZooError(
                f"{self.resolved.algo} learns from a reward, and none is named.",
                "Add one of docs/rewards.md (--reward length), or a function of your own: --reward ./mine.py:score",
            )

    def _engine(self) -> None:
        if self.cls.online():
            self.outlook.facts["engine"] = self.core.engine
        if self.core.engine == LOCAL:
            return
        engines = contributed("engines", lambda engine: engine, lambda engine: {}, lambda facts, function: function)
        name, options = parse(self.core.engine, "engine", "vllm(url=http://127.0.0.1:8000)")
        if name not in engines:
            raise ZooError(
                f"No engine is called '{name}'.{nearest(name, engines)}", f"Installed: {', '.join(sorted(engines))}."
            )
        bind(engines[name], options, f"engine '{name}'")

    def _environment(self) -> None:
        if self.core.environment:
            check_environment(self.core.environment, environments())
            self.outlook.facts["environment"] = self.core.environment
        elif self.cls.online() and OF_ENVIRONMENT in rewards_in(self.core.reward):
            raise ZooError("--reward names the reward of an environment, and there is none.", "Add --environment.")

    def _optimizer(self) -> None:
        """The optimizer and the schedule."""
        for kind in (OPTIMIZERS, SCHEDULES):
            text = getattr(self.core, kind.what)
            self._try(lambda kind=kind, text=text: refuse_missing(kind.choose(text, named(kind)).name))  # type: ignore[misc]
        if self.resolved.notes:
            self.outlook.facts["note"] = " ".join(self.resolved.notes)

    def _guards(self) -> None:
        setup = GuardSetup(self.cls.online(), learns_from_rewards(self.cls, self.roles))
        asked = ask(names_in(self.core.guards), guards(), setup)
        for one in asked:
            # A plugin's guard may come from its card, and cannot be made here.
            if one.name in BUNDLED:
                one.made(setup)
        self.outlook.facts["guards"] = ", ".join(f"{one.name} ({one.action})" for one in asked) or "none"

    def _scores(self) -> None:
        names = [] if self.core.score == AUTO else names_in(self.core.score)
        chosen = choose(names, evaluations(), self.cls.head) if names else []
        if chosen:
            self.outlook.facts["scores"] = ", ".join(evaluation.label for evaluation in chosen) + ", before and after"

    def _loggers(self) -> None:
        names = names_in(self.core.loggers)
        check_loggers(names)
        if names:
            self.outlook.facts["loggers"] = ", ".join(names)

    # -- what comes of it ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        core = self.core
        if self.resumed is not None:
            check_writable(self.resumed.path)
            return
        check_name(core.out, core.name)
        check_writable(typed_path(core.out))
        if self.found is not None:
            default = default_name(self.resolved.algo, self.found.source.short_name)
            path = typed_path(core.out) / (core.name or next_name(core.out, default))
            self.outlook.run = str(path)
            every = f"a checkpoint every {amount(core.save_every, 'step')}" if core.save_every else "no checkpoints"
            self.outlook.facts["makes"] = (
                f"{path}/ with model/, run.yaml, metrics.jsonl, samples.jsonl, report.html; {every}"
            )

    def _steps(self) -> None:
        """Estimate the steps and tokens from the first rows."""
        core, records = self.core, self._trained_records()
        if records is not None:
            steps = self._steps_of(records)
            self.outlook.steps = steps if core.max_steps is None else min(steps, core.max_steps)
            # An error of a fifth in the estimate would not change it.
            self.outlook.exact = core.max_steps is not None and core.max_steps <= 0.8 * steps
        elif core.max_steps is not None:
            self.outlook.steps = core.max_steps
        if self.outlook.steps is None:
            self.outlook.facts["steps"] = "not known before the data is read"
            return
        self.outlook.exact = self.outlook.exact or core.stream
        about = "" if self.outlook.exact else "about "
        text = f"{about}{self.outlook.steps:,}, of {amount(core.batch_size, 'example')} each"
        if (each := self._tokens_of_an_example()) is not None:
            examples = self.outlook.steps * core.batch_size
            examples = examples if records is None else min(examples, round(core.epochs * records))
            self.outlook.tokens = round(examples * each)
            text += f", about {self.outlook.tokens:,} tokens of prompts and answers"
        if hasattr(self.cls, "prepare"):
            text += f"; {self.resolved.algo} prepares its records first, which may change their number"
        ends = "" if records is None else of_few_steps(core.max_steps, core.epochs, steps)
        self.outlook.facts["steps"] = f"{text}. {ends}" if ends else text

    def _memory(self) -> None:
        """What the run will hold, against what is free."""
        models = self._models()
        if models is None:
            self.outlook.facts["memory"] = "not known before the model is here"
            return
        need = preflight(models, self._planned)
        if need is not None:
            self.outlook.memory = need
            self.outlook.facts["memory"] = " ".join(filter(None, (need.text(), need.warning())))

    def _models(self) -> dict[str, Path] | None:
        """The folders of the models that stay in memory, by role; None without that of the policy."""
        core, online = self.core, self.cls.online()
        names = {"policy": core.model}
        if "critic" in self.roles and core.critic == "own":
            names["critic"] = core.critic_model or core.model
        for name, role in self.resolved.roles.items():
            if role.is_frozen_copy and (name in self.roles or (online and name == START)):
                names |= self._frozen(name, role)
        if "judge" in self.roles and not core.lora or core.judge:
            names["judge"] = core.judge or core.model
        for option in ("reward", "gold_reward") if online else ():
            for mention in Expression(getattr(core, option)).mentions if getattr(core, option) else ():
                names[f"{option} {mention.name}"] = mention.name
        folders = {role: configured(name, core.out) for role, name in names.items()}
        if folders["policy"] is None:
            return None
        return {role: folder for role, folder in folders.items() if folder and (folder / "config.json").is_file()}

    def _frozen(self, name: str, role: Role) -> dict[str, str]:
        """The models of a frozen role, unless no step holds them: all is scored before, or it is the policy."""
        core = self.core
        cached = role.ahead and not self.cls.online() and core.reference_cache != "off"
        # A model of several domains is there once.
        domains = {other: domain for domain, other in reversed(self.resolved.models(name).items())}
        return {
            of_domain(name, domain): other or core.model for other, domain in domains.items()
            if other is not None or not (cached or core.lora)
        }  # fmt: skip

    def _planned(self, models: Mapping[str, Path]) -> Plan:
        from zoo.models.devices import device_type
        from zoo.models.precision import choose_precision

        core = self.core
        goes_on = core.lora and core.lora_continue
        planned = replace(core, **adapter_options(core.model, core.out)) if goes_on else core
        # A device that is not here has been told; its memory is of interest before it is rented.
        accelerator = device_type(core.accelerator)
        # Those that come from a card cannot be called.
        optimizers = OPTIMIZERS.available(registry.contributions(registry.manager(), "optimizers"))
        optimizer = OPTIMIZERS.choose(core.optimizer, optimizers)
        precision, _ = choose_precision(core.precision, accelerator)
        return Plan(
            planned, models, self._texts(models["policy"]), optimizer, self.cls.online(), self.outlook.steps,
            accelerator, precision, core.devices * core.num_nodes, core.devices,
            [name for name in models if name in self.resolved.roles and self.resolved.is_copy(name)],
        )  # fmt: skip

    def _texts(self, folder: Path) -> Texts:
        core = self.core
        glances = [seen for _, seen in self.seen if seen]
        texts = [text for seen in glances for text in seen.texts()]
        sizes = [one for seen in glances for one in seen.sizes()]
        each = tokens_a_character(folder, texts)
        if not self.cls.online():
            return texts_of(sizes, each, core.max_length)
        answer, count = round(core.max_new_tokens / each), core.answers_per_prompt
        written = [(prompt, count * answer, count) for prompt, _, _ in sizes] or [(answer, count * answer, count)]
        groups = texts_of(written, each, core.max_length + core.max_new_tokens)
        return replace(groups, apart=True, completion=core.max_new_tokens, longest=groups.prompt + core.max_new_tokens)

    def _trained_records(self) -> int | None:
        """The number of training records in an epoch, without the held-out ones."""
        counts = [self._trained_of(part, seen.rows if seen else None) for part, seen in self.seen]
        known = [count for count in counts if count is not None]
        return round(sum(known)) if known and len(known) == len(counts) else None

    def _trained_of(self, part: Part, rows: int | None) -> Fraction | None:
        if rows is None:
            return None
        core, sources = self.core, registry.contributions(registry.manager(), "sources")
        own = held_out_split(part.source, part.split or core.split, sources)
        shared = core.eval_fraction and not core.eval_data and own is None and rows >= FEWEST
        return part.repeats * (max(1, rows - round(core.eval_fraction * rows)) if shared else rows)

    def _steps_of(self, records: int) -> int:
        core = self.core
        if not self.cls.online():
            return math.ceil(max(1, round(core.epochs * records)) / core.batch_size)
        prompts = min(prompts_in_rollout(core), records)
        return math.ceil(max(1, round(core.epochs * records)) / prompts) * core.minibatches * core.rollout_epochs

    def _tokens_of_an_example(self) -> float | None:
        """None for an online algorithm: its answers are not written yet."""
        glances = [seen for _, seen in self.seen if seen]
        if not glances or self.cls.online():
            return None
        folder = self.found.source.folder if self.found else None
        texts = [text for seen in glances for text in seen.texts()]
        characters = sum(seen.characters for seen in glances) / len(glances)
        return min(characters * tokens_a_character(folder, texts), self.core.max_length)


def of_few_steps(max_steps: int | None, epochs: float, steps: int) -> str:
    """What to tell of the steps that the epochs give: they end before those that were asked for, or are few."""
    if max_steps is not None and max_steps > steps:
        return f"--epochs {epochs:g} ends before --max-steps {max_steps:,}: raise --epochs."
    if max_steps is None and steps < FEW_STEPS:
        return f"Fewer than {FEW_STEPS} steps: a smaller --batch-size or a larger --epochs makes more of them."
    return ""


def _told(part: Part, seen: Glance | None) -> str:
    """What the first rows of a part tell."""
    if seen is None:
        return f"{part.source}: a data set of the hub, which is read when the run starts"
    if seen.is_stream:
        return f"{seen.name}: a stream of records of kind {seen.kind}, read as {seen.format}"
    records = "an unknown number of records"
    if seen.rows is not None:
        records = f"{'' if seen.exact else 'about '}{amount(seen.rows, 'record')}"
    return f"{seen.name}: {records} of kind {seen.kind}, read as {seen.format}"
