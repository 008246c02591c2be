"""The models of a run, its roles: what each is, and which options belong to it.

An algorithm picks roles by name in `needs`. The core builds them from this table, and a plugin adds frozen ones of its
own in `own_roles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal


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


def model_options(roles: Mapping[str, Role] = ROLES, *heads: str) -> list[str]:
    """The options that name the models of roles, of these heads or of all."""
    return [role.option for role in roles.values() if not heads or role.head in heads]


def role_options(roles: Mapping[str, Role]) -> Iterator[tuple[str, str]]:
    """(option, role) for all options that have no effect in a run without the role."""
    for name, role in roles.items():
        if name != POLICY:
            yield from ((option, name) for option in (role.option, *role.other_options))
