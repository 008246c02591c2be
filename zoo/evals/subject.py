"""Loads a run or model by its name for evaluation, for `zoo eval` and for recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from zoo.data.encoding.named import AUTO, listed, template_args, wanted
from zoo.data.encoding.new_tokens import NewTokens
from zoo.data.encoding.template import ChatTemplate
from zoo.evals import Subject
from zoo.libraries.architecture import ending_ids
from zoo.libraries.quiet import quiet_libraries
from zoo.models.loading import load_model, load_template, require_head, rows_for
from zoo.models.names import Source, run_of, template_of
from zoo.models.precision import choose_precision
from zoo.models.start import require_same_tokens, resolve_start
from zoo.options.checks import names_in
from zoo.runs import own_template

QUESTION = "What is eight and nine?"


def load_subject(
    name: str,
    out: str,
    say: Callable[[str], None],
    head: str | None = None,
    template: str | None = None,
    asked: str | None = None,
    args: Mapping[str, Any] | str | None = None,
    precision: str = "auto",
    against: str | None = None,
    **options: Any,
) -> Subject:
    """A run or model with its weights in float32 and the precision that is fast on the device.

    head: "lm" refuses reward models; template: the chat template of a model that is no run; asked: the one to use
    instead of the model's own, and where that is another one, it is said; args: variables of the template; against: the
    run or model to compare with, loaded when an evaluation needs it; by default the start of a run that was scored.
    Raises ZooError if its tokens differ.
    """
    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = resolve_start(name, out, say)
    run = run_of(source)
    if head is not None:
        require_head(source, head)
    chat = load_template(source, asked or (template if run is None else None), args=template_args(args), say=say)
    tokenizer = chat.tokenizer
    if asked is not None:
        for note in chat.notes:
            say(note)
        _tell(name, asked, chat, ChatTemplate(tokenizer, template_of(source)), say)
    model = load_model(source, torch.float32).eval().to(device)
    arithmetic = choose_precision(precision, device)[0]
    chat.eos_ids |= ending_ids(model)
    comparison: dict[str, Any] = {"start": _other(against, out, say, tokenizer, source)} if against is not None else {}
    said = run.config.get("score", AUTO) if run is not None else AUTO
    if run is not None and said != AUTO:
        # As in its training, where a score may compare with the start.
        start = str(run.config["model"])
        comparison = {
            "scores": names_in(said), "start": lambda: _other(start, out, say, tokenizer, source)(), **comparison
        }  # fmt: skip
    return Subject(model, tokenizer, chat, arithmetic, **{"out": out, "say": say, **comparison, **options})


def _tell(name: str, asked: str, chat: ChatTemplate, own: ChatTemplate, say: Callable[[str], None]) -> None:
    """Say that a model is asked in another form than the one it was trained in."""
    if chat.prompt_ids(QUESTION) == own.prompt_ids(QUESTION) and chat.end_of_turn == own.end_of_turn:
        return
    ends = [one.end_of_turn or one.tokenizer.eos_token for one in (own, chat)]
    how = "" if ends[0] == ends[1] else f": its own ends a turn with {ends[0]}, this one with {ends[1]}"
    say(f"Note: {name} has another chat template than --template {asked}{how}.")


def _other(name: str, out: str, say: Callable[[str], None], tokenizer: Any, evaluated: Source) -> Callable[[], Any]:
    """A function that loads a language model with the same tokens.

    One that lacks the tokens which the evaluated run was given has the rows for them that the run began with.
    """
    source, run = resolve_start(name, out, say), run_of(evaluated)
    require_head(source, "lm")
    named = listed(run.config.get("new_tokens") or "") if run is not None else ()
    text = own_template(run, "") if run is not None else None
    new = NewTokens(tokens=wanted(text, named), named=named)
    lacking = require_same_tokens(
        name, source, tokenizer, "the evaluated model, so the two cannot be compared", new
    )  # fmt: skip

    def loaded() -> Any:
        model = load_model(source, torch.float32)
        rows_for(model, lacking)
        return model

    return loaded
