"""One training run with zoo. Takes a JSON job, writes a JSON result.

    python run_zoo.py JOB.json

A job with "prepare" only says where the default model is and in which order zoo takes the rows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from clock import Clock, cpu_seconds
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import zoo
from zoo.data.loader import StepLoader
from zoo.models.default import default_model
from zoo.models.reference import Reference
from zoo.training.step.module import PostTraining
from zoo.values.answers import answers_in


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    result = Path(job["result"])
    if "prepare" in job:
        result.write_text(json.dumps(prepare(job)), encoding="utf-8")
        return
    # The reference cache of the benchmark starts empty and goes with it.
    os.environ["ZOO_CACHE"] = job["cache"]
    clock, facts = Clock(), {"setup_seconds": 0.0}
    watch_steps(clock, facts, job["algo"])
    watch_reference(facts)
    precision = "bf16-mixed" if job["precision"] == "bf16" else "32-true"
    zoo.train(
        algo=job["algo"], model=job["model"], data=job["rows"], out=job["scratch"], template="none", max_length=2048,
        batch_size=job["batch_size"], epochs=job["epochs"], max_steps=job["steps"], lr=job["lr"], schedule="constant",
        warmup=0, precision=precision, accelerator="cpu", eval_fraction=0.0, score="none", save_every=0, quiet=True,
        **job["options"],
    )  # fmt: skip
    versions = {"zoo": zoo.__version__, "torch": torch.__version__}
    clock.write(result, threads=torch.get_num_threads(), versions=versions, **facts)


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """The default model's folder, and for each number of rows the order in which zoo's loader deals them."""
    orders = {}
    for name, (rows, batch_size, epochs, steps) in job["prepare"].items():
        loader = StepLoader([{}] * rows, lambda records: None, batch_size=batch_size, epochs=epochs, max_steps=steps)
        orders[name] = [index for step in range(len(loader)) for index in loader.indices(step)]
    model = job["model"] or str(default_model())
    if job["scorer"]:
        save_scorer(model, job["scorer"])
    return {"model": model, "orders": orders}


def save_scorer(model: str, folder: str) -> None:
    """The model with a new scalar head, so that both programs start from the same one."""
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    # transformers reads the score at the last token that is no padding: with one id for both it would skip the EOS.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    scorer.config.pad_token_id = 0
    scorer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def watch_steps(clock: Clock, facts: dict[str, Any], algo: str) -> None:
    """Have every optimizer step noted."""
    step = PostTraining.training_step

    def noted_step(self: PostTraining, batch: Any, index: int) -> None:
        # TRL does not count the mismatched answers that KTO reads, and a reward model trains no token.
        answers = list(batch.completion) if algo == "kto" else answers_in(batch)
        clock.trained.append(0 if algo == "rm" else sum(int(answer.mask.sum()) for answer in answers))
        clock.read.append(sum(len(answer) for answer in answers))
        step(self, batch, index)
        clock.losses.append(self.step_metrics["loss"])
        facts["attention"] = self.policy.config._attn_implementation
        facts["layout"] = self.models.policy.layout
        clock.step_ended()

    PostTraining.training_step = noted_step


def watch_reference(facts: dict[str, Any]) -> None:
    """Note what it costs to fill the reference cache before the first step."""
    warm = Reference.warm

    def noted_warm(self: Reference, *arguments: Any) -> Any:
        begun = cpu_seconds()
        yield from warm(self, *arguments)
        facts["setup_seconds"] = cpu_seconds() - begun

    Reference.warm = noted_warm


if __name__ == "__main__":
    main()
