"""On the real model: the result of a run does not depend on how its work is cut, nor on a kill."""

import json
import math
import os
import signal
import subprocess
import time

import pytest
import torch
from tiny_runs import cli, command, float32_flags, losses, same_bytes, trainer, weights, write_rows

from zoo.bundled import starter
from zoo.models.default import default_model
from zoo.rewards.reward import Reward
from zoo.runs import Run
from zoo.training.step.module import PostTraining

pytestmark = pytest.mark.slow

CACHE = os.environ.get("ZOO_CACHE")
"""The user's own, before the tests take another one: the model is fetched once for all test runs."""
ROWS = 6
# So large an ε makes AdamW plain gradient descent with momentum, in which rounding stays rounding.
DESCENT = {"lr": 1.0, "optimizer": "adamw(eps=1)", "batch_size": 3, "max_steps": 2}
PREFERENCES = ("prompt", "chosen", "rejected")
KINDS = {"sft": ("demonstration", ("prompt", "completion")), "dpo": ("preference", PREFERENCES)}


@pytest.fixture(scope="module")
def folder():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ZOO_CACHE") if CACHE is None else patch.setenv("ZOO_CACHE", CACHE)
        return default_model()


@pytest.fixture
def train(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    start = trainer(tmp_path, folder)
    return lambda algo, **options: start(algo, **{"data": short_rows(algo, tmp_path), **DESCENT, **options})


def short_rows(algo, tmp_path):
    """The starter set's shortest rows, of unequal lengths all the same."""
    kind, fields = KINDS[algo]
    rows = [{name: record[name] for name in fields} for record in starter.records("train", kind)]
    rows.sort(key=lambda row: len(json.dumps(row)))
    return write_rows(tmp_path / f"{algo}.jsonl", rows[: 4 * ROWS : 4])


@pytest.fixture
def gradients(monkeypatch):
    """The summed gradients of each step of the last run, as one vector."""
    found = []
    original = PostTraining._scale_and_clip

    def record(self, scale):
        flat = [p.grad.flatten() for p in self.policy.parameters() if p.grad is not None]
        found.append(torch.cat(flat) * scale)
        return original(self, scale)

    monkeypatch.setattr(PostTraining, "_scale_and_clip", record)
    return found


def gap(first, second):
    """The distance of two vectors as a share of their length."""
    return float((first - second).norm() / first.norm())


def moved(run, folder):
    """What training added to the weights, as one vector."""
    from transformers import AutoModelForCausalLM

    start = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    return torch.cat([(value - start[name]).flatten() for name, value in sorted(weights(run).items())])


@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_loss_gradient_and_weights_do_not_depend_on_rows_and_micro_batches(train, gradients, folder, algo):
    whole = train(algo, layout="padded", micro_tokens=10**6)
    expected, path = gradients[0], moved(whole, folder)
    if algo == "dpo":
        assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-6)
    for options in ({"layout": "shared"}, {"layout": "packed"}, {"layout": "shared", "micro_tokens": 1}):
        gradients.clear()
        other = train(algo, **{"micro_tokens": 10**6, **options})
        assert losses(other) == pytest.approx(losses(whole), rel=1e-5, abs=2e-5), options
        assert gap(expected, gradients[0]) < 1e-4, options
        assert gap(path, moved(other, folder)) < 1e-3, options


@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_two_processes_give_what_one_gives(train, folder, tmp_path, algo):
    """Three rows a step on two processes: the shares are unequal."""
    single = train(algo)
    flags = float32_flags(**DESCENT, devices=2, accelerator="cpu", out=tmp_path / "two")
    started = command(
        "train", "--algo", algo, "--model", folder, "--data", short_rows(algo, tmp_path), *flags, cwd=tmp_path
    )
    done = subprocess.run(**started, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    double = Run(next((tmp_path / "two").iterdir()))
    assert losses(double) == pytest.approx(losses(single), rel=1e-5, abs=2e-5)
    assert gap(moved(single, folder), moved(double, folder)) < 1e-3


@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_a_killed_run_resumed_equals_an_unbroken_one(train, folder, tmp_path, algo):
    options = {"max_steps": 3, "save_every": 1, "lr": 1e-4, "optimizer": "adamw(eps=1e-8)", "batch_size": 3}
    whole = train(algo, **options)
    flags = float32_flags(**options, name="broken", out=tmp_path / "runs")
    arguments = ["train", "--algo", algo, "--model", folder, "--data", short_rows(algo, tmp_path), *flags]
    started = subprocess.Popen(**command(*arguments, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "other")))
    broken = Run(tmp_path / "runs" / "broken")
    while not (broken.checkpoints / "step-1").exists() and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert broken.status == "unfinished" and broken.checkpoints.is_dir()
    done = subprocess.run(
        **command("resume", broken.path, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "other")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Resuming from step-" in done.stdout, done.stdout + done.stderr
    assert same_bytes(broken, whole, "model/model.safetensors") and same_bytes(broken, whole, "metrics.jsonl")


def test_two_new_tokens_are_learned_and_the_merged_folder_answers_as_its_adapters(train, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = ("one", "two", "three", "four")
    rows = [{"prompt": f"Look up {word}.", "completion": f"<search>{word}</search>"} for word in words]
    run = train(
        "sft", data=write_rows(tmp_path / "rows.jsonl", rows), new_tokens="<search>,</search>", lora=True, lora_rank=8,
        lr=2e-3, optimizer="adamw(eps=1e-8)", batch_size=4, max_steps=40, epochs=40, score="none",
    )  # fmt: skip
    asked = ["--prompt", rows[2]["prompt"], "--temperature", "0", "--max-new-tokens", "20"]
    status, out, err = cli("chat", run.path, *asked)
    assert (status, out.strip().splitlines()[-1]) == (0, "<search>three</search>"), out + err
    status, out, err = cli("export", run.path, tmp_path / "merged", "--merge")
    assert status == 0, err
    adapted, tokenizer = run.load()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert plain.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "merged")) == 49_154
    prompts = [row["prompt"] for row in rows] + ["What is the capital of France?", "Tell me a story."]
    texts = [[_greedy(model, tokenizer, prompt) for prompt in prompts] for model in (adapted, plain)]
    assert texts[0] == texts[1]
    assert texts[0][:4] == [f"<search>{word}</search><|im_end|>" for word in words], "it stops by itself"


def _greedy(model, tokenizer, prompt):
    """The answer of transformers itself."""
    messages = [{"role": "user", "content": prompt}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**given, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(made[0, given["input_ids"].shape[1] :])


def test_rewards_that_ask_it_are_probabilities_and_are_repeated(folder, tmp_path):
    """A rubric, and sampled reasonings; it is too small to judge well, so no value is expected."""
    file = tmp_path / "mine.yaml"
    file.write_text("criteria:\n  - {criterion: The answer names a city., weight: 2}\n  - The answer is short.\n")
    records = [{"prompt": "What is the capital of France?"}] * 2
    answers = ["The capital of France is Paris.", "I like bananas very much."]
    options = f"model={folder}, max_thought_tokens=12, chain_of_thought=yes, votes=2"
    for text in (f"rubric(criteria={file}, model={folder})", f"judge(ask=correct, {options})"):
        reward = Reward(text, {}, say=lambda line: None)
        first = reward.score(answers, records)
        assert all(0 < value < 1 for value in first) and first[0] != first[1]
        assert reward.score(answers, records) == first
