"""The roles of a run around its policy: frozen language models, the critic, the judge."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from zoo.data.encoding.new_tokens import NewTokens
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.judges import make as judges
from zoo.judges.spelled import SELF
from zoo.libraries.adapters import frozen_parameters
from zoo.libraries.architecture import attention_window
from zoo.libraries.quantising import QUANTISED
from zoo.libraries.second_adapter import at_start
from zoo.libraries.sharding import is_sharding, shard
from zoo.libraries.stored import initial_values
from zoo.libraries.wrappers import is_adapted
from zoo.models.critic import Critic, ValueHead
from zoo.models.names import Source, told_of_adapters
from zoo.models.precision import round_frozen
from zoo.models.reference import Reference
from zoo.models.reference_cache import ReferenceCache, architecture, fingerprint
from zoo.models.roles import Models, Policy
from zoo.models.scalar import ScalarPolicy, is_scorer
from zoo.models.several import Several
from zoo.models.start import NO_TOKENS, load_policy, require_same_tokens, resolve_start
from zoo.models.vocabulary import size_of, told_of_role
from zoo.options.config import Resolved, TrainConfig
from zoo.options.roles import ONE, POLICY
from zoo.paths import cache_folder

Say = Callable[[str], None]


def make_models(
    resolved: Resolved, roles: tuple[str, ...], policy: Any, source: Source, template: ChatTemplate, layout: str,
    precision: str, say: Say, *, temperature: float = 1.0, make_writer: Callable[[Policy], Any] | None = None,
) -> Models:  # fmt: skip
    """The declared roles around the loaded policy. temperature, make_writer: as of `Policy`."""
    core, scores = resolved.core, is_scorer(policy)
    named = {name: resolved.models(name) for name in resolved.roles if name in roles}
    new = {name: {model: _new_tokens(resolved, name, model, template, say) for model in models.values()}
           for name, models in named.items()}  # fmt: skip
    words = size_of(template.tokenizer)
    learner: Any = ScalarPolicy(policy, layout) if scores else Policy(policy, layout, temperature, make_writer, words)
    made: dict[str, Any] = {POLICY: learner}
    for name in new:
        role = resolved.roles[name]
        if role.is_frozen_copy and not scores:
            by_name = {
                model: make_frozen(
                    core, model, policy, source, layout, precision, say, temperature, new_tokens,
                    core.reference_cache != "off", name, learner,
                ) for model, new_tokens in new[name].items()
            }  # fmt: skip
            several = {domain: by_name[model] for domain, model in named[name].items()}
            made[name] = several[ONE] if ONE in several else Several(name, several)
        elif role.head == "scalar":
            made[name] = make_critic(core, learner, source, layout, precision, say, new[name][core.critic_model])
        elif role.head == "judge":
            made[name] = make_judge(core, policy, source, template, layout, precision, say)
    if unknown := set(roles) - set(made):
        raise ZooError(f"{resolved.algo} needs the role '{unknown.pop()}', which this version does not build.")
    models = Models(**made)
    models.table = tuple(resolved.roles)
    return models


def _new_tokens(resolved: Resolved, name: str, other: str | None, template: ChatTemplate, say: Say) -> NewTokens:
    """The tokens that a model of a role has to get, once its tokenizer was compared with the policy's."""
    if name == POLICY or resolved.roles[name].head == "judge" or other is None:
        return template.new
    than, hint = told_of_role(name, resolved.roles[name].start == "named")
    start = resolve_start(other, resolved.core.out, say)
    if note := told_of_adapters(start):
        say(f"The {name}: {note}")
    return require_same_tokens(other, start, template.tokenizer, than, template.new, hint)


def make_critic(
    core: TrainConfig, policy: Policy, source: Source, layout: str, precision: str, say: Say, new: NewTokens = NO_TOKENS
) -> Critic:
    """A head on the policy, or a model of its own that starts where the policy does, or from a reward model."""
    if core.critic == "head":
        return Critic(policy, ValueHead.on(policy.model), layout)
    start = source if core.critic_model is None else resolve_start(core.critic_model, core.out, say)
    frozen_routers = core.freeze_routers and core.critic_model is None
    model = load_policy(
        replace(core, lora=False, freeze_routers=frozen_routers),
        start,
        precision,
        "scalar",
        new,
        is_sharding(),
    )
    if core.critic_model is None:
        torch.nn.init.zeros_(model.score.weight)
    return Critic(shard(model, core.offload), model, layout)


