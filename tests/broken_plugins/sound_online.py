"""Sound, and online: answers that beat their group become likelier. The broken ones differ in one thing."""

from dataclasses import dataclass

from zoo.api import Algorithm, Batch, Loss, Ragged, group_advantages


class Sound(Algorithm):
    """REINFORCE with the mean of the group as baseline, and a critic that learns what answers are worth."""

    api_version = 2
    paper = "none: made for the tests"
    data = "prompt"
    needs = ("policy", "critic", "reference")
    defaults = {"answers_per_prompt": 3, "batch_size": 12}
    variants = {"wide": {"answers_per_prompt": 2, "temperature": 1.5}}
    metrics = {
        "advantage": "Reward minus the mean of its group.",
        "ratio": "π/π_old of an answer.",
        "error": "What the critic is off by, squared.",
        "kl": "log π_old − log π_ref of an answer.",
    }
    conformance = {"start": {"ratio": 1.0, "kl": 0.0}, "flat": [{"value_weight": 0.0}]}

    @dataclass
    class Config:
        value_weight: float = 0.1
        """Weight of the critic's loss."""

    def rollout(self, prompts, models, config, score):
        answers = models.policy.generate(prompts)
        rewards = score(answers)
        advantage = self._advantages(rewards.view(len(prompts), -1)).flatten().float()
        return Batch(
            answers=answers, known=self._known(rewards), advantage=advantage, reward=rewards.nan_to_num(),
            kl=Ragged(self._kl(answers, models), answers), **self._more(answers),
        )  # fmt: skip

    def loss(self, batch, models, config):
        logps = models.policy.logps(batch.answers)
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        ratio = ((logps.per_token - old) * logps.mask).sum(-1).clamp(max=20).exp()
        errors = (models.critic.values(batch.answers) - batch.reward[:, None]) ** 2 * logps.mask
        error = errors.sum(-1) / logps.lengths.clamp(min=1)
        values = -batch.advantage * ratio + config.value_weight * error
        metrics = {"advantage": batch.advantage, "ratio": ratio, "error": error, "kl": batch.kl.sum(-1)}
        return Loss.weighted(values, batch.known, metrics)

    def _advantages(self, rewards):
        return group_advantages(rewards, scale="none")

    def _known(self, rewards):
        return ~rewards.isnan()

    def _kl(self, answers, models):
        return (answers.behaviour - models.reference.logps(answers).per_token) * answers.mask

    def _more(self, answers):
        return {}
