"""Roles that hand over what was written down, so that a `rollout` is checked without a network; and whole tiny runs.

Not a test file itself.
"""

from dataclasses import replace
from pathlib import Path

import torch
from formulas import tensor
from tiny_runs import demonstrations, trainer, write_rows

from zoo.api import Answer, Answers, Sampling, TokenLogps
from zoo.models.roles import Models


class Written:
    """A policy whose every call of `generate` hands over the next list of answers."""

    def __init__(self, *calls, longest=8, more=()):
        self.more = list(more)
        self.calls = [Answers(answers) for answers in calls]
        self.asked = []
        self.sampling = Sampling(max_new_tokens=longest)

    def generate(self, prompts, n=None, **how):
        self.asked.append([prompt["row"] for prompt in prompts])
        return self.calls[len(self.asked) - 1]

    def more_prompts(self, count, besides):
        taken = {prompt["row"] for prompt in besides}
        return [{"row": row} for row in self.more if row not in taken][:count]

    def answer(self, prompt, text, ended=True):
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
    given = score if callable(score) else lambda answers, **how: tensor(score)
    records = [{"row": i, "prompt": torch.tensor([1, 2]), "record": {"prompt": "?"}} for i in range(prompts)]
    with torch.no_grad():
        return algorithm.rollout(records, Models(policy=policy, **roles), config, given)


def start_run(tmp_path, tiny_folder):
    """A function that trains an algorithm with a few prompts and steps, and a reward that is missing now and then."""
    rows = [{"prompt": row["prompt"], "demonstration": "so it is"} for row in demonstrations(10)[::2]]
    options = {
        "data": write_rows(tmp_path / "prompts.jsonl", rows), "lr": 1e-3, "epochs": 1.6, "batch_size": 8,
        "minibatches": 2, "rollout_epochs": 2, "max_new_tokens": 6,
        "reward": f"{Path(__file__).parent / 'online_rewards.py'}:odd_letters",
    }  # fmt: skip
    start = trainer(tmp_path, tiny_folder)
    return lambda algo, **given: start(algo, **{**options, **given})
