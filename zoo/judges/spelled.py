"""Checks `--judge` before any model is loaded."""

from __future__ import annotations

from urllib.parse import urlsplit

from zoo.errors import ZooError
from zoo.models.names import head_in, look_for, refuse_head

SELF = "self"
KEYS = ("ZOO_JUDGE_KEY", "OPENAI_API_KEY")


def is_endpoint(spec: str) -> bool:
    """Whether a spelling names a server's model."""
    return spec.startswith(("http://", "https://"))


def check_endpoint(spec: str) -> None:
    """Raises ZooError for an address without a model or with a key."""
    url, _, model = spec.partition("#")
    parts = urlsplit(url)
    if not model or not parts.netloc:
        raise ZooError(f"The judge '{spec}' names no model.", "Write https://host/v1#model-name.")
    if parts.username or parts.password or parts.query:
        # The key would be written to the run folder and to every label.
        raise ZooError("The address of a judge must not hold a key.", f"Set it as {' or '.join(KEYS)}.")


def check_judge(spec: str, out: str) -> str:
    """A short description of a judge; nothing is loaded or asked. Raises ZooError."""
    if is_endpoint(spec):
        check_endpoint(spec)
        return "a server, which has not been asked yet"
    if spec == SELF:
        return "the model that is trained"
    location = look_for(spec, out)
    if location.source.folder is not None:
        refuse_head(location.source.name, head_in(location.source.folder), "lm")
    return location.note or str(location.source.folder)
