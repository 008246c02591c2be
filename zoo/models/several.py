"""A frozen role of several models: each answer is scored by the one of its domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError, nearest
from zoo.models.layout import counted
from zoo.models.reference import Reference
from zoo.models.scorer import Scorer
from zoo.values.types import Answer, Answers, TokenLogps


class Several(Scorer):
    """Frozen models by domain, as one role. name: of the role; the models have one temperature and one layout."""

    def __init__(self, name: str, models: Mapping[str, Reference]):
        self.name = name
        self.models = self._first = dict(models)
        self.temperature = self._any.temperature

    @property
    def _any(self) -> Reference:
        return next(iter(self.models.values()))

    @property
    def _each(self) -> list[Reference]:
        """The models, each once."""
        return list({id(model): model for model in self.models.values()}.values())

    @property
    def cache(self) -> Any:
        """None if no scores are cached."""
        return self._any.cache

    def shares(self, domains: Sequence[str | None]) -> Iterator[tuple[Reference, list[int]]]:
        """Each model that something is for, and the places of that among all. Raises ZooError for no such domain."""
        for domain in domains:
            if domain not in self.models:
                raise self._unknown(domain)
        for model in self._each:
            if places := [place for place, domain in enumerate(domains) if self.models[str(domain)] is model]:
                yield model, places

    def _unknown(self, domain: str | None) -> ZooError:
        names = ", ".join(self.models)
        if domain is None:
            return ZooError(
                f"The role {self.name} has a model for each of {names}, and an answer or prompt has no domain.",
                "Those of the records and of models.policy have one: keep it, dataclasses.replace(answer, …).",
            )
        return ZooError(f"The role {self.name} has no model for the domain '{domain}'.{nearest(domain, self.models)}")

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        if not answers:
            return self._any._score(answers, **options)
        parts = [
            (places, model._score([answers[place] for place in places], **options))
            for model, places in self.shares([answer.domain for answer in answers])
        ]
        mask = counted(answers).to(parts[0][1].mask.device)
        per_token = _whole([(places, scored.per_token) for places, scored in parts], mask)
        assert per_token is not None
        computed = {name: _whole([(places, scored.computed[name]) for places, scored in parts], mask)
                    for name in parts[0][1].computed}  # fmt: skip
        return TokenLogps(per_token, mask, **computed)

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt by the model of its domain, as `Reference.generate`."""
        written: dict[int, Sequence[Answer]] = {}
        for model, places in self.shares([_domain_of(prompt) for prompt in prompts]):
            answers = model.generate([prompts[place] for place in places], n, **sampling)
            each = len(answers) // len(places)
            written |= {place: answers[i * each : (i + 1) * each] for i, place in enumerate(places)}
        return Answers([answer for place in range(len(prompts)) for answer in written[place]])

    def renew(self) -> None:
        """Take the policy's present weights, for all domains. Raises PluginError as `Reference.renew`."""
        self._renewed_by(Reference.renew)

    def follow_policy(self) -> None:
        self._renewed_by(Reference.follow_policy)

    def _renewed_by(self, renew: Callable[[Reference], None]) -> None:
        first = self._first[next(iter(self._first))]
        renew(first)
        self.models = dict.fromkeys(self._first, first)

    def state(self) -> dict[str, Tensor] | None:
        """As of `Reference`: the weights that it took."""
        return self._any.state()

    def load_state(self, weights: dict[str, Tensor] | None) -> None:
        first = self._any
        first.load_state(weights)
        self.models = self._first if weights is None else dict.fromkeys(self._first, first)

    def stop_caching(self) -> None:
        """Compute every score from now on."""
        for model in self._each:
            model.stop_caching()

    def release(self) -> None:
        """Free the models."""
        for model in self._each:
            model.release()

    def warm(self, answers: Sequence[Answer], micro_tokens: int) -> Iterator[tuple[int, int]]:
        """Score every answer that is not cached, one model after the other; yields (done, total) after each part."""
        before = 0
        for model, places in self.shares([answer.domain for answer in answers]):
            done = 0
            for done, total in model.warm([answers[place] for place in places], micro_tokens):
                yield before + done, before + total
            before += done


def _whole(parts: Sequence[tuple[list[int], Tensor | None]], mask: Tensor) -> Tensor | None:
    """Numbers of some answers each, by their places among all, as those of all, [B, T]; None if some are missing."""
    whole: Tensor | None = None
    for places, values in parts:
        if values is None:
            return None
        whole = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device) if whole is None else whole
        whole[places, : values.shape[1]] = values
    return whole


def _domain_of(prompt: Any) -> str | None:
    return prompt.get("domain") if isinstance(prompt, Mapping) else None
