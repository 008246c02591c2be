"""What encoded records depend on, as one key: content, options, template, tokenizer, and the code that encodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zoo
from zoo.data.encoding.block import VERSION
from zoo.data.encoding.template import ChatTemplate
from zoo.data.work import Work

LIBRARIES = ("transformers", "tokenizers", "jinja2")
CODE = ("data/**/*.py", "data/**/*.jinja", "libraries/pretrained.py", "libraries/vocabulary.py", "limits.py")
"""The files below the package by which lines become encoded records."""
DIGITS = 32


def store_key(fingerprint: str, work: Work, **options: Any) -> str:
    """The key of the records that are made of some content. options: how the source is read (split, limit)."""
    facts = {
        "content": fingerprint, "format": work.format.name, "columns": dict(work.columns), "kind": work.kind,
        "max_length": work.max_length, "long_rows": work.long_rows, "code": _code(), **options,
        **_template_facts(work.template),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:DIGITS]


def _template_facts(template: ChatTemplate) -> Mapping[str, Any]:
    renderer = template.renderer
    if renderer is None:
        return {"template": None, **tokenizer_facts(template)}
    return {
        "template": str(template.source), "args": renderer.args, "day": str(renderer.day) * renderer.writes_day,
        "end": template.end_of_turn, **tokenizer_facts(template),
    }  # fmt: skip


def tokenizer_facts(template: ChatTemplate) -> Mapping[str, Any]:
    """What a tokenizer makes of texts."""
    tokenizer = template.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return {
        "words": hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest(), "class": type(tokenizer).__name__,
        "special": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        "bos": template.tokens.bos, "ends": sorted(template.eos_ids), "rowless": sorted(template.tokens.rowless),
    }  # fmt: skip


@cache
def _code() -> str:
    """Changes with the code and with the libraries under it."""
    root = Path(zoo.__file__).parent
    digest = hashlib.sha256(f"{VERSION} {[version(name) for name in LIBRARIES]}".encode())
    for file in sorted({file for pattern in CODE for file in root.glob(pattern)}):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
