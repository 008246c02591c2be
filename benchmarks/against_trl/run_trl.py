"""One training run with TRL. Runs in TRL's own environment; takes a JSON job, writes a JSON result.

python run_trl.py JOB.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from clock import Clock, cpu_seconds
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback


class Notes(TrainerCallback):
    """Passes the end of each step, and its loss, to the clock."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step_end(self, *arguments: Any, **facts: Any) -> None:
        self.clock.step_ended()

    def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, Any], **facts: Any) -> None:
        if "loss" in logs:
            self.clock.losses.append(float(logs["loss"]))


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    kind = AutoModelForSequenceClassification if job["algo"] == "rm" else AutoModelForCausalLM
    model = kind.from_pretrained(job["model"], dtype=torch.float32, attn_implementation="sdpa")
    data = Dataset.from_json(job["rows"], cache_dir=job["scratch"])
    begun = cpu_seconds()
    trainer = make_trainer(job, model, tokenizer, data, Notes(clock))
    setup_seconds = cpu_seconds() - begun
    trainer.data_collator = counting(trainer.data_collator, clock)
    trainer.train()
    accumulated = trainer.args.gradient_accumulation_steps
    clock.trained, clock.read = grouped(clock.trained, accumulated), grouped(clock.read, accumulated)
    clock.write(
        Path(job["result"]),
        threads=torch.get_num_threads(),
        attention=model.config._attn_implementation,
        setup_seconds=setup_seconds,
        versions={"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    )


def make_trainer(job: dict[str, Any], model: Any, tokenizer: Any, data: Any, notes: Notes) -> Any:
    """TRL's trainer for the job, on float32 weights: autocast as asked, AdamW, a constant learning rate."""
    extra = dict(job["options"])
    common = {
        "output_dir": job["scratch"],
        "use_cpu": True,
        "bf16": job["precision"] == "bf16",
        "gradient_checkpointing": False,
        "learning_rate": job["lr"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "max_steps": job["steps"],
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    arguments = {"model": model, "train_dataset": data, "processing_class": tokenizer, "callbacks": [notes]}
    if job["algo"] == "dpo":
        config = trl.DPOConfig(**{**common, "max_length": 2048, "beta": job["beta"], **extra})
        return trl.DPOTrainer(args=config, **arguments)
    if job["algo"] == "kto":
        config = trl.KTOConfig(**{**common, "max_length": 2048, "beta": job["beta"], **extra})
        return trl.KTOTrainer(args=config, **arguments)
    if job["algo"] == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        # It would put a BOS token before prompts that the other trainers leave without one.
        tokenizer.bos_token = None
        return ORPOTrainer(args=ORPOConfig(**{**common, "max_length": 2048, "beta": job["beta"], **extra}), **arguments)
    if job["algo"] == "rm":
        return trl.RewardTrainer(args=trl.RewardConfig(**{**common, "max_length": 2048, **extra}), **arguments)
    if not extra.get("packing"):
        return trl.SFTTrainer(args=trl.SFTConfig(**{**common, "max_length": 2048, **extra}), **arguments)
    return packing_trainer(common, extra, arguments)


def packing_trainer(common: dict[str, Any], extra: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """An SFT trainer whose every step takes all packed rows, together or one after the other.

    How many rows the packing makes is known once it is done, so a first trainer is made to count them.
    """
    together = extra.pop("rows_together", False)
    rows = len(trl.SFTTrainer(args=trl.SFTConfig(**{**common, **extra}), **arguments).train_dataset)
    sizes = {
        "per_device_train_batch_size": rows if together else 1,
        "gradient_accumulation_steps": 1 if together else rows,
    }
    return trl.SFTTrainer(args=trl.SFTConfig(**{**common, **extra, **sizes}), **arguments)


def counting(collate: Any, clock: Clock) -> Any:
    """The collator, noting the tokens that are trained and those that are read (padding not counted)."""

    def collate_and_count(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(examples)
        trained, read = tokens_in(batch)
        clock.trained.append(trained)
        clock.read.append(read)
        return batch

    return collate_and_count


def tokens_in(batch: dict[str, Any]) -> tuple[int, int]:
    """Trained and read tokens of a collated batch; mismatched answers, which only KTO reads, are not counted."""
    if "chosen_labels" in batch:
        # ORPO: the likelihood term covers the prompt of the chosen answer too, but for its first token.
        chosen, rejected = (int(batch[f"{side}_attention_mask"].sum()) for side in ("chosen", "rejected"))
        first = len(batch["chosen_labels"])
        return chosen - first + int((batch["rejected_labels"] != -100).sum()), chosen + rejected
    read = int((batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(batch["input_ids"])).sum())
    if "completion_mask" in batch:
        return int(batch["completion_mask"].sum()), read
    return int((batch["labels"] != -100).sum()) if "labels" in batch else 0, read


def grouped(counts: list[int], size: int) -> list[int]:
    """Sums over the micro-batches of each optimizer step."""
    return [sum(counts[start : start + size]) for start in range(0, len(counts), size)]


if __name__ == "__main__":
    main()
