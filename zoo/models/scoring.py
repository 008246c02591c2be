"""Scoring answers with a causal language model: rows in, `TokenLogps` out.

The backbone runs on the rows of the chosen layout, the head on the predicting positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.libraries.architecture import attention_window, backbone, last_hidden, text_config
from zoo.libraries.caches import keeps_state
from zoo.libraries.heads import distrust_head, measure_head, own_logits
from zoo.libraries.turns import in_pass
from zoo.libraries.wrappers import base_of
from zoo.models.attention import SegmentMask, reads_segments
from zoo.models.experts import watched
from zoo.models.layout import Rows, arrange, counted
from zoo.models.logps import Head, token_logps
from zoo.values.types import Answer, TokenLogps


def balance_of(model: Any) -> int:
    """The row length at which attention costs as much as all matrix products with weights."""
    config = text_config(base_of(model))
    layers = getattr(config, "num_hidden_layers", 1) or 1
    hidden = getattr(config, "hidden_size", 1) or 1
    weights = sum(p.numel() for p in backbone(model).parameters()) - hidden * config.vocab_size
    return max(64, int(weights / layers / (6 * hidden)))


def hidden_states(model: Any, rows: Rows, noise: float = 0.0) -> Tensor:
    """Last hidden states of the backbone, [R, L, D]. noise: NEFTune's α, uniform noise on the embeddings."""
    with watched(model, rows):
        return last_hidden(model, **_inputs(model, rows, noise))


def _inputs(model: Any, rows: Rows, noise: float) -> dict[str, Tensor]:
    base = base_of(model)
    inputs: dict[str, Tensor] = {"input_ids": rows.ids}
    if noise:
        inputs = {"inputs_embeds": neftune(base.get_input_embeddings()(rows.ids), rows, noise)}
    if not rows.plain or rows.padded:
        in_segments = reads_segments(base) and len(rows.ids) == 1 and not rows.padded
        inputs["attention_mask"] = SegmentMask(rows.segments, rows.mask) if in_segments else rows.mask()
    if not rows.padded:
        inputs["position_ids"] = rows.positions
    return inputs


def neftune(embeddings: Tensor, rows: Rows, alpha: float) -> Tensor:
    """e + U(−1, 1)·α/√(L·d), L the length of the token's own text; padding gets no noise (arXiv:2310.05914)."""
    size = alpha / torch.sqrt(rows.lengths * embeddings.shape[-1])
    size = size * (rows.group >= 0)
    uniform = torch.rand(embeddings.shape, device=embeddings.device) * 2 - 1
    return embeddings + (uniform * size[..., None]).to(embeddings.dtype)


class States(NamedTuple):
    """Answers laid out, and the hidden states at the N positions that predict their counted tokens, [N, D]."""

    rows: Rows
    hidden: Tensor


def predicting_states(model: Any, answers: Sequence[Answer], layout: str, balance: int, noise: float = 0.0) -> States:
    """The states that an output head, or a critic's, reads."""
    rows = rows_for(model, answers, layout, balance)
    return States(rows, hidden_states(model, rows, noise)[rows.row, rows.column])


def head_and_states(model: Any, rows: Rows, noise: float = 0.0) -> tuple[Head, Tensor]:
    """The output head, and what it reads at the N predicting positions: [N, D], or [N, V] if these are the logits."""
    if (head := Head.of(model)) is not None:
        return head, hidden_states(model, rows, noise)[rows.row, rows.column]
    with watched(model, rows):
        logits = own_logits(model, **_inputs(model, rows, noise))[rows.row, rows.column]
    return Head.of_logits(base_of(model)), logits


