"""Scoring answers with a causal language model: rows in, `TokenLogps` out.

The backbone runs on the rows of the chosen layout, the head on the predicting positions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.models.layout import Rows, arrange, counted
from zoo.models.logps import Head, token_logps
from zoo.types import Answer, TokenLogps


def base_of(model: Any) -> Any:
    """The Hugging Face model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def balance_of(model: Any) -> int:
    """The row length at which attention costs as much as all matrix products with weights."""
    config = base_of(model).config.get_text_config()
    layers = getattr(config, "num_hidden_layers", 1) or 1
    hidden = getattr(config, "hidden_size", 1) or 1
    backbone = sum(p.numel() for p in base_of(model).base_model.parameters()) - hidden * config.vocab_size
    return max(64, int(backbone / layers / (6 * hidden)))


def hidden_states(model: Any, rows: Rows, noise: float = 0.0) -> Tensor:
    """Last hidden states of the backbone, [R, L, D]. noise: NEFTune's α, uniform noise on the embeddings."""
    base = base_of(model)
    given: dict[str, Tensor] = {"input_ids": rows.ids}
    if noise:
        given = {"inputs_embeds": neftune(base.get_input_embeddings()(rows.ids), rows, noise)}
    if not rows.plain or rows.padded:
        given["attention_mask"] = rows.mask()
    if not rows.padded:
        given["position_ids"] = rows.positions
    return base.base_model(**given, use_cache=False).last_hidden_state


def neftune(embeddings: Tensor, rows: Rows, alpha: float) -> Tensor:
    """e + U(−1, 1)·α/√(L·d), L the length of the token's own text; padding gets no noise (arXiv:2310.05914)."""
    size = alpha / torch.sqrt(rows.lengths * embeddings.shape[-1])
    size = size * (rows.group >= 0)
    uniform = torch.rand(embeddings.shape, device=embeddings.device) * 2 - 1
    return embeddings + (uniform * size[..., None]).to(embeddings.dtype)


def score_answers(
    model: Any,
    answers: Sequence[Answer],
    layout: str,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    noise: float = 0.0,
    balance: int = 1024,
) -> TokenLogps:
    """Log-probs of the counted completion tokens of B answers, in their order, [B, T]."""
    device = next(model.parameters()).device
    rows = on_device(arrange(answers, layout, balance), device)
    hidden = hidden_states(model, rows, noise)[rows.row, rows.column]
    head = Head.of(base_of(model))
    logps, likeliest, entropies = token_logps(hidden, head, rows.target, temperature, entropy)
    mask = counted(answers).to(device)
    empty = torch.zeros(mask.shape, dtype=torch.float32, device=device)
    place = (rows.answer, rows.index)
    return TokenLogps(
        empty.index_put(place, logps),
        mask,
        entropy=None if entropies is None else empty.index_put(place, entropies),
        likeliest=torch.zeros_like(mask).index_put(place, likeliest),
    )


def on_device(rows: Rows, device: torch.device) -> Rows:
    """The rows with every tensor on `device`."""
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(rows).items()}
    return Rows(**moved)


def split(logps: TokenLogps, sizes: Sequence[int]) -> list[TokenLogps]:
    """Cut along the batch axis, each part as wide as its longest answer."""
    parts, start = [], 0
    for size in sizes:
        here = slice(start, start + size)
        mask = logps.mask[here]
        width = max(1, int(mask.any(0).nonzero().max()) + 1) if mask.any() else 1
        rest = [None if part is None else part[here, :width] for part in (logps.entropy, logps.likeliest)]
        parts.append(TokenLogps(logps.per_token[here, :width], mask[:, :width], *rest))
        start += size
    return parts


def choose_layout(model: Any, answers: Sequence[Answer], wanted: str, tolerance: float) -> tuple[str, str]:
    """The first layout that agrees with one-by-one forwards on this model, and a note where it is not the wanted one.

    tolerance: largest mean difference of log-probs that counts as rounding. Raises nothing: padded is the last resort.
    """
    candidates = {"auto": ["shared", "packed"], "shared": ["shared", "packed"], "packed": ["packed"]}.get(wanted, [])
    with torch.no_grad():
        alone = [score_answers(model, [answer], "padded").sum() for answer in answers]
        expected = torch.cat(alone)
        counts = counted(answers).sum(-1).clamp(min=1).to(expected.device)
        reasons = []
        for layout in candidates:
            try:
                # A balance beyond any length makes the test share prompts wherever that is possible.
                found = score_answers(model, answers, layout, balance=10**9).sum()
                gap = float(((found - expected).abs() / counts).max())
                reasons.append(f"{layout} rows differ by {gap:.2g} a token")
                if gap <= tolerance:
                    note = "" if layout == candidates[0] else f"Layout {layout}: {reasons[0]}."
                    return layout, note
            except Exception as error:
                reasons.append(f"{layout} rows fail ({type(error).__name__}: {str(error)[:120]})")
    return "padded", f"Layout padded: {'; '.join(reasons)}." if reasons else ""
