"""Some GRPO iterations with TRL, as DeepSeekMath has them. In TRL's own environment; a JSON job in, a JSON result out.

python run_grpo_trl.py JOB.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from clock import RolloutClock
from datasets import Dataset
from reward import variety_of_chats
from run_trl import Notes
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    clock = RolloutClock()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32, attn_implementation="sdpa")
    trainer = trl.GRPOTrainer(
        model=model,
        args=make_config(job),
        reward_funcs=variety_of_chats,
        train_dataset=Dataset.from_json(job["rows"], cache_dir=job["scratch"]),
        processing_class=tokenizer,
        callbacks=[Notes(clock)],
    )
    trainer._generate_single_turn = clock.timed(
        trainer._generate_single_turn, lambda result: [len(ids) for ids in result[0]]
    )
    trainer.train()
    clock.write(
        Path(job["result"]),
        threads=torch.get_num_threads(),
        attention=model.config._attn_implementation,
        versions={"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    )


def make_config(job: dict[str, Any]) -> Any:
    """The loss of DeepSeekMath (TRL's own default is another), one optimizer step to a rollout."""
    return trl.GRPOConfig(
        output_dir=job["scratch"],
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        gradient_checkpointing=False,
        loss_type="grpo",
        beta=0.04,
        use_bias_correction_kl=False,
        epsilon=0.2,
        scale_rewards="group",
        num_iterations=1,
        num_generations=job["answers"],
        max_completion_length=job["max_new_tokens"],
        temperature=job["temperature"],
        top_p=job["top_p"],
        top_k=job["top_k"],
        shuffle_dataset=False,
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        max_steps=job["iterations"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **job["options"],
    )


if __name__ == "__main__":
    main()
