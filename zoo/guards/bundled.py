"""The guards that come with zoo. docs/guards.md gives the formula and the source of each."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping
from typing import ClassVar

from zoo.errors import nearest
from zoo.guards import Guard, GuardSetup, Runs
from zoo.numbers import amount
from zoo.options.fields import require

NORMAL = 1.4826
"""The standard deviation of a normal distribution, as a multiple of its MAD."""
FEWEST = 10
"""Values that a window needs before it judges the next one."""
SMALLEST = 1e-3
"""The smallest spread, as a share of the median: the values of a window may all be equal."""
BROKEN = "finite_weights"
"""The metric that is 0 in a step whose weights were found to be no finite numbers; missing in all others."""
COLLAPSE = 0.3
"""The share of its first value to which the entropy may fall."""
FAR = 50.0
"""KL in nats per answer; Gao et al. (arXiv:2210.10760) see scores fall at some tens."""
ENGINE_GAP = 0.05
"""|Δ log π| per token between engine and trainer, beyond rounding in half precision."""


class Finite(Guard):
    """Loss, gradient and weights are finite numbers."""

    action = "skip"
    hint = "Lower --lr, or use --precision 32-true."

    def __init__(self, setup: GuardSetup):
        pass

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        if metrics.get(BROKEN) == 0:
            return "the weights are no finite numbers"
        if "loss" not in metrics:
            return ""
        norms = [value for name, value in metrics.items() if name.endswith("grad_norm")]
        if all(map(math.isfinite, [metrics["loss"], *norms])):
            return ""
        shown = " and ".join(f"{norm:g}" for norm in norms)
        return f"the loss ({metrics['loss']:g}) or its gradient (norm {shown}) is no finite number"


class Spike(Guard):
    """A metric is not far above its values in the last steps."""

    hint = "Look at the rows, lower --lr, or raise k."
    saved = ("values",)

    def __init__(self, setup: GuardSetup, metric: str, window: int = 50, k: float = 8.0):
        require(window >= FEWEST, f"window must be at least {FEWEST}")
        require(k > 0, "k must be above 0")
        self.metric, self.window, self.k = metric, window, k
        self.values: list[float] = []
        # The metrics of the guards that come with zoo may be absent in some runs.
        self._known = type(self) is not Spike

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        if "loss" in metrics and not self._known:
            self._known = True
            if self.metric not in metrics:
                why = f"and step {step} has no such metric.{nearest(self.metric, metrics)}"
                warnings.warn(f"A guard watches '{self.metric}', {why}", stacklevel=2)
        value = metrics.get(self.metric, math.nan)
        if "loss" not in metrics or not math.isfinite(value):
            return ""
        before, self.values = self.values, [*self.values, value][-self.window :]
        if len(before) < FEWEST:
            return ""
        median = statistics.median(before)
        spread = max(NORMAL * statistics.median(abs(one - median) for one in before), SMALLEST * abs(median))
        if value - median <= self.k * spread:
            return ""
        return (
            f"{self.metric} is {value:.4g}, more than {self.k:g} standard deviations ({spread:.2g} each) above the "
            f"median of the {len(before)} steps before ({median:.4g})"
        )


class LossSpike(Spike):
    """The loss is not far above that of the last steps; not for the losses of reinforcement learning."""

    action = "warn"
    runs = "offline"

    def __init__(self, setup: GuardSetup, window: int = 50, k: float = 8.0):
        super().__init__(setup, "loss", window, k)


class GradientSpike(Spike):
    """The norm of the gradient, before clipping, is not far above that of the last steps."""

    action = "warn"

    def __init__(self, setup: GuardSetup, window: int = 50, k: float = 8.0):
        super().__init__(setup, "grad_norm", window, k)


class KL(Guard):
    """The KL from the reference does not explode."""

    action = "warn"
    hint = "Lower --lr, or give the KL a larger weight."

    def __init__(self, setup: GuardSetup, limit: float = FAR, metric: str = "kl"):
        require(limit > 0, "limit must be above 0")
        self.limit, self.metric = limit, metric

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        value = metrics.get(self.metric, 0.0)
        return f"{self.metric} is {value:.4g}, above {self.limit:g}" if value > self.limit else ""


class Entropy(Guard):
    """The entropy of the policy does not collapse."""

    action = "warn"
    runs = "online"
    hint = "Lower --lr, raise --temperature, or give the entropy a weight if the algorithm has one."
    saved = ("first", "last")

    def __init__(self, setup: GuardSetup, share: float = COLLAPSE, window: int = 10):
        require(0 < share < 1, "share must be between 0 and 1")
        require(window > 0, "window must be above 0")
        self.share, self.window = share, window
        self.first: list[float] = []
        self.last: list[float] = []

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        value = metrics.get("entropy", math.nan)
        if not math.isfinite(value):
            return ""
        if len(self.first) < self.window:
            self.first = [*self.first, value]
            return ""
        self.last = [*self.last, value][-self.window :]
        before, now = statistics.fmean(self.first), statistics.fmean(self.last)
        if len(self.last) < self.window or now >= self.share * before:
            return ""
        return f"the entropy fell from {before:.3g} to {now:.3g}, less than {self.share:.0%} of it"


class ConstantReward(Guard):
    """Not all rewards of several rollouts in a row are one number."""

    action = "warn"
    runs = "rewarded"
    of_rollout = True
    hint = "Look in samples.jsonl whether the answers deserve it; `zoo eval MODEL --reward …` tests a reward alone."
    saved = ("count", "value")
    equal: ClassVar[float] = 1e-9
    """The largest difference between equal rewards: means are rounded."""

    def __init__(self, setup: GuardSetup, rollouts: int = 3):
        require(rollouts > 0, "rollouts must be above 0")
        self.rollouts, self.count, self.value = rollouts, 0, 0.0

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        value, spread = (metrics.get(f"rollout/reward{end}", math.nan) for end in ("", "_std"))
        if not math.isfinite(value):
            return ""
        same = self.count > 0 and abs(value - self.value) <= self.equal
        self.count = 0 if spread > self.equal else self.count + 1 if same else 1
        self.value = value
        if self.count < self.rollouts:
            return ""
        return f"every reward of the last {amount(self.count, 'rollout')} was {value:g}, so there was nothing to learn"


class Share(Guard):
    """A share that a rollout has as a metric is below a limit."""

    action = "warn"
    runs: ClassVar[Runs] = "online"
    of_rollout = True
    metric: ClassVar[str]
    meaning: ClassVar[str]

    def __init__(self, setup: GuardSetup, share: float = 0.5):
        require(0 < share <= 1, "share must be above 0 and at most 1")
        self.share = share

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        value = metrics.get(self.metric, 0.0)
        return f"{value:.0%} of {self.meaning}" if value >= self.share else ""


class FlatGroups(Share):
    """The answers to a prompt differ in their rewards, for most prompts of a rollout."""

    runs = "rewarded"
    metric = "rollout/flat_groups"
    meaning = "the prompts have answers that all got the same reward: a comparison within a group learns nothing"
    hint = (
        "More --answers-per-prompt, a higher --temperature, prompts of another difficulty, or a finer-grained reward "
        "would help."
    )

    def __init__(self, setup: GuardSetup, share: float = 0.8):
        super().__init__(setup, share)


class CutAnswers(Share):
    """Most answers of a rollout come to their end."""

    metric = "rollout/cut"
    meaning = "the answers were cut off at a limit, so only their beginnings are learned from"
    hint = "Raise --max-new-tokens (with an environment, perhaps --max-turns), or reward shorter answers."


class MissingRewards(Share):
    """Most answers of a rollout have a reward."""

    runs = "rewarded"
    metric = "rollout/missing"
    meaning = "the answers have no reward and are not learned from"
    hint = "The reasons are printed with them."


class EngineGap(Guard):
    """The engine that writes gives its tokens the log-probabilities that the trainer computes."""

    action = "warn"
    runs = "online"
    of_rollout = True
    hint = "Look whether the engine has the run's weights, precision and temperature."

    def __init__(self, setup: GuardSetup, limit: float = ENGINE_GAP):
        require(limit > 0, "limit must be above 0")
        self.limit = limit

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        gap = metrics.get("rollout/engine_gap", 0.0)
        if not gap > self.limit:
            return ""
        ratio = math.exp(min(gap, 50.0))
        return f"engine and trainer differ by {gap:.3g} in log π per token, an importance ratio of {ratio:.3g}"


BUNDLED: dict[str, type[Guard]] = {
    "finite": Finite,
    "loss_spike": LossSpike,
    "gradient_spike": GradientSpike,
    "kl": KL,
    "entropy": Entropy,
    "constant_reward": ConstantReward,
    "flat_groups": FlatGroups,
    "cut_answers": CutAnswers,
    "missing_rewards": MissingRewards,
    "engine_gap": EngineGap,
    "spike": Spike,
}
