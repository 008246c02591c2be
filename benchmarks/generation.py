"""Generation: tokens per CPU second of the in-process engine and of transformers `generate`, in turns.

Eight prompts, eight answers to each, up to 128 new tokens, the same sampling. Both are counted the same way:
the tokens of the answers, end-of-turn token included, over the CPU seconds of the process. What `generate`
computes for rows that have ended counts as time, not as tokens.

    OMP_NUM_THREADS=1 python benchmarks/generation.py --model FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.rollout.engine import InProcessEngine, Sampling

QUESTIONS = (
    "Explain in one sentence why the sky is blue.",
    "Name three rivers of Europe.",
    "Write a short letter to a neighbour whose dog barks at night, and ask kindly for a talk about it.",
    "What is the sum of 17 and 25?",
    "Describe how to repot a plant that has outgrown its pot, step by step.",
    "Say hello in French, in Polish and in Finnish.",
    "I have eggs, flour, milk and two apples at home. What can I cook for four people in half an hour?",
    "Give one reason for and one reason against working at night.",
)


def ours(model, prompts, n, sampling, eos_ids, pad_id, seed):
    """Lengths of the answers of the in-process engine."""
    engine = InProcessEngine(model, eos_ids=eos_ids, pad_id=pad_id)
    answers = engine.generate(prompts, n, sampling, torch.Generator().manual_seed(seed))
    return [len(answer.completion) for answer in answers]


def theirs(model, prompts, n, sampling, eos_ids, pad_id, seed):
    """Lengths of the answers of `generate`, up to the first end-of-turn token."""
    torch.manual_seed(seed)
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    output = model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        num_return_sequences=n,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        eos_token_id=sorted(eos_ids),
        pad_token_id=pad_id,
    )[:, width:]
    ended = torch.isin(output, torch.tensor(sorted(eos_ids)))
    return [int(row.float().argmax()) + 1 if row.any() else output.shape[1] for row in ended]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face folder of a chat model")
    parser.add_argument("--answers", type=int, default=8, help="answers per prompt")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    eos_ids, pad_id = {tokenizer.eos_token_id}, tokenizer.eos_token_id
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    prompts = [torch.tensor(ids) for ids in encoded]
    sampling = Sampling(options.max_new_tokens, temperature=options.temperature, top_p=options.top_p)

    rates: dict[str, list[float]] = {"zoo": [], "transformers": []}
    for seed in range(options.rounds):
        for name, generate in (("zoo", ours), ("transformers", theirs)):
            wall, cpu = time.perf_counter(), time.process_time()
            lengths = generate(model, prompts, options.answers, sampling, eos_ids, pad_id, seed)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            rates[name].append(sum(lengths) / cpu)
            print(
                f"{name:>12}  {len(lengths)} answers, {sum(lengths)} tokens, {cpu:.1f} CPU s, {wall:.1f} s, "
                f"{rates[name][-1]:.0f} tokens per CPU second",
                flush=True,
            )
    ratio = statistics.median(rates["zoo"]) / statistics.median(rates["transformers"])
    print(f"zoo / transformers: {ratio:.2f} ({torch.get_num_threads()} threads, torch {torch.__version__})")


if __name__ == "__main__":
    main()
