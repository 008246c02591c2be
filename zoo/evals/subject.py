"""Loads a run or model by its name for evaluation, for `zoo eval` and for recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoo.data.encoding.template import ChatTemplate
from zoo.evals import Subject
from zoo.libraries.architecture import ending_ids
from zoo.libraries.quiet import quiet_libraries
from zoo.models.loading import load_model, load_tokenizer, require_head
from zoo.models.precision import choose_precision
from zoo.models.start import require_same_tokens, resolve_start
from zoo.runs import find_run, is_run_name, split_checkpoint


def load_subject(
    name: str,
    out: str,
    say: Callable[[str], None],
    head: str | None = None,
    template: str | None = None,
    precision: str = "auto",
    against: str | None = None,
    **options: Any,
) -> Subject:
    """A run or model with its weights in float32 and the precision that is fast on the device.

    head: "lm" refuses reward models; template: the chat template if a run does not record the one it was trained with;
    against: the run or model to compare with, loaded when an evaluation needs it. Raises ZooError if its tokens
    differ.
    """
    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = resolve_start(name, out, say)
    if head is not None:
        require_head(source, head)
    tokenizer = load_tokenizer(source)
    if is_run_name(name, out):
        template = find_run(split_checkpoint(name)[0], out).config.get("template", template)
    model = load_model(source, torch.float32).eval().to(device)
    arithmetic = choose_precision(precision, device)[0]
    chat = ChatTemplate(tokenizer, template or "auto", eos_ids=ending_ids(model))
    comparison: dict[str, Any] = {"start": _other(against, out, say, tokenizer)} if against is not None else {}
    return Subject(model, tokenizer, chat, arithmetic, **{"out": out, "say": say, **comparison, **options})


def _other(name: str, out: str, say: Callable[[str], None], tokenizer: Any) -> Callable[[], Any]:
    """A function that loads a language model with the same tokens."""
    source = resolve_start(name, out, say)
    require_head(source, "lm")
    require_same_tokens(name, source, tokenizer, "the evaluated model, so the two cannot be compared")
    return lambda: load_model(source, torch.float32)
