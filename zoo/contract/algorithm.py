"""The base class of every algorithm: what it declares, and which of its methods are hooks.

An algorithm states its paper, the kind of data it learns from, the model roles it needs, its options and its
metrics, and implements `loss` (and optionally `prepare`, `collate`, `measure`, and `rollout` to learn from answers that
its policy writes). The core does everything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from typing import Any, ClassVar

from zoo.contract.hook_arguments import check_arguments, file_of, named_hook, place_of, place_of_attribute
from zoo.contract.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS
from zoo.errors import PluginError, nearest
from zoo.options.config import CORE_NAMES, NUMBERS
from zoo.options.fields import HELPS
from zoo.options.points import Point, fault_in
from zoo.options.roles import ROLES, STARTS, TRAINED, Role

API_VERSION = 2
OWN_ROLES_ARE = 'Write own_roles = {"opponent": Role(start="policy", about="HELP OF --opponent.")}.'
POINTS_ARE = 'Write [Point(WEIGHTS, VALUE, "SOURCE"), ...]: docs/contract.md#defaults-that-depend-on-the-model.'
DATA_KINDS = ("demonstration", "preference", "feedback", "prompt", "ranking", "stepwise", "text")


class Algorithm:
    """Subclass this, declare, implement `loss`. The class docstring's first line is the algorithm's description."""

    api_version: ClassVar[int]
    """The version of the plugin API that it is written for: 2. Required."""
    paper: ClassVar[str] = ""
    data: ClassVar[str | tuple[str, ...]] = ""
    """The kind of data it learns from. Of several kinds, the data's own is used if it is among them, else the first."""
    needs: Any = ("policy",)
    """Roles used; a tuple, or a function of the options (`def needs(self, config)`)."""
    own_roles: ClassVar[Mapping[str, Role]] = {}
    """Frozen language models that the core has no role for: `{"opponent": Role()}`. Each is an option, --opponent."""
    head: ClassVar[str] = "lm"
    """"lm" for a language model, "scalar" for a scorer."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of core options from the paper: `{"lr": 5e-7}`. A number that depends on the model is a list of
    `zoo.api.Point`s."""
    reasons: ClassVar[Mapping[str, str]] = {}
    """Whose an option's default is, and why: `{"epochs": "Paper: one pass (section 5)."}`."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Presets for `--variant`, by their names in the paper, of own and core options: `{"cautious": {"beta": 0.5}}`."""
    metrics: ClassVar[Mapping[str, str]] = {}
    """One sentence for each metric that `loss` reports."""
    measured: ClassVar[tuple[str, ...]] = ()
    """Fields of a batch that only `measure` reads; their tokens do not count towards the size of micro-batches."""
    saved: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that a resume must restore."""
    conformance: ClassVar[Mapping[str, Any]] = {}
    """Additional facts for `zoo check`: worked numbers, first values, exceptions with their reasons."""

    @dataclass
    class Config:
        """No options."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.Config = _with_role_options(cls.Config, cls.own_roles)  # type: ignore[misc]

    @classmethod
    def role_table(cls) -> dict[str, Role]:
        """The roles to pick from: the core's, and its own ones."""
        return {**ROLES, **{name: replace(role, option=name) for name, role in cls.own_roles.items()}}

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The kinds of data it learns from, the preferred one first."""
        return (cls.data,) if isinstance(cls.data, str) else tuple(cls.data)

    def roles(self, config: Any) -> tuple[str, ...]:
        """The roles this configuration needs. Raises PluginError for one that does not exist."""
        if not callable(self.needs):
            return tuple(self.needs)
        roles = tuple(self.needs(config))
        table = self.role_table()
        for role in roles:
            if role not in table:
                what = f"returned the unknown role '{role}'.{nearest(role, list(table))}"
                raise PluginError(f"{named_hook(self, 'needs')} {what}", _roles_are(table))
        return roles

    @classmethod
    def online(cls) -> bool:
        """Whether it learns from answers that its policy writes during the run."""
        return hasattr(cls, "rollout")

    def state(self) -> dict[str, Any]:
        """The state of this algorithm for a checkpoint."""
        return {name: getattr(self, name) for name in self.saved}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in self.saved:
            setattr(self, name, state[name])


def _with_role_options(config: Any, own_roles: Any) -> Any:
    """The class of an algorithm's options with one more for each of its own roles."""
    if not (isinstance(config, type) and is_dataclass(config) and isinstance(own_roles, Mapping)):
        return config
    have = {option.name for option in fields(config)}
    new = {name: role for name, role in own_roles.items() if isinstance(role, Role) and name not in have}
    # A name that is none is refused with the other faults.
    if not new or not all(isinstance(name, str) and name.isidentifier() for name in new):
        return config
    names = {name: getattr(config, name) for name in ("__module__", "__qualname__")}
    helps = {name: role.about for name, role in new.items()}
    options: list[Any] = [(name, str | None, field(default=None)) for name in new]
    space = {**names, "__doc__": "Its own roles.", HELPS: helps}
    return make_dataclass(config.__name__, options, bases=(config,), namespace=space)


