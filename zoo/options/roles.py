"""The models of a run, its roles: what each is, and which options belong to it.

An algorithm picks roles by name in `needs`. The core builds them from this table, and a plugin adds frozen ones of its
own in `own_roles`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from zoo.errors import ZooError
from zoo.options.spelling import split
from zoo.paths import typed_path

ONE = ""
"""The domain of a role's only model."""
DOMAIN = r"[\w.-]+="
"""How the model of a domain begins."""


@dataclass(frozen=True)
class Role:
    """A model of a run.

    trained: the optimizer moves it; else it is frozen. start: where it starts when its option names no model: as the
    policy starts, or nowhere: it must be `named`. head: a language model, a scorer of tokens, or a judge of texts.
    ahead: its log-probabilities of the training data are computed before the first step, so that no step of an offline
    run holds the model. option: the option that names its model; other_options: what else belongs to it. about: the
    help of the option.
    """

    trained: bool = False
    start: Literal["policy", "named"] = "policy"
    head: Literal["lm", "scalar", "judge"] = "lm"
    ahead: bool = False
    option: str = ""
    other_options: tuple[str, ...] = ()
    about: str = ""

    @property
    def is_frozen_copy(self) -> bool:
        """Whether it is a frozen language model, which gives log-probabilities."""
        return not self.trained and self.head == "lm"

    def models(self, text: str) -> dict[str, str]:
        """The models that its option names, by domain: of `math=A,code=B`, or {ONE: text}.

        Only frozen copies have several, and a path that exists is one model. Raises ZooError for a domain without a
        model, and for one that is there twice.
        """
        if not self.is_frozen_copy or not re.match(DOMAIN, text) or typed_path(text).exists():
            return {ONE: text}
        models: dict[str, str] = {}
        for part in self._parts(text):
            domain, _, model = part.partition("=")
            if not model or domain in models:
                fault = "is there twice" if model else "has no model"
                flag = f"--{self.option.replace('_', '-')}"
                raise ZooError(
                    f"{flag} {text}: the domain {domain} {fault}.", f"Write {flag} DOMAIN=MODEL,DOMAIN=MODEL."
                )
            models[domain] = model
        return models

    def _parts(self, text: str) -> list[str]:
        """The texts that begin with a domain; a comma that no domain follows, or inside brackets, separates nothing."""
        parts: list[str] = []
        for part in split(text) or [text]:
            if parts and not re.match(DOMAIN, part):
                parts[-1] += f",{part}"
            else:
                parts.append(part)
        return parts

    def with_models(self, text: str, change: Callable[[str], str]) -> str:
        """What its option names, with each model's name changed."""
        models = self.models(text)
        if ONE in models:
            return change(text)
        return ",".join(f"{domain}={change(model)}" for domain, model in models.items())


STARTS: tuple[str, ...] = get_args(get_type_hints(Role)["start"])
POLICY = "policy"
ROLES: Mapping[str, Role] = {
    POLICY: Role(trained=True, start="named", option="model"),
    "reference": Role(ahead=True, option="reference"),
    "teacher": Role(start="named", option="teacher"),
    "critic": Role(trained=True, head="scalar", option="critic_model", other_options=("critic_lr", "critic")),
    "judge": Role(head="judge", option="judge"),
}
"""The roles of the core, in the order in which they are built."""
TRAINED = tuple(name for name, role in ROLES.items() if role.trained)
"""The roles that an optimizer moves."""


def of_domain(name: str, domain: str) -> str:
    """The name of a role, or of what belongs to it, with the domain of one of its models: `teacher:math`."""
    return f"{name}:{domain}" if domain else name


def model_options(roles: Mapping[str, Role] = ROLES, *heads: str) -> list[str]:
    """The options that name the models of roles, of these heads or of all."""
    return [role.option for role in roles.values() if not heads or role.head in heads]


def role_options(roles: Mapping[str, Role]) -> Iterator[tuple[str, str]]:
    """(option, role) for all options that have no effect in a run without the role."""
    for name, role in roles.items():
        if name != POLICY:
            yield from ((option, name) for option in (role.option, *role.other_options))
