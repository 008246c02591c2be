"""Do other forms of a run's model give its greedy answers: a merged folder, GGUF in f16 and q8_0, llama.cpp?

    python benchmarks/sharing.py RUN                                 # folders and files, loaded by transformers
    python benchmarks/sharing.py RUN --llama PATH/llama-completion   # by llama.cpp too
    python benchmarks/sharing.py RUN --vllm http://127.0.0.1:8000    # does a server of its model/ answer and stop?

Ten held-out prompts of the starter set are answered with 64 tokens each by `zoo.load(RUN)` in float32. Another form is
held against it until the two best logits of the run are nearer to each other than `NEAR`: there rounding decides. Of
q8_0 the first tokens of 60 answers are compared. Everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import zoo
from zoo.bundled import starter

PROMPTS, TOKENS, FIRST = 10, 64, 60
NEAR = 0.05
"""Difference of two logits below which rounding to f16 may decide."""
Told = list[tuple[list[int], int]]
"""Of each answer its tokens, and how many come before the first near-tie."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--llama", help="llama.cpp's program llama-completion")
    parser.add_argument("--vllm", help="the address of `vllm serve RUN/model --served-model-name RUN`")
    args = parser.parse_args()
    logging.disable_progress_bar()
    if args.vllm:
        ask(args.run, args.vllm)
        return
    with tempfile.TemporaryDirectory() as temporary:
        show(args.run, args.llama, Path(temporary))


def show(run: str, llama: str | None, folder: Path) -> None:
    model, tokenizer = zoo.load(run)
    prompts = [text_of(tokenizer, row["prompt"]) for row in starter.records("heldout", "prompt")]
    told = [greedy(model, tokenizer, text) for text in prompts[:PROMPTS]]
    print(
        f"{run}: {PROMPTS} answers, {sum(len(tokens) for tokens, _ in told)} tokens, {sum(n for _, n in told)} of them"
    )
    print(f"before the first place where the two best logits are nearer than {NEAR}")
    ended = sum(tokens[-1] in ends_of(model) for tokens, _ in told)
    print(f"{'ended by themselves':34} {ended} of {PROMPTS}")
    export(run, folder / "whole", *(["--merge"] if hasattr(model, "peft_config") else []))
    compare("folder, transformers", told, answers(folder / "whole", prompts))
    for kind in ("f16", "q8_0"):
        export(run, folder / kind, "--gguf", kind)
    file = folder / "f16" / "f16-f16.gguf"
    compare("GGUF f16, transformers", told, answers(file, prompts))
    if llama:
        compare_texts("GGUF f16, llama.cpp", tokenizer, told, by_llama(llama, file, prompts))
    small = loaded(folder / "q8_0" / "q8_0-q8_0.gguf")[0]
    same = sum(first(model, tokenizer, text) == first(small, tokenizer, text) for text in prompts[:FIRST])
    print(f"{'GGUF q8_0, transformers':34} first token equal for {same} of {FIRST} prompts")


def ask(run: str, address: str) -> None:
    """How many answers of a server end by themselves, and whether one shows a control token."""
    choices = []
    for row in starter.records("heldout", "prompt")[:PROMPTS]:
        asked = {"model": run, "messages": messages_of(row["prompt"]), "max_tokens": 2 * TOKENS, "temperature": 0}
        request = Request(
            f"{address}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request) as answer:
            choices += json.load(answer)["choices"]
    ended = sum(choice["finish_reason"] == "stop" for choice in choices)
    shown = sum("<|" in choice["message"]["content"] for choice in choices)
    print(f"vLLM: {ended} of {PROMPTS} answers ended within {2 * TOKENS} tokens, {shown} show a control token")


def messages_of(prompt: Any) -> Any:
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]


def text_of(tokenizer: Any, prompt: Any) -> str:
    return str(tokenizer.apply_chat_template(messages_of(prompt), tokenize=False, add_generation_prompt=True))


def export(run: str, folder: Path, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", "zoo", "export", run, str(folder), *flags], check=True, stdout=sys.stderr)


def loaded(path: Path) -> tuple[Any, Any]:
    """A folder or a GGUF file, as transformers loads it."""
    where = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    place = path.parent if where else path
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **where)
    return model.eval(), AutoTokenizer.from_pretrained(place, **where)


def ends_of(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, text: str) -> tuple[list[int], int]:
    """The greedy answer with the token that ends it, and how many tokens come before the first near-tie."""
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    out = model.generate(
        **ids, max_new_tokens=TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
    )  # fmt: skip
    gaps = [float(-logits[0].topk(2).values.diff()) for logits in out.logits]
    sure = next((place for place, gap in enumerate(gaps) if gap < NEAR), len(gaps))
    return out.sequences[0, ids["input_ids"].shape[1] :].tolist(), sure


def first(model: Any, tokenizer: Any, text: str) -> int:
    with torch.no_grad():
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        return int(model(ids).logits[0, -1].argmax())


def answers(path: Path, prompts: list[str]) -> Iterator[list[int]]:
    model, tokenizer = loaded(path)
    return (greedy(model, tokenizer, text)[0] for text in prompts[:PROMPTS])


def by_llama(program: str, file: Path, prompts: list[str]) -> Iterator[str]:
    for text in prompts[:PROMPTS]:
        command = [program, "-m", str(file), "-p", text, "-n", str(TOKENS), "--temp", "0", "-no-cnv", "-t", "1"]
        command += ["--no-display-prompt", "--simple-io", "--no-warmup"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
        yield done.stdout.replace("[end of text]", "").strip()


def compare(name: str, told: Told, found: Iterator[list[int]]) -> None:
    equal = [tokens[:sure] == other[:sure] for (tokens, sure), other in zip(told, found, strict=True)]
    print(f"{name:34} equal before it for {sum(equal)} of {len(equal)} answers", flush=True)


def compare_texts(name: str, tokenizer: Any, told: Told, found: Iterator[str]) -> None:
    texts = [tokenizer.decode(tokens[:sure], skip_special_tokens=True).strip() for tokens, sure in told]
    equal = [other.startswith(text) for text, other in zip(texts, found, strict=True)]
    print(f"{name:34} equal before it for {sum(equal)} of {len(equal)} answers", flush=True)


if __name__ == "__main__":
    main()
