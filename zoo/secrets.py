"""Keys and tokens are taken out of what is printed and kept: `scrubbed("… hf_abc…")` is `… hf_***`.

Messages quote what others wrote: an exception of a reward, the answer of a server, an address. So every `ZooError`,
every traceback that is kept and every typed command passes through here. An option that holds a secret is refused,
because run.yaml keeps options as they are.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

SHORTEST = 8
"""Characters of a value of the environment that is taken for a secret."""
NAMED = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""In the name of a variable of the environment whose value is secret."""
SHAPES = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        (hf_)(?:[A-Za-z0-9]{16,}|(?=[A-Za-z]*\d)[A-Za-z0-9]{8,}) | (gh[oprsu]_)[A-Za-z0-9]{16,} | (github_pat_)\w{16,}
        | (sk-)(?=[\w-]*\d)[\w-]{16,} | (AKIA|ASIA)[A-Z0-9]{16} | (AIza)[\w-]{30,} | (glpat-|xox[a-z]-)[\w-]{10,}
    )
    | (\b(?i:bearer|basic)\s+)(?=[^\s"'\\]*\d)[^\s"'\\]{8,}
    | (://)[^\s/@:'"]*:[^\s/@'"]+(?=@)
    | ([?&;](?i:(?:access_|api_?|auth_?|refresh_|x-amz-)?(?:key|token|secret|password|signature))=)[^\s&;'"\#]+
    | (-----BEGIN\ [A-Z ]*PRIVATE\ KEY-----).*?(?:-----END|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
"""What keys look like: those of hubs and clouds, of headers, in addresses and in files."""


def scrubbed(text: str) -> str:
    """The text with `***` for every secret, and `$NAME` for the value of a secret variable of the environment."""
    for value, name in _of_environment():
        text = text.replace(value, f"${name}")
    return SHAPES.sub(_hidden, text)


def _hidden(match: re.Match[str]) -> str:
    """The beginning of a key, which tells its kind."""
    return next(filter(None, match.groups())) + "***"


def secret_in(text: str) -> str:
    """What a secret in a text is, `a key (hf_***)` or `the value of $NAME`; empty if there is none."""
    if found := SHAPES.search(text):
        return f"a key ({_hidden(found)})"
    return next((f"the value of ${name}" for value, name in _of_environment() if value in text), "")


def _of_environment() -> list[tuple[str, str]]:
    """(value, name) of secret variables, as they are and as addresses write them, the longest first."""
    named = [(value.strip(), name) for name, value in os.environ.items() if NAMED.search(name)]
    # The path of a file that holds a key is none.
    found = [(value, name) for value, name in named if len(value) >= SHORTEST and not os.path.exists(value)]
    found += [(quote(value, safe=""), name) for value, name in found if quote(value, safe="") != value]
    return sorted(found, key=lambda pair: -len(pair[0]))
