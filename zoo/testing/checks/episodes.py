"""What an environment says stands in an answer between the policy's tokens, and must count in nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.testing.bench import Bench
from zoo.testing.checks.cuts import difference
from zoo.testing.networks import template
from zoo.testing.steps import Failed, NotApplicable, Outcome, Stage, step, with_options
from zoo.values.types import Answer, Answers, TokenLogps, pad

COUNTED = {
    "log-probs by the policy": "the loss, or the ratio to the policy that wrote them",
    "log-probs by the sampler": "the ratio or the KL to the policy that wrote the answers",
    "log-probs by a frozen role": "the KL to a frozen role",
    "entropy": "the entropy",
    "values": "the returns or advantages, by the critic's values",
    "divergence": "the divergence from a teacher",
    "number": "lengths, such as a mean over tokens, a sum or a discount",
}
"""What a source of numbers about an environment's tokens gets into."""
ADVICE = "Answer.mask is False for them: multiply by logps.mask or answers.mask before a sum over tokens."


def environment_tokens(bench: Bench) -> None:
    """What an environment says in an answer counts in no loss, gradient, KL, entropy, length, return or metric."""
    if not bench.cls.online():
        raise NotApplicable("it is not an online algorithm")
    for options in bench.variants:
        plain = _outcome(bench, options, ())
        if not difference(plain, _outcome(bench, options, COUNTED)):
            continue
        quiet = _outcome(bench, options, ("number",))
        for source, counted in COUNTED.items():
            one = plain if source == "number" else _outcome(bench, options, ("number", source))
            if found := difference(quiet, one):
                raise Failed(
                    f"It counts the environment's tokens in {counted}. {found} when nothing but their "
                    f"{source} changes{with_options(options)}. {ADVICE}"
                )


def _outcome(bench: Bench, options: Mapping[str, Any], sources: Collection[str]) -> Outcome:
    """A step on a rollout whose answers have an environment's tokens; sources: what the models say of these."""
    writer, stage = bench.stage(options, behind=True), bench.stage(options)
    for each in (writer, stage):
        each.models.training = not bench.draws(options)
        _interrupt(each, sources)
    rolled = bench.roll(writer, options)
    rolled.batch.on_policy = False
    stage.algorithm.load_state(rolled.state)
    return step([(stage, [rolled.batch])])


def _interrupt(stage: Stage, sources: Collection[str]) -> None:
    frozen = stage.models.frozen().values()

    def wrapped(role: Any) -> Interrupted:
        return Interrupted(role, sources, f"log-probs by {'a frozen role' if role in frozen else 'the policy'}")

    stage.wrap(**{name: wrapped for name in stage.models._roles if name != "judge"})


class Interrupted:
    """A role whose answers an environment interrupts, and which says the same of its own tokens as without that.

    sources: what is noise instead of 0 for the environment's tokens, and "number" if there are such tokens; source: the
    one of its log-probs.
    """

    def __init__(self, role: Any, sources: Collection[str], source: str):
        self._role, self._sources, self._source = role, sources, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._role, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._role, name, value)

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        answers = self._role.generate(prompts, n, **sampling)
        if "number" not in self._sources:
            return answers
        noisy = "log-probs by the sampler" in self._sources
        return Answers([interrupted(answer, i, noisy) for i, answer in enumerate(answers)])

    def logps(self, *answers: Answers, **options: Any) -> Any:
        found = self._role.logps(*map(own_tokens, answers), **options)
        if len(answers) == 1:
            return self._spread(found, answers[0])
        return tuple(self._spread(logps, part) for logps, part in zip(found, answers, strict=True))

    def values(self, answers: Answers) -> Tensor:
        return self._among(self._role.values(own_tokens(answers)), answers, "values")

    def divergence(self, answers: Answers, teacher: Any, **options: Any) -> Tensor:
        teacher = teacher._role if isinstance(teacher, Interrupted) else teacher
        return self._among(self._role.divergence(own_tokens(answers), teacher, **options), answers, "divergence")

    def _spread(self, logps: TokenLogps, answers: Answers) -> TokenLogps:
        entropy, likeliest = logps.computed["entropy"], logps.computed["likeliest"]
        return TokenLogps(
            self._among(logps.per_token, answers, self._source),
            answers.mask.to(logps.mask.device),
            None if entropy is None else self._among(entropy, answers, "entropy"),
            None if likeliest is None else self._among(likeliest, answers, self._source),
        )

    def _among(self, values: Tensor, answers: Answers, source: str) -> Tensor:
        """Numbers [B, T] of the policy's own tokens, where these stand among the environment's."""
        rows = [noise(answer, float(source in self._sources)) for answer in answers]
        own = pad([torch.ones(int(answer.mask.sum()), dtype=torch.bool) for answer in answers], False)
        return pad(rows, 0.0).to(values.dtype).masked_scatter(answers.mask, values[own])


def interrupted(answer: Answer, number: int, noisy: bool) -> Answer:
    """An answer of at least two tokens with an environment's in the middle, and before the last one."""
    length = len(answer.completion)
    places = sorted({length // 2, length - 1} - {0})
    pieces = list(_pieces(answer.completion, places))
    marks = template().tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    # Tokens that no reward reads: the answer's text stays as it is. Their number differs between answers.
    said = torch.tensor([*marks, *[marks[1]] * (2 * (number % 3))])
    told = [torch.zeros(len(piece), dtype=torch.bool) for piece in pieces]
    for i in reversed(range(1, len(pieces))):
        pieces.insert(i, said)
        told.insert(i, torch.ones(len(said), dtype=torch.bool))
    mask = ~torch.cat(told)
    longer = replace(answer, completion=torch.cat(pieces), mask=mask, correction=None)
    assert answer.behaviour is not None
    return replace(longer, behaviour=noise(longer, float(noisy)).masked_scatter(mask, answer.behaviour))


def _pieces(ids: Tensor, places: Sequence[int]) -> Iterator[Tensor]:
    for begin, end in zip([0, *places], [*places, len(ids)], strict=True):
        yield ids[begin:end]


def noise(answer: Answer, size: float) -> Tensor:
    """A number for each token that is not the policy's, 0 for the others, [C]."""
    source = torch.Generator().manual_seed(len(answer.completion))
    return -size * (1 + 2 * torch.rand(len(answer.completion), generator=source)) * ~answer.mask


def own_tokens(answers: Answers) -> Answers:
    """The answers without the tokens that do not count."""
    return Answers([_own(answer) for answer in answers])


def _own(answer: Answer) -> Answer:
    if answer.mask.all():
        return answer
    kept: dict[str, Any] = {
        name: None if value is None else value[answer.mask]
        for name, value in vars(answer).items()
        if name in ("completion", "mask", "behaviour", "correction")
    }
    return replace(answer, **kept)