def _named_as_a_role(cls: type[Algorithm]) -> str:
    """The first option that the class declares by the name of one of its own roles; "" if there is none."""
    for part in cls.Config.__mro__:
        of_roles = vars(part).get(HELPS, {})
        for name in vars(part).get("__annotations__", {}):
            if name in cls.own_roles and name not in of_roles:
                return name
    return ""


def _roles_are(table: Iterable[str]) -> str:
    return f"Roles: {', '.join(table)}. docs/contract.md#models says what each is."


def missing_role(role: str, declared: Sequence[str], table: Sequence[str] = tuple(ROLES)) -> PluginError:
    """The error for a role that the algorithm uses and did not declare. table: the roles to pick from."""
    what = f"The algorithm uses models.{role}, but declares needs = {tuple(declared)}"
    if role in table:
        return PluginError(f"{what}.", f'Add "{role}" to its needs.')
    return PluginError(f"{what}, and there is no such role.{nearest(role, table)}", _roles_are(table))


def check_version(cls: type[Algorithm], name: str) -> None:
    """Raises PluginError for a class that is written for another version of the plugin API, with what to write."""
    version, here = getattr(cls, "api_version", None), f"Algorithm '{name}' ({file_of(cls)})"
    if version == API_VERSION:
        return
    if version is None:
        raise PluginError(
            f"{here} does not say which plugin API it is written for.",
            f"Add this line to {cls.__name__}: api_version = {API_VERSION}. Was it written for version 1? "
            "docs/contract.md#versions says what has changed.",
        )
    raise PluginError(
        f"{here} is written for plugin API {version}, but this zoo has {API_VERSION}.",
        f"Change it as docs/contract.md#versions says, and write api_version = {API_VERSION}."
        if version == 1 else "Install the zoo that it was written for, or a version of the plugin for this one.",
    )  # fmt: skip


