"""`evaluate` and `chat` for programs; `zoo eval` and `zoo chat` are made of the same parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.contract import registry
from zoo.data.row_errors import RowError
from zoo.errors import ZooError, in_words
from zoo.evals import Eval, Score, Subject, answers
from zoo.evals.chosen import Chosen, by_default, choose
from zoo.evals.rows import records_of
from zoo.evals.subject import load_subject
from zoo.models.names import with_adapter
from zoo.models.scalar import is_scorer
from zoo.rewards.reward import Reward
from zoo.rollout.engine import Sampling
from zoo.runs import Run
from zoo.terminal import Console


@in_words
def evaluate(
    model: str | Path | Run = "last",
    evals: str | Sequence[str] = (),
    *,
    reward: str | Sequence[str] = (),
    data: str = "starter",
    columns: str = "",
    max_new_tokens: int = 96,
    against: str | Path | Run | None = None,
    limit: int | None = None,
    adapter: str | None = None,
    template: str | None = None,
    template_args: str | None = None,
    out: str = "runs",
    quiet: bool = False,
) -> dict[str, Score]:
    """Evaluate a run or a model as `zoo eval` does; the scores by name: `zoo.evaluate("last")["instructions"].value`.

    evals: names, or `name(option=value)`; without one, and without reward, those that `zoo eval` takes. reward, data,
    columns, max_new_tokens: the mean reward of greedy answers to the prompts of data. against: the model to compare
    with. Raises ZooError.
    """
    texts = [evals] if isinstance(evals, str) else list(evals)
    rewards = [reward] if isinstance(reward, str) else list(reward)
    say = Console(quiet=quiet).say
    available = registry.contributions(registry.manager(), "evals")
    asked = choose(texts, available)
    subject = None
    if rewards or not asked or any(chosen.evaluation.head != "none" for chosen in asked):
        name, other = _named(with_adapter(_named(model), adapter, out)), None if against is None else _named(against)
        subject = load_subject(name, out, say, against=other, limit=limit, asked=template, args=template_args)
    wanted = to_measure(subject, texts, rewards, data, columns, max_new_tokens, out, say)
    return {score.name: score for _, score in measured(subject, wanted)}


def to_measure(
    subject: Subject | None, texts: Sequence[str], rewards: Sequence[str], data: str, columns: str,
    max_new_tokens: int, out: str, say: Any,
) -> list[Chosen]:  # fmt: skip
    """The evaluations that are named, or those of the run, or by default, and one for each reward. Raises ZooError.

    subject: None where no evaluation needs a model.
    """
    available = registry.contributions(registry.manager(), "evals")
    if subject is None:
        return choose(list(texts), available)
    head = "scalar" if is_scorer(subject.model) else "lm"
    wanted = choose(list(texts), available, head)
    if not wanted and not rewards:
        wanted = choose(subject.scores, available, head) or by_default(available, head)
    if rewards and head != "lm":
        raise ZooError("A reward is for a language model, and this is a reward model.", "Leave the reward out.")
    made = _of_rewards(rewards, data, columns, max_new_tokens, out, say)
    return wanted + [Chosen(text, evaluation, {}) for text, evaluation in made.items()]


def measured(subject: Subject | None, wanted: Sequence[Chosen]) -> Iterator[tuple[Chosen, Score]]:
    """The score of each evaluation, as they are made."""
    for chosen in wanted:
        yield chosen, chosen.run(subject)


def _of_rewards(
    texts: Sequence[str], data: str, columns: str, max_new_tokens: int, out: str, say: Any
) -> dict[str, Eval]:
    """An evaluation for each reward, on the prompts of a source."""
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    named = registry.contributions(registry.manager(), "rewards")

    def evaluation(text: str) -> Eval:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # There is only one batch, so a reward that fails on all of it is an error at once.
        reward = Reward(text, named, out, device, say=say, patience=1, max_new_tokens=max_new_tokens)
        return Eval(
            f"Mean reward of greedy answers to the prompts of {data}.",
            lambda subject: answers.reward_eval(
                text, subject, records_of(subject, data, "prompt", columns=columns), reward, greedy
            ),
        )

    return {text: evaluation(text) for text in texts}


def _named(model: str | Path | Run) -> str:
    return str(model.path if isinstance(model, Run) else model)


class Chat:
    """A conversation with a model: `chat("Name three fruits.")` is its answer; `messages` holds what was said."""

    def __init__(self, name: str, subject: Subject, system: str | None, sampling: Sampling, seed: int = 0):
        self.name, self.subject, self.sampling, self.seed = name, subject, sampling, seed
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []

    @in_words
    def __call__(self, question: str) -> str:
        """The answer to a question after all that was said. Raises ZooError where the chat template refuses it."""
        if not isinstance(question, str):
            raise ZooError(f"A question is a text, not a {type(question).__name__}.", 'Ask chat("What is 3 + 3?").')
        self.messages.append({"role": "user", "content": question})
        try:
            (text,) = answers.answer_texts(self.subject, [self.messages], self.sampling, self.seed + self.turn)
        except RowError as error:
            raise ZooError(f"The chat template of {self.name} rejects this conversation: {error.message}.") from None
        self.messages.append({"role": "assistant", "content": text})
        return text

    @property
    def turn(self) -> int:
        """Questions before the last one."""
        return sum(message["role"] == "user" for message in self.messages) - 1


@in_words
def chat(
    model: str | Path | Run = "last",
    *,
    system: str | None = None,
    temperature: float = 0.7,
    max_new_tokens: int = 256,
    seed: int = 0,
    adapter: str | None = None,
    template: str | None = None,
    template_args: str | Mapping[str, Any] | None = None,
    out: str = "runs",
) -> Chat:
    """A conversation with a run or a model: `chat = zoo.chat("last")`, then `chat("Name three fruits.")`.

    temperature: 0 for greedy answers; out: the folder of the runs. Raises ZooError.
    """
    name = with_adapter(_named(model), adapter, out)
    subject = load_subject(
        name, out, Console().say, head="lm", asked=template, args=template_args
    )  # fmt: skip
    return Chat(name, subject, system, Sampling(max_new_tokens=max_new_tokens, temperature=temperature), seed)