def make_frozen(
    core: TrainConfig, other: str | None, policy: Any, source: Source, layout: str, precision: str, say: Say,
    temperature: float = 1.0, new: NewTokens = NO_TOKENS, cached: bool = True, name: str = "reference",
    learner: Policy | None = None,
) -> Reference:  # fmt: skip
    """A frozen model: another one by name, the policy with its adapters off, or its own starting weights.

    new: tokens for which it has the rows that training starts from; name: of the role; learner: whose weights it may
    take.
    """

    dtype = core.copy_dtype if other is None and not is_adapted(policy) else core.frozen_dtype

    def cache_of(model: Any, weights: Any) -> ReferenceCache | None:
        if not cached or core.stream:
            return None
        # With another precision the scores of rounded matrices are those of the others.
        rounded = [dtype] if dtype in QUANTISED or (dtype, precision) == ("bfloat16", "32-true") else []
        key = fingerprint(initial_values(model, weights), precision, architecture(model), *rounded)
        try:
            return ReferenceCache(cache_folder() / "reference", key)
        except (OSError, sqlite3.Error) as error:
            kept = f"{name.capitalize()} log-probs are kept in memory only"
            say(f"{kept}: {cache_folder()} cannot be written ({error}).")
            return ReferenceCache(None, key)

    if other is None and is_adapted(policy):
        cache = cache_of(policy, frozen_parameters(policy))
        return Reference(lambda: policy, layout, cache, lambda: at_start(policy), temperature, learner, name)
    if other is not None:
        model = frozen(core, resolve_start(other, core.out, say), policy, precision, new)
        cache = cache_of(model, model.named_parameters())
        shard(round_frozen(model, precision, dtype), core.offload)
        return Reference(lambda: model, layout, cache, temperature=temperature, policy=learner, role=name)
    cache = cache_of(policy, policy.named_parameters())

    def load() -> Any:
        first = frozen(core, source, policy, precision, new)
        return shard(round_frozen(first, precision, dtype), core.offload)

    return Reference(load, layout, cache, temperature=temperature, policy=learner, role=name)


def frozen(core: TrainConfig, source: Source, policy: Any, precision: str, new: NewTokens = NO_TOKENS) -> Any:
    """A model that is not trained, on the policy's device."""
    options = TrainConfig(trust_remote_code=core.trust_remote_code)
    plain = load_policy(options, source, precision, new=new, in_files=is_sharding()).requires_grad_(False).eval()
    # One that is shared out comes to the device in parts.
    return plain if is_sharding() else plain.to(next(policy.parameters()).device)


def make_judge(
    core: TrainConfig, policy: Any, source: Source, template: ChatTemplate, layout: str, precision: str, say: Say
) -> Any:  # fmt: skip
    """The judge that was named, else the weights that training starts from."""
    options: dict[str, Any] = {"device": next(policy.parameters()).device, "out": core.out, "say": say}
    if core.judge is not None:
        options |= {"trust_remote_code": core.trust_remote_code, "base_dtype": core.frozen_dtype}
        return judges.make_judge(core.judge, precision=precision, **options)
    if attention_window(policy) is None:
        # The layout was tested for the run's lengths. A judge's texts are longer, which matters only with a window.
        options["layout"] = layout
    if is_adapted(policy):
        return judges.make_judge(SELF, policy, template, precision, borrow=lambda: at_start(policy), **options)

    @functools.cache
    def start() -> Any:
        first = frozen(core, source, policy, precision, template.new)
        return shard(round_frozen(first, precision, core.frozen_dtype), core.offload)

    if is_sharding():
        # All processes make it together; later only those would that have something to judge.
        start()
    return judges.make_judge(SELF, start, template, precision, **options)