def validate(cls: Any, name: str) -> type[Algorithm]:
    """Refuse a class that cannot work, with the reason; returns the class."""

    def refuse(why: str, attribute: str = "", hint: str = "", of: Any = None) -> PluginError:
        place = place_of_attribute(of or cls, attribute) if attribute else file_of(cls)
        return PluginError(f"Algorithm '{name}' ({place}): {why}", hint)

    if not (isinstance(cls, type) and issubclass(cls, Algorithm)):
        raise refuse(f"{cls!r} is not a subclass of zoo.api.Algorithm.")
    check_version(cls, name)
    for kind in cls.kinds() or ("",):
        if kind not in DATA_KINDS:
            guess = nearest(kind, DATA_KINDS)
            raise refuse(f"data = {cls.data!r} is not one of {', '.join(DATA_KINDS)}.{guess}", "data")
    if cls.online() and not (cls.kinds() == ("prompt",) or cls.kinds() == ("demonstration",)):
        what = f"it has a hook `rollout`, which takes prompts, and data = {cls.data!r}"
        raise refuse(f'{what}: write data = "prompt", or "demonstration" for prompts with an answer.', "data")
    if why := _fault_of_own_roles(cls.own_roles):
        raise refuse(f"own_roles: {why}", "own_roles", OWN_ROLES_ARE)
    if not is_dataclass(cls.Config):
        raise refuse("its Config is not a dataclass: put @dataclass above it.")
    if clash := [field.name for field in fields(cls.Config) if field.name in CORE_NAMES]:
        what = f"its option '{clash[0]}' is an option of the core, or reserved for one: rename it."
        raise refuse(what, clash[0], of=cls.Config)
    if twice := _named_as_a_role(cls):
        what = f"its option '{twice}' has the name of one of its own roles, which is an option already: rename one."
        raise refuse(what, twice, of=cls.Config)
    for declared, where, chosen in _declared_defaults(cls):
        for option, value in chosen.items():
            if why := _fault_of_default(option, value):
                raise refuse(f"{where}: {option}: {why}.", declared, POINTS_ARE)
    if not callable(getattr(cls, "loss", None)):
        raise refuse("it has no method `loss`.")
    if not callable(cls.needs):
        table = cls.role_table()
        for role in cls.needs:
            if role not in table:
                guess = nearest(role, list(table))
                raise refuse(f"needs names an unknown role '{role}'.{guess}", "needs", _roles_are(table))
    hooks = (*ALGORITHM_HOOKS, *LISTENER_HOOKS)
    allowed = {*hooks, *dir(Algorithm)}
    for method in vars(cls):
        if method.startswith("_") or method in allowed or not callable(getattr(cls, method)):
            continue
        if guess := nearest(method, hooks):
            where = place_of(getattr(cls, method))
            raise refuse(f"its method `{method}` is not a hook.{guess} ({where}. Helpers start with an underscore.)")
    for hook in hooks:
        if function := getattr(cls, hook, None):
            is_method = inspect.isfunction(inspect.getattr_static(cls, hook))
            check_arguments(function, hook, f"{cls.__name__}.{hook}", skip_first=is_method)
    return cls


def _fault_of_own_roles(own_roles: Any) -> str:
    """What is wrong with an algorithm's own roles; "" if nothing is."""
    if not isinstance(own_roles, Mapping):
        return f"{own_roles!r} is no mapping of names to roles."
    return next((why for name, role in own_roles.items() if (why := _fault_of_own_role(name, role))), "")


def _fault_of_own_role(name: Any, role: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier() or name in CORE_NAMES or name in ROLES:
        return f"{name!r} is a role or an option of the core, or no name: choose another one."
    if not isinstance(role, Role):
        return f"'{name}' is {role!r}, which is no Role."
    if role.trained or role.head != "lm":
        kind = "is trained" if role.trained else f"has the head '{role.head}'"
        return (
            f"'{name}' {kind}, but a role of a plugin is a frozen language model; trained are {' and '.join(TRAINED)}."
        )
    if role.start not in STARTS:
        return f"'{name}' has start = {role.start!r}, which is neither {' nor '.join(map(repr, STARTS))}."
    if role.option or role.other_options:
        return f"'{name}' names an option: that of a plugin's role has the role's name."
    return ""


def _declared_defaults(cls: type[Algorithm]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The attribute, its name in words, and the values: `defaults`, and each variant."""
    yield "defaults", "defaults", cls.defaults
    for name, values in cls.variants.items():
        yield "variants", f"variant {name}", values


def _fault_of_default(option: str, value: Any) -> str:
    """What is wrong with a default that depends on the model; "" for other defaults, which the options check."""
    several = isinstance(value, list | tuple)
    if not isinstance(value, Point) and not (
        several and (option in NUMBERS or any(isinstance(each, Point) for each in value))
    ):
        return ""
    return fault_in(value) if option in NUMBERS else "only a number of the core depends on the model"
