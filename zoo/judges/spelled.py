"""What `--judge` and `judge(…)` may say, looked at before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from zoo.errors import ZooError, nearest
from zoo.models.names import head_in, look_for, refuse_head

SELF = "self"
KEYS = ("ZOO_JUDGE_KEY", "OPENAI_API_KEY")
OPTIONS = ("model", "wording", "chain_of_thought")
SWITCH = {"true": True, "false": False, "1": True, "0": False}


def is_endpoint(spec: str) -> bool:
    """Whether a judge is a server's model."""
    return spec.startswith(("http://", "https://"))


def check_endpoint(spec: str) -> None:
    """Raises ZooError for an address that names no model, or holds a key."""
    url, _, model = spec.partition("#")
    parts = urlsplit(url)
    if not model or not parts.netloc:
        raise ZooError(f"The judge '{spec}' names no model.", "Write https://host/v1#model-name.")
    if parts.username or parts.password or parts.query:
        # It would stand in the run folder and in every label.
        raise ZooError("A key does not belong into the address of a judge.", f"Set it as {' or '.join(KEYS)}.")


def check_judge(spec: str, out: str) -> str:
    """What a judge is, in a few words; nothing is loaded or asked. Raises ZooError."""
    if is_endpoint(spec):
        check_endpoint(spec)
        return "a server, which is not asked yet"
    if spec == SELF:
        return "the model that is trained"
    found = look_for(spec, out)
    if found.source.folder is not None:
        refuse_head(found.source.name, head_in(found.source.folder), "lm")
    return found.note or str(found.source.folder)


def check_options(options: Mapping[str, Any]) -> bool:
    """Whether the judge of a reward thinks first. Raises ZooError for options that it does not have."""
    for name in options:
        if name not in OPTIONS:
            raise ZooError(
                f"a judge has no option {name}.{nearest(name, OPTIONS)}", f"It takes {', '.join(OPTIONS)}."
            )  # fmt: skip
    switch = str(options.get("chain_of_thought", "false")).lower()
    if switch not in SWITCH:
        raise ZooError("chain_of_thought is true or false.")
    return SWITCH[switch]
