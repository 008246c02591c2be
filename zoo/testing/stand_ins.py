"""Models that return given log-probabilities, scores and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.models.roles import Models
from zoo.values.batches import batch_of
from zoo.values.types import Answer, Answers, Batch, StepScores, TokenLogps, pad


class _GivenScores:
    """A policy with a scalar head whose `scores` looks answers up."""

    def __init__(self, scores: dict[int, Any]):
        self._known = scores

    def scores(self, *answers: Answers, at: Any = None) -> Any:
        scores = tuple(self._known[id(part)] for part in answers)
        if at is None:
            return scores[0] if len(scores) == 1 else scores
        mask = pad([torch.ones(len(places), dtype=torch.bool) for places in at], False)
        return StepScores(torch.where(mask, scores[0], 0.0), mask)


class _Given:
    """A role whose `logps`, `values` and `divergence` look answers up instead of scoring them.

    compared: what `divergence` gives, by field.
    """

    def __init__(self, logps: Mapping[str, TokenLogps], answers: Mapping[str, Answers], compared: _Given | None = None):
        self._compared = compared
        # Each answer has its own row, so that a part of the batch works like the whole.
        self._rows = {id(one): (logps[name], i) for name, part in answers.items() for i, one in enumerate(part)}
        self._known = [(answers[name], logps[name]) for name in logps]

    def logps(self, *answers: Answers, **options: Any) -> Any:
        logps = tuple(self._look_up(part) for part in answers)
        return logps[0] if len(logps) == 1 else logps

    def values(self, answers: Answers) -> Tensor:
        return self._look_up(answers).per_token

    def divergence(self, answers: Answers, teacher: Any, **options: Any) -> Tensor:
        if self._compared is None:
            raise ZooError("These stand-ins have no divergence.", "Give it: stand_ins(divergence={field: [B, T]}).")
        return self._compared.values(answers)

    def _look_up(self, part: Answers) -> TokenLogps:
        for answers, logps in self._known:
            if part is answers:
                return logps
        rows = [self._rows[id(one)] for one in part]
        width = part.mask.shape[-1]

        def column(name: str) -> Any:
            values = [{**vars(logps), **logps.computed}[name] for logps, _ in rows]
            if any(value is None for value in values):
                return None
            return torch.stack([value[i, :width] for value, (_, i) in zip(values, rows, strict=True)])

        return TokenLogps(column("per_token"), column("mask"), column("entropy"), column("likeliest"))


def stand_ins(
    lengths: Mapping[str, Sequence[int]] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    fields: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    behaviour: Mapping[str, Tensor] | None = None,
    entropy: Mapping[str, Tensor] | None = None,
    divergence: Mapping[str, Tensor] | None = None,
    **roles: Mapping[str, Tensor],
) -> tuple[Batch, Models]:
    """A batch and models for it: `stand_ins(policy={"chosen": t, "rejected": t}, reference={…})`.

    Each tensor is [B], log-probabilities of whole answers (spread evenly over `lengths[field]` tokens, 1 by default),
    or [B, T], log-probabilities of tokens (under `masks[field]`). Gradients flow back to them. `fields` are further
    batch fields.

    For online algorithms: `critic={"answers": [B, T]}` gives the critic's `values`, `behaviour` the log-probabilities
    under the weights that generated the answers, `entropy` the entropies of the policy (0 by default).
    divergence: what `models.policy.divergence` gives for a field, [B, T].

    scores: instead of roles, for a policy with a scalar head: a tensor [B] for each field of answers, a list of
    tensors [K] for a field of several answers to each prompt, or a tensor [B, S] for scores of steps (whose ends are
    in `fields`). Answers have `lengths[field]` tokens; for several answers, a list per prompt.
    """
    if scores is not None:
        return _with_scores(scores, lengths or {}, fields or {})
    names = list(next(iter(roles.values())))
    first = next(iter(roles.values()))
    shapes = {name: _mask(first[name], (lengths or {}).get(name), (masks or {}).get(name)) for name in names}
    answers = {name: _answers(mask.sum(-1).tolist()) for name, mask in shapes.items()}
    for name, written in (behaviour or {}).items():
        answers[name] = Answers(
            [
                replace(one, behaviour=row[: len(one.completion)])
                for one, row in zip(answers[name], written, strict=True)
            ]
        )
    batch = batch_of({**answers, **(fields or {})})
    made = {}
    for role, given in roles.items():
        logps = {name: _spread(given[name], shapes[name], (entropy or {}).get(name)) for name in given}
        made[role] = _Given(logps, {name: answers[name] for name in given})
    if divergence is not None:
        compared = {name: TokenLogps(values, shapes[name]) for name, values in divergence.items()}
        made["policy"]._compared = _Given(compared, {name: answers[name] for name in compared})
    return batch, Models(**made)


def _with_scores(
    scores: Mapping[str, Any], lengths: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[Batch, Models]:
    answers: dict[str, Any] = {}
    by_answers: dict[int, Any] = {}
    for name, values in scores.items():
        if isinstance(values, Tensor):
            answers[name] = _answers(lengths.get(name, [1] * len(values)))
            by_answers[id(answers[name])] = values
        else:
            counts = lengths.get(name, [[1] * len(row) for row in values])
            answers[name] = [_answers(row) for row in counts]
            by_answers |= {id(part): row for part, row in zip(answers[name], values, strict=True)}
    return batch_of({**answers, **fields}), Models(policy=_GivenScores(by_answers))


def _answers(lengths: Sequence[int]) -> Answers:
    return Answers([Answer.of([0], [0] * count) for count in lengths])


def _mask(values: Tensor, lengths: Sequence[int] | None, mask: Tensor | None) -> Tensor:
    if mask is not None:
        return mask.bool()
    if values.ndim == 2:
        return torch.ones_like(values, dtype=torch.bool)
    counts = torch.as_tensor(lengths if lengths is not None else [1] * len(values))
    return torch.arange(int(counts.max()))[None] < counts[:, None]


def _spread(values: Tensor, mask: Tensor, entropy: Tensor | None = None) -> TokenLogps:
    if values.ndim == 1:
        values = values[:, None] * mask / mask.sum(-1, keepdim=True).clamp(min=1)
    return TokenLogps(values, mask, torch.zeros_like(values) if entropy is None else entropy, likeliest=mask)
