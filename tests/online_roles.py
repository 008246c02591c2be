"""Roles that hand over what was written down, so that a `rollout` is checked without a network: not a test file."""

from dataclasses import replace

import torch
from formulas import tensor

from zoo.api import Answer, Answers, Sampling, TokenLogps
from zoo.models.roles import Models


class Written:
    """A policy whose every call of `generate` hands over the next list of answers."""

    def __init__(self, *calls, longest=8):
        self.calls = [Answers(answers) for answers in calls]
        self.asked = []
        self.sampling = Sampling(max_new_tokens=longest)

    def generate(self, prompts, n=None, **how):
        self.asked.append([prompt["row"] for prompt in prompts])
        return self.calls[len(self.asked) - 1]

    def answer(self, prompt, text):
        return Answer.of([1], [int(token) for token in text.split()])

    def line_ends(self, answers):
        """Token 0 ends a line."""
        last = [len(one.completion) - 1 for one in answers]
        inner = [(one.completion[:-1] == 0).nonzero().flatten().tolist() for one in answers]
        return [[*ends, end] for ends, end in zip(inner, last, strict=True)]


class Told:
    """A reference or critic that gives each answer its row."""

    def __init__(self, rows):
        self.rows = rows

    def logps(self, *parts, **options):
        found = tuple(TokenLogps(self.values(part), part.mask, torch.zeros(part.mask.shape)) for part in parts)
        return found[0] if len(found) == 1 else found

    def values(self, part):
        width = part.mask.shape[1]
        return torch.stack([self.rows[one.row][:width] for one in part]) * part.mask


def written(behaviour, lengths, rows=None, **rest):
    """Answers with these log-probs [B, T]; the number of each is its row, by which `Told` knows it."""
    return [
        replace(Answer.of([1, 2], [9] * n, **rest), behaviour=tensor(row)[:n], row=i if rows is None else rows[i])
        for i, (row, n) in enumerate(zip(behaviour, lengths, strict=True))
    ]


def rolled(algorithm, config, policy, score, prompts=1, **roles):
    """What the `rollout` hook returns for so many prompts; score: a function of answers, or a list of numbers."""
    given = score if callable(score) else lambda answers: tensor(score)
    records = [{"row": i, "prompt": torch.tensor([1, 2]), "record": {"prompt": "?"}} for i in range(prompts)]
    with torch.no_grad():
        return algorithm.rollout(records, Models(policy=policy, **roles), config, given)
