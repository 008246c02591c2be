"""The divergence of the policy from a teacher on the same answers, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.heads import measure_head
from zoo.libraries.turns import in_pass, is_shared
from zoo.libraries.wrappers import base_of
from zoo.models.divergence import Divergence, States, class_divergence, class_logits, likeliest, token_divergence
from zoo.models.layout import Rows, counted
from zoo.models.logps import Head
from zoo.models.parts import rows_in_parts
from zoo.models.scoring import head_and_states, rows_for
from zoo.models.several import Several
from zoo.values.top_logps import TopLogps
from zoo.values.types import Answer, pad

if TYPE_CHECKING:
    from zoo.models.reference import Reference
    from zoo.models.roles import Frozen
    from zoo.models.scorer import Scorer


class Comparison(NamedTuple):
    """What to compare. temperature: of both models; top_k: the teacher's likeliest words, None for all words.

    words: of the tokenizer of both; None where nobody knows that it is one.
    """

    divergence: Divergence
    temperature: float
    top_k: int | None
    words: int | None = None


def divergence_of(
    policy: Scorer, answers: Sequence[Answer], teacher: Frozen | TopLogps, comparison: Comparison
) -> Tensor:
    """The divergence at each counted completion token of B answers, float32 [B, T], with gradients for the policy.

    Raises ZooError for a teacher with another vocabulary, and for stored log-probs at a temperature other than 1.
    """
    if not answers:
        return torch.zeros(0, 1, device=next(policy.model.parameters()).device)
    if policy.micro_tokens is None:
        return _in_one_pass(policy, answers, teacher, comparison)
    places = {id(answer): place for place, answer in enumerate(answers)}

    def rows(part: list[Answer]) -> list[Tensor]:
        of_part = teacher
        if isinstance(teacher, TopLogps):
            of_part = teacher.select([places[id(answer)] for answer in part])
        values = _in_one_pass(policy, part, of_part, comparison)
        return [row[: len(answer.completion)] for row, answer in zip(values, part, strict=True)]

    values = rows_in_parts(rows, answers, policy.micro_tokens)
    return pad(values, 0.0).to(answers[0].completion.device)


def _in_one_pass(
    policy: Scorer, answers: Sequence[Answer], teacher: Frozen | TopLogps, comparison: Comparison
) -> Tensor:
    rows = rows_for(policy.model, answers, policy.layout, policy.balance)
    measure_head(policy.model)
    # The teacher's pass comes first: a pass of shared models cannot begin inside of another one.
    compare = _comparer(policy.model, answers, rows, teacher, comparison)

    def values() -> Tensor:
        head, hidden = head_and_states(policy.model, rows)
        return compare(States(hidden, head))

    empty = torch.zeros(counted(answers).shape, device=rows.ids.device)
    return empty.index_put((rows.answer, rows.index), in_pass(policy.model, values))


def _comparer(
    model: Any, answers: Sequence[Answer], rows: Rows, teacher: Frozen | TopLogps, comparison: Comparison
) -> Callable[[States], Tensor]:
    """What compares the policy's states, in the order of its rows, with the teacher: [N]."""
    if isinstance(teacher, Several):
        return _comparer_of_each(model, answers, rows, teacher, comparison)
    divergence, temperature, top_k, words = comparison
    if isinstance(teacher, TopLogps):
        ids, log_q = teacher.at(rows.answer, rows.index)
        _require_words(model, ids)
        _require_temperature(temperature)
        return lambda states: class_divergence(states, ids, log_q, divergence, temperature)
    states_of_teacher = teacher_states(teacher, answers, rows)
    common = _common_words(model, states_of_teacher.head, words)
    states_of_teacher = states_of_teacher.cut(common)
    if top_k is None or top_k >= len(states_of_teacher.head.weight):
        return lambda states: token_divergence(states.cut(common), states_of_teacher, divergence, temperature)
    ids, log_q = top_classes(states_of_teacher, top_k, temperature)
    return lambda states: class_divergence(states.cut(common), ids, log_q, divergence, temperature)


def _comparer_of_each(
    model: Any, answers: Sequence[Answer], rows: Rows, teachers: Several, comparison: Comparison
) -> Callable[[States], Tensor]:
    """The same with the teacher of each answer's domain, in one pass of the policy."""
    compared: list[tuple[Tensor, Callable[[States], Tensor]]] = []
    for teacher, places in teachers.shares([answer.domain for answer in answers]):
        number = torch.full((len(answers),), -1, device=rows.answer.device)
        number[places] = torch.arange(len(places), device=number.device)
        tokens = (number[rows.answer] >= 0).nonzero()[:, 0]
        of_these = replace(rows, answer=number[rows.answer[tokens]], index=rows.index[tokens])
        chosen = [answers[place] for place in places]
        compared.append((tokens, _comparer(model, chosen, of_these, teacher, comparison)))
    order = torch.cat([tokens for tokens, _ in compared]).argsort()
    return lambda states: torch.cat(
        [compare(states._replace(hidden=states.hidden[tokens])) for tokens, compare in compared]
    )[order]


