"""SPIN: the loss against numbers from the formula, which answers meet, and when the opponent becomes the policy."""

import math

import pytest
import torch
from formulas import close, options, tensor
from tiny_runs import demonstrations, trainer, write_rows

from zoo.api import Answer, Answers, TokenLogps
from zoo.contract.registry import load_algorithm
from zoo.models.roles import Models
from zoo.testing import stand_ins
from zoo.testing.suite import Suite

SPIN = load_algorithm("spin")[1]


@pytest.mark.parametrize("beta", ["0.1", "5.0"])
def test_the_loss_and_its_gradients_are_those_of_the_formula(vectors, beta):
    given, expected = (vectors["spin.logistic"][name] for name in ("inputs", "expected"))
    policy = {side: tensor(given[f"policy_{side}"]).requires_grad_() for side in ("real", "generated")}
    fields = {name: tensor(given[name]) for name in ("opponent_real", "opponent_generated")}
    batch, models = stand_ins(policy=policy, fields={**fields, "iteration": torch.zeros(3)})
    loss = SPIN().loss(batch, models, options(SPIN, beta=float(beta)))
    close(loss.values, expected[beta]["losses"])
    (loss.numerator / loss.denominator).backward()
    for side, logps in policy.items():
        close(logps.grad, expected[beta][f"gradient_{side}"])


class Opponent:
    """Writes one token for each answer, and finds an answer as likely as it has tokens."""

    def __init__(self, count):
        self.count, self.renewals = count, 0

    def generate(self, prompts):
        return Answers([Answer.of([1], [7], row=prompt["row"]) for prompt in prompts for _ in range(self.count)])

    def logps(self, *parts):
        return tuple(TokenLogps(-part.mask.float(), part.mask) for part in parts)

    def renew(self):
        self.renewals += 1


def roll(algorithm, opponent, **config):
    prompts = [{"row": row, "completion": Answer.of([1], [2] * (row + 2), row=row)} for row in range(2)]
    return algorithm.rollout(prompts, Models(opponent=opponent), options(SPIN, **config))


def test_each_given_answer_meets_the_answers_of_the_opponent_to_its_prompt():
    game = roll(SPIN(), Opponent(2))
    assert [one.row for one in game.real] == [one.row for one in game.generated] == [0, 0, 1, 1]
    close(game.opponent_real, [-2.0, -2.0, -3.0, -3.0])
    close(game.opponent_generated, [-1.0] * 4)


def test_the_opponent_becomes_the_policy_before_each_iteration_but_the_first():
    algorithm, opponent, renewals, iterations = SPIN(), Opponent(1), [], []
    for _ in range(5):
        iterations += roll(algorithm, opponent, iteration_rollouts=2).iteration.unique().tolist()
        renewals.append(opponent.renewals)
    assert iterations == [0, 0, 1, 1, 2] and renewals == [0, 0, 1, 1, 2]
    assert algorithm.state() == {"rollouts": 5}


def test_a_run_plays_against_the_policy_of_an_iteration_ago(tmp_path, tiny_folder):
    start, data = trainer(tmp_path, tiny_folder), write_rows(tmp_path / "rows.jsonl", demonstrations(12))
    how = {"data": data, "minibatches": 1, "rollout_epochs": 2, "max_new_tokens": 6, "lr": 3e-3, "epochs": 2}
    rows = start("spin", iteration_rollouts=2, max_steps=8, **how).log_history
    # What an opponent wrote is no sign that the engine has other weights than the trainer.
    assert not any("rollout/engine_gap" in row for row in rows)
    assert [row["iteration"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    # With the policy as it is now the opponent agrees; with that of the first step of the iteration no longer.
    assert [abs(row["rewards/margins"]) < 1e-4 for row in rows] == [i in (0, 4) for i in range(8)]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) == pytest.approx(rows[4]["loss"], abs=1e-4)
    with_adapters = start("spin", lora=True, max_steps=4, **how).log_history
    assert [abs(row["rewards/margins"]) < 1e-4 for row in with_adapters] == [True, False, True, False]


class Forgetful(SPIN):
    """Does not know how many rollouts were made when a run goes on."""

    saved = ()


def test_a_run_that_forgets_when_its_opponent_was_renewed_is_caught():
    result = Suite(Forgetful).run("killed and resumed")
    assert result.result == "failed" and 'saved = ("rollouts",)' in result.detail
