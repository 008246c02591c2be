"""Samples answers from a local model for a judge to compare, if the data has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.encoding.template import ChatTemplate, extras_of
from zoo.errors import ZooError
from zoo.labelling.pairs import Cut, Group
from zoo.libraries.architecture import longest_text
from zoo.models.precision import autocast
from zoo.rollout.engine import InProcessEngine, check_request
from zoo.rollout.sampling import Sampling
from zoo.values.types import Answer


class Drawer:
    """Samples answers for groups, see `zoo.labelling.pairs.Draw`. precision: Lightning's name of the arithmetic."""

    def __init__(self, model: Any, template: ChatTemplate, precision: str, sampling: Sampling):
        self.model, self.template, self.precision, self.sampling = model, template, precision, sampling
        tokenizer = template.tokenizer
        self.engine = InProcessEngine(
            model, eos_ids=template.eos_ids, pad_id=tokenizer.pad_token_id, tokenizer=tokenizer
        )  # fmt: skip
        self.longest = longest_text(model)

    def __call__(self, groups: Sequence[Group], seed: int) -> list[list[str] | None]:
        generator = torch.Generator().manual_seed(seed)
        drawn: list[list[str] | None] = [None] * len(groups)
        for count in sorted({group.draw for group in groups}):
            prompts = {number: self._ids(group) for number, group in enumerate(groups) if group.draw == count}
            usable = {number: ids for number, ids in prompts.items() if ids is not None}
            with autocast(self.precision, next(self.model.parameters()).device):
                answers = self.engine.generate(list(usable.values()), count, self.sampling, generator)
            texts = [self._text(answer) for answer in answers]
            for place, number in enumerate(usable):
                drawn[number] = texts[place * count : (place + 1) * count]
        return drawn

    def _text(self, answer: Answer) -> str:
        text = self.template.tokenizer.decode(answer.completion, skip_special_tokens=True).strip()
        return Cut(text) if answer.cut else text

    def _ids(self, group: Group) -> Tensor | None:
        """The prompt as ids; None if the template or the engine refuses it."""
        try:
            ids = torch.tensor(self.template.prompt_ids(group.prompt, **extras_of(group.rest)))
            check_request([ids], 1, self.sampling, torch.Generator(), self.longest)
        except ZooError:
            return None
        return ids
