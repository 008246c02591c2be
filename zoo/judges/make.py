"""Makes the judge that `--judge` names: the policy itself, another model or run, or a server's model."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.judges.cache import JudgementCache
from zoo.judges.endpoint import Endpoint
from zoo.judges.judge import Judge, Respondent
from zoo.judges.local import LocalModel
from zoo.judges.spelled import SELF, is_endpoint
from zoo.judges.wording import load_wording
from zoo.libraries.adapters import merged
from zoo.libraries.architecture import ending_ids
from zoo.models.attention import use_cpu_attention
from zoo.models.loading import load_model, load_template, require_head
from zoo.models.precision import round_frozen, rounding_tolerance
from zoo.models.scoring import choose_layout
from zoo.models.start import resolve_start
from zoo.paths import cache_folder


def make_judge(
    spec: str,
    policy_model: Any = None,
    template: ChatTemplate | None = None,
    precision: str = "32-true",
    *,
    borrow: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    device: torch.device | str = "cpu",
    layout: str | None = None,
    micro_tokens: int = 4096,
    wording: str | Path | None = None,
    cache: bool | None = None,
    votes: int = 5,
    parallel: int = 4,
    longest_thought: int = 256,
    out: str = "runs",
    trust_remote_code: bool = False,
    base_dtype: str = "auto",
    say: Callable[[str], None] = print,
) -> Judge:
    """A judge from its spelling. Raises ZooError if it does not exist.

    spec: `self`; the name, folder or run of a language model; or `https://host/v1#model-name`, an OpenAI-compatible
    endpoint whose key is in ZOO_JUDGE_KEY or OPENAI_API_KEY.
    policy_model, template: for `self`, the model that judges, or a function that gives it when it is needed, and the
    chat template to ask it with; borrow: a context in which it is the judge, such as `policy.disable_adapter`;
    layout: of its rows, as chosen by the run's self-test, None for a self-test of its own;
    precision: Lightning's name; base_dtype: of another model's matrices, as `--base-dtype` says it;
    device: for tensors and for other models; micro_tokens: tokens in one forward pass;
    wording: a file of texts; cache: store responses on disk; None does so only for endpoints (they cost money and may
    answer differently the next time); votes, parallel: of an endpoint; longest_thought: most tokens in a chain of
    thought.
    """
    texts = load_wording(wording)
    respondent: Respondent
    if is_endpoint(spec):
        respondent = Endpoint(spec, votes=votes, parallel=parallel, longest_thought=longest_thought, say=say)
    elif spec == SELF:
        if policy_model is None or template is None:
            raise ZooError(
                "There is no policy here that could be its own judge.", "Name the judge: --judge smollm2-135m."
            )
        load = (lambda: policy_model) if isinstance(policy_model, torch.nn.Module) else policy_model
        respondent = LocalModel(
            SELF, load, template, precision, borrow=borrow, layout=layout, micro_tokens=micro_tokens,
            longest_thought=longest_thought,
        )  # fmt: skip
    else:
        respondent = _other_model(
            spec, precision, device, micro_tokens, longest_thought, out, trust_remote_code, base_dtype, say
        )  # fmt: skip
    keep = isinstance(respondent, Endpoint) if cache is None else cache
    return Judge(respondent, texts, device=device, cache=_opened(respondent, say) if keep else None)


def _other_model(
    spec: str,
    precision: str,
    device: torch.device | str,
    micro_tokens: int,
    longest_thought: int,
    out: str,
    trust_remote_code: bool,
    base_dtype: str,
    say: Callable[[str], None],
) -> LocalModel:
    """Another model, frozen, asked with its own chat template."""
    source = resolve_start(spec, out, say)
    require_head(source, "lm")
    model = load_model(source, torch.float32, trust_remote_code)
    if source.is_adapter:
        model = merged(model)
    model = model.requires_grad_(False).eval().to(device)
    if torch.device(device).type == "cpu":
        use_cpu_attention(model)
    chat = load_template(source, trust_remote_code=trust_remote_code, eos_ids=ending_ids(model), say=say)
    # Before the weights are rounded, because rounding hides what the self-test looks for.
    probes = [chat.answer("Name a colour.", text).to(device) for text in ("Red.", "It is blue.")]
    layout, _ = choose_layout(model, probes, "auto", rounding_tolerance(precision))
    round_frozen(model, precision, base_dtype)
    return LocalModel(
        source.short_name, lambda: model, chat, precision, layout=layout, micro_tokens=micro_tokens,
        longest_thought=longest_thought,
    )  # fmt: skip


def _opened(respondent: Respondent, say: Callable[[str], None]) -> JudgementCache | None:
    """The cache of this judge; None if the folder cannot be written."""
    try:
        return JudgementCache(cache_folder() / "judgements", respondent.fingerprint())
    except (OSError, sqlite3.Error) as error:
        say(f"The judge's responses are not cached: {cache_folder()} cannot be written ({error}).")
        return None
