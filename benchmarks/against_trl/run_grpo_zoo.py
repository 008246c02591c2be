"""Some GRPO iterations with zoo, by its defaults for the loss, which are DeepSeekMath's. A JSON job in, a result out.

python run_grpo_zoo.py JOB.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from clock import RolloutClock

import zoo
from zoo.rollout.engine import InProcessEngine
from zoo.training.step.module import PostTraining

REWARD = Path(__file__).with_name("reward.py")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    clock, facts = RolloutClock(), {}
    watch(clock, facts)
    zoo.train(
        algo="grpo", model=job["model"], data=job["rows"], out=job["scratch"], reward=f"{REWARD}:variety",
        batch_size=job["prompts"] * job["answers"], answers_per_prompt=job["answers"], minibatches=1, rollout_epochs=1,
        max_new_tokens=job["max_new_tokens"], temperature=job["temperature"], top_p=job["top_p"], top_k=job["top_k"],
        epochs=job["iterations"], max_steps=job["iterations"], lr=job["lr"], schedule="constant", warmup=0,
        precision="bf16-mixed" if job["precision"] == "bf16" else "32-true", accelerator="cpu", eval_fraction=0.0,
        score="none", save_every=0, quiet=True, **job["options"],
    )  # fmt: skip
    versions = {"zoo": zoo.__version__, "torch": torch.__version__}
    clock.write(Path(job["result"]), threads=torch.get_num_threads(), versions=versions, **facts)


def watch(clock: RolloutClock, facts: dict[str, Any]) -> None:
    """Have generation and every optimizer step noted."""
    InProcessEngine.generate = clock.timed(  # type: ignore[method-assign]
        InProcessEngine.generate, lambda answers: [len(answer.completion) for answer in answers]
    )
    step = PostTraining.training_step

    def noted_step(self: PostTraining, batch: Any, index: int) -> None:
        step(self, batch, index)
        clock.losses.append(self.step_metrics.get("loss", float("nan")))
        facts["attention"] = self.policy.config._attn_implementation
        clock.step_ended()

    PostTraining.training_step = noted_step  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