def score_answers(
    model: Any,
    answers: Sequence[Answer],
    layout: str,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    noise: float = 0.0,
    balance: int = 1024,
    states: States | None = None,
) -> TokenLogps:
    """Log-probs of the counted completion tokens of B answers, in order, [B, T]. states: theirs, if computed before."""
    device = next(model.parameters()).device
    if not answers:
        nothing = torch.zeros(0, 1, device=device)
        return TokenLogps(nothing, nothing.bool(), entropy=nothing if entropy else None, likeliest=nothing.bool())
    rows = rows_for(model, answers, layout, balance) if states is None else states.rows
    measure_head(model)
    return placed(answers, rows, in_pass(model, lambda: columns(model, rows, temperature, entropy, noise, states)))


Columns = tuple[Tensor, Tensor, Tensor | None]
"""Log-probs, whether likeliest, and entropies of N tokens, as of `token_logps`."""


def columns(
    model: Any, rows: Rows, temperature: float, entropy: bool, noise: float = 0.0, states: States | None = None
) -> Columns:
    """Of the counted tokens of rows; states: as of `score_answers`."""
    head = Head.of(model)
    if states is not None and head is not None:
        hidden = states.hidden
    else:
        head, hidden = head_and_states(model, rows, noise)
    return token_logps(hidden, head, rows.target, temperature, entropy)


def placed(answers: Sequence[Answer], rows: Rows, of_tokens: Columns) -> TokenLogps:
    """Each number in its place, [B, T]."""
    logps, likeliest, entropies = of_tokens
    mask = counted(answers).to(logps.device)
    empty = torch.zeros(mask.shape, dtype=torch.float32, device=logps.device)
    place = (rows.answer, rows.index)
    return TokenLogps(
        empty.index_put(place, logps),
        mask,
        entropy=None if entropies is None else empty.index_put(place, entropies),
        likeliest=torch.zeros_like(mask).index_put(place, likeliest),
    )


def rows_for(model: Any, answers: Sequence[Answer], layout: str, balance: int = 1024) -> Rows:
    """The answers laid out as this model takes them, on its device."""
    rows = arrange(answers, layout, balance, one_row=reads_segments(base_of(model)))
    return on_device(rows, next(model.parameters()).device)


def on_device(rows: Rows, device: torch.device) -> Rows:
    """The rows with every tensor on `device`."""
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(rows).items()}
    return Rows(**moved)  # type: ignore[arg-type]


def split(logps: TokenLogps, parts: Sequence[Sequence[Answer]]) -> list[TokenLogps]:
    """Cut along the batch axis, each part as wide as its longest completion, like `Answers.mask`."""
    cut, start = [], 0
    for part in parts:
        here = slice(start, start + len(part))
        width = max([1, *(len(answer.completion) for answer in part)])
        rest = [None if value is None else value[here, :width] for value in logps.computed.values()]
        cut.append(TokenLogps(logps.per_token[here, :width], logps.mask[here, :width], *rest))
        start += len(part)
    return cut