@torch.no_grad()
def teacher_states(teacher: Reference, answers: Sequence[Answer], like: Rows) -> States:
    """What the teacher's head reads at the positions of `like`, in its order, and the head.

    Raises ZooError for a shared model whose head cannot be taken out of its pass.
    """
    with teacher.borrowed() as model:
        rows = rows_for(model, answers, teacher.layout, teacher.balance)
        measure_head(model)
        hidden, *weights = in_pass(model, lambda: _outputs(model, rows))
        head = Head.of(model)
    # Another layout has the same positions in another order.
    order = _order(rows).argsort()[_order(like).argsort().argsort()]
    if head is None:
        return States(hidden[order], Head.of_logits(base_of(model)))
    return States(hidden[order], replace(head, weight=weights[0], bias=weights[1]))


def _outputs(model: Any, rows: Rows) -> tuple[Tensor | None, ...]:
    """Hidden states, weight and bias of the head; copies of the weights if they exist during the pass only."""
    head, hidden = head_and_states(model, rows)
    if not is_shared(model):
        return hidden, head.weight, head.bias
    if Head.of(model) is not None and head.layer is not None:
        raise ZooError(
            "The teacher's output head is quantised or adapted, and its weights are shared out among the processes.",
            "Train on one process, or merge the teacher's adapters first: zoo export.",
        )
    return hidden, head.weight.clone(), None if head.bias is None else head.bias.clone()


def _order(rows: Rows) -> Tensor:
    """A number for each token that sorts them by answer and place."""
    return rows.answer * (int(rows.index.max()) + 1 if len(rows.index) else 1) + rows.index


def top_classes(states: States, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The `count` likeliest words [N, K], and log-probs of them and of all others together [N, K + 1]."""
    ids = likeliest(states, count)
    with torch.no_grad():
        return ids, class_logits(states, ids, temperature).log_softmax(-1)


def top_logps(model: Reference, answers: Sequence[Answer], count: int, words: int) -> TopLogps:
    """The `count` likeliest words at each counted completion token of B answers; zeros elsewhere; on the CPU.

    words: of the tokenizer; what pads a larger vocabulary is left out.
    """
    with model.borrowed() as scorer:
        rows = rows_for(scorer, answers, model.layout, model.balance)
    states = teacher_states(model, answers, rows).cut(words)
    ids, logps = top_classes(states, min(count, len(states.head.weight) - 1), 1.0)
    place, shape = (rows.answer, rows.index), counted(answers).shape
    all_ids = torch.zeros(*shape, ids.shape[-1], dtype=torch.long, device=ids.device).index_put(place, ids)
    all_logps = torch.zeros(*shape, logps.shape[-1], device=ids.device).index_put(place, logps)
    lengths = [len(answer.completion) for answer in answers]
    return TopLogps(
        [row[:length].cpu() for row, length in zip(all_ids, lengths, strict=True)],
        [row[:length].cpu() for row, length in zip(all_logps, lengths, strict=True)],
    )


def _words_of(model: Any) -> int:
    return len((Head.of(model) or Head.of_logits(base_of(model))).weight)


def _require_words(model: Any, ids: Tensor) -> None:
    """Raises ZooError for stored words that the policy does not have."""
    if ids.numel() and int(ids.max()) >= (own := _words_of(model)):
        raise ZooError(
            f"The stored log-probs are of words up to number {int(ids.max()):,}, and the policy has {own:,} words.",
            "Label the rows again with a teacher that has this model's tokenizer: zoo label DATA --teacher MODEL.",
        )


def _require_temperature(temperature: float) -> None:
    """Raises ZooError for a temperature that stored log-probs were not computed at."""
    if temperature != 1:
        raise ZooError(
            f"The stored log-probs are those at temperature 1, and the policy's are to be at {temperature:g}: they "
            "cannot be compared.",
            "Leave --temperature out, or name the teacher itself instead of the stored log-probs: --teacher MODEL.",
        )


def _common_words(model: Any, head: Head, words: int | None) -> int:
    """The words to compare: all of both, or those of the tokenizer where one of the two has more to pad them.

    Raises ZooError for vocabularies that differ in words.
    """
    own, other = _words_of(model), len(head.weight)
    if own == other:
        return own
    if words is None or words > min(own, other):
        raise ZooError(
            f"The teacher has probabilities of {other:,} words and the policy of {own:,}: they cannot be compared "
            "word by word.",
            "Take a teacher of the policy's model family, or train on what it answers: zoo label DATA --teacher MODEL.",
        )
    return words