@torch.no_grad()
def plain_logps(model: Any, answer: Answer) -> Tensor:
    """Log-probs of an answer's tokens from the logits of a forward pass of its own, float32 [C].

    Of an answer without a prompt the first token is left out, which nothing predicts.
    """
    device = next(model.parameters()).device
    ids = torch.cat([answer.prompt, answer.completion]).to(device)
    targets = ids[max(1, len(answer.prompt)) :]
    logits = own_logits(model, input_ids=ids[None])[0]
    logits = logits[len(ids) - len(targets) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def check_head(model: Any, answers: Sequence[Answer], tolerance: float) -> str:
    """Compare log-probs with those of the model's own forward pass; a note if only that one is to be trusted.

    tolerance: as of `choose_layout`. From then on the model is scored by its own forward pass where they differ.
    """
    slow = "its own forward pass scores it: exact, but slower, and all logits of a micro-batch are in memory."
    if Head.of(model) is None:
        return f"{type(base_of(model)).__name__} makes logits in a way of its own, so {slow}"
    for answer in [one for one in answers if len(one.prompt) + len(one.completion) > 1]:
        with torch.no_grad():
            found = score_answers(model, [answer], "padded").per_token[0, -len(answer.completion) :]
        own = plain_logps(model, answer)
        counts = counted([answer])[0][-len(own) :].to(own.device)
        gap = float(((found[-len(own) :] - own).abs() * counts).sum() / counts.sum().clamp(min=1))
        if not gap <= (tolerance if own_dtype(model) == torch.float32 else max(tolerance, LARGEST_NOISE)):
            distrust_head(model)
            return f"Log-probs of {type(base_of(model)).__name__} differ by {gap:.2g} a token from its own, so {slow}"
    return ""


def own_dtype(model: Any) -> torch.dtype:
    """The type of a model's weights."""
    return next(model.parameters()).dtype


NOISE, LARGEST_NOISE = 3.0, 0.15
"""The rounding error that another layout may show, as a multiple of that of padded rows, and at most, as log-prob per
token. Texts that see each other differ by more."""


def choose_layout(
    model: Any,
    answers: Sequence[Answer],
    wanted: str,
    tolerance: float,
    longest: int | None = None,
    score: Callable[..., TokenLogps] = score_answers,
) -> tuple[str, str]:
    """The first layout that agrees with one-by-one forward passes on this model; a note if it is not the wanted one.

    tolerance: largest mean difference of log-probs that counts as rounding; longest: of all texts that will be
    scored, in tokens, None for any length; score: what is compared. Raises nothing: padded is the last resort.

    Call it outside of autocast: float32 weights then show a leak at a thousandth of what rounding to bfloat16 would
    hide. Weights in bfloat16 may differ by what padding the same answers changes, which is nothing but rounding.
    """
    candidates = {"auto": ["shared", "packed"], "shared": ["shared", "packed"], "packed": ["packed"]}.get(wanted, [])
    window = attention_window(model)
    if candidates and window is not None and (longest is None or longest > window):
        # Rows with a mask of their own override the window, which a short sample would not show.
        return "padded", f"Layout padded: this model has layers that see {window} tokens only."
    if candidates and keeps_state(base_of(model)):
        # Weights near their start leak less than the self-test sees.
        return "padded", "Layout padded: this model has layers that hand a state from token to token."
    if not candidates or not answers:
        return "padded", ""
    with torch.no_grad():
        answers = _probes(answers, window)
        alone = [score(model, [answer], "padded").sum() for answer in answers]
        expected = torch.cat(alone)
        counts = counted(answers).sum(-1).clamp(min=1).to(expected.device)

        def gap_of(layout: str) -> float:
            # With such a balance the test shares prompts wherever it can.
            logps = score(model, answers, layout, balance=10**9).sum()
            return float(((logps - expected).abs() / counts).max())

        if own_dtype(model) != torch.float32:
            tolerance = max(tolerance, min(NOISE * gap_of("padded"), LARGEST_NOISE))
        reasons = []
        for layout in candidates:
            try:
                gap = gap_of(layout)
                reasons.append(f"{layout} rows differ by {gap:.2g} a token")
                if gap <= tolerance:
                    note = "" if layout == candidates[0] else f"Layout {layout}: {reasons[0]}."
                    return layout, note
            except Exception as error:
                reasons.append(f"{layout} rows fail ({type(error).__name__}: {str(error)[:120]})")
    return "padded", f"Layout padded: {'; '.join(reasons)}." if reasons else ""


def _probes(answers: Sequence[Answer], window: int | None) -> list[Answer]:
    """The answers, another one to the first prompt, and one as long as all together, so that rows fill."""
    first = answers[0]
    other = replace(first, completion=first.completion.flip(0))
    everything = torch.cat([part for answer in [*answers, other] for part in (answer.prompt, answer.completion)])
    everything = everything[:window]
    longest = replace(
        first, prompt=everything[:1], completion=everything[1:], mask=torch.ones_like(everything[1:]).bool()
    )
    return [*answers, other, longest]
