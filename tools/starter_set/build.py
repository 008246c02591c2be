"""Builds the starter set: `python -m starter_set.build --model FOLDER`.

The answers come from the model itself. Each prompt is sampled a few times and the checkers sort the
answers; small edits may make one pass. Where that gives no good passing answer, the prompt is sampled again
behind worked examples, with the first characters of an obedient answer put into the model's mouth.
Everything kept is checked once more before it is written. `--keep FILE` stores the raw samples, and reads
them when it exists, so that another choice among them needs no sampling.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from starter_set import choosing, prompts, sampling
from starter_set.examples import few_shot, in_any_case, opening
from zoo.rewards.instructions import CHECKERS, follows
from zoo.rewards.prose import words

PLAIN_EACH = 3
"""Plain samples for each prompt."""
HINTED_EACH = 3
"""Few-shot samples for each prompt that has no good passing answer yet."""
HINTED_TEMPERATURE = 0.6
AGAIN_EACH = 4
"""Further plain samples for each prompt that was never failed, in the hope of a failing answer."""
LAST_EACH = 6
"""Few-shot samples for each prompt whose passing answers are missing, or far off, even then."""
FAR_OFF = 3
"""Flaws from which on an answer is far off."""
DATA = Path(__file__).parents[2] / "zoo" / "bundled" / "starter"

Samples = dict[str, list[sampling.Sample]]


def main(arguments: list[str] | None = None) -> None:
    """Sample, choose, write the two files and the README beside this module."""
    parser = argparse.ArgumentParser(description="Build the starter set from a model's own answers.")
    parser.add_argument("--model", required=True, help="folder of a chat model in Hugging Face format")
    parser.add_argument("--keep", type=Path, help="file of raw samples: read if it exists, else written")
    parser.add_argument("--out", type=Path, default=DATA, help="folder for the files")
    options = parser.parse_args(arguments)
    both = {split: prompts.prompts(split) for split in prompts.SIZES}
    asked = [prompt for split in both.values() for prompt in split]
    stages = sampled(options.model, asked, options.keep)
    kept = {split: rows(both[split], stages, split) for split in both}
    for split, found in kept.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (options.out / f"{split}.jsonl").write_text(text, encoding="utf-8")
    text = report(kept, asked, stages["plain"])
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)


def sampled(model: str, asked: list[prompts.Prompt], keep: Path | None) -> dict[str, Samples]:
    """The samples by stage ("plain", "few-shot", "again", "last"), from `keep` as far as it holds them."""
    stages = _read(keep) if keep and keep.exists() else {}
    load = cache(lambda: sampling.Sampler(model))
    if "plain" not in stages:
        print("plain samples", flush=True)
        requests = [sampling.Request(one.id, ({"role": "user", "content": one.text},)) for one in asked]
        stages["plain"] = load().answers(requests, PLAIN_EACH, prompts.SEED)
        _write(keep, stages)
    if "few-shot" not in stages:
        print("few-shot samples", flush=True)
        poor = [one for one in asked if not _served(one, stages["plain"][one.id])]
        requests = [sampling.Request(one.id, few_shot(one), opening(one)) for one in poor]
        stages["few-shot"] = load().answers(requests, HINTED_EACH, prompts.SEED, HINTED_TEMPERATURE)
        _write(keep, stages)
    if "again" not in stages:
        print("more plain samples", flush=True)
        requests = [
            sampling.Request(one.id, ({"role": "user", "content": one.text},))
            for one in asked
            if all(candidate.passes for candidate in choosing.candidates(one, stages["plain"][one.id], []))
        ]
        stages["again"] = load().answers(requests, AGAIN_EACH, prompts.SEED + 1)
        _write(keep, stages)
    if "last" not in stages:
        print("few-shot samples for what still has no passing answer", flush=True)
        left = [in_any_case(one) for one in asked if not _taught(one, stages)]
        requests = [sampling.Request(one.id, few_shot(one), opening(one)) for one in left]
        stages["last"] = load().answers(requests, LAST_EACH, prompts.SEED + 2, HINTED_TEMPERATURE)
        _write(keep, stages)
    return stages


def _served(prompt: prompts.Prompt, plain: list[sampling.Sample]) -> bool:
    """Whether plain samples, as they are or repaired, already make a good passing answer."""
    return any(one.passes and one.flaws == 0 for one in choosing.candidates(prompt, plain, []))


def _taught(prompt: prompts.Prompt, stages: dict[str, Samples]) -> bool:
    """Whether some answer passes and is not far off."""
    return any(one.passes and one.flaws < FAR_OFF for one in _candidates(prompt, stages))


def _candidates(prompt: prompts.Prompt, stages: dict[str, Samples]) -> list[choosing.Candidate]:
    drawn = {stage: found.get(prompt.id, []) for stage, found in stages.items()}
    plain = drawn["plain"] + drawn["again"]
    return choosing.candidates(prompt, plain, drawn["few-shot"] + drawn.get("last", []))


def rows(asked: list[prompts.Prompt], stages: dict[str, Samples], split: str) -> list[dict[str, Any]]:
    """The rows of a file. A training prompt that no answer follows is left out; a held-out one stays."""
    found = []
    for prompt in asked:
        answers = choosing.chosen(_candidates(prompt, stages), prompt.topic)
        if split == "heldout" or any(answer.passes for answer in answers):
            found.append(
                {
                    "id": prompt.id,
                    "topic": prompt.topic,
                    "prompt": [{"role": "user", "content": prompt.text}],
                    "instructions": list(prompt.instructions),
                    "answers": [answer.stored() for answer in answers],
                }
            )
    return found


def report(kept: dict[str, list[dict[str, Any]]], asked: list[prompts.Prompt], plain: Samples) -> str:
    """The README: what the files hold, and how often plain samples pass each checker."""
    tries: Counter[str] = Counter()
    passes: Counter[str] = Counter()
    for prompt in asked:
        for instruction in prompt.instructions:
            for sample in plain[prompt.id]:
                tries[instruction["check"]] += 1
                passes[instruction["check"]] += follows(sample.text, instruction)
    ended = [sample.ended for samples in plain.values() for sample in samples]
    table = [
        f"| {name} | {checker.description} | {passes[name] / max(tries[name], 1):.2f} | {tries[name]} |"
        for name, checker in CHECKERS.items()
    ]
    head = README.format(
        plain=PLAIN_EACH,
        hinted=HINTED_EACH,
        last=LAST_EACH,
        again=AGAIN_EACH,
        temperature=sampling.TEMPERATURE,
        hinted_temperature=HINTED_TEMPERATURE,
        top_p=sampling.TOP_P,
        tokens=sampling.NEW_TOKENS,
        dropped=prompts.SIZES["train"] - len(kept["train"]),
        asked=prompts.SIZES["train"],
        share=passes.total() / tries.total(),
        ended=sum(ended) / len(ended),
    )
    counts = "\n".join(_counted(split, found) for split, found in kept.items())
    return head + "\n".join(table) + "\n\n## What the files hold\n\n" + COUNT_HEAD + counts + "\n"


def _counted(split: str, found: list[dict[str, Any]]) -> str:
    """One line of the table of files."""
    answers = [answer for row in found for answer in row["answers"]]
    verdicts = [[all(answer["followed"]) for answer in row["answers"]] for row in found]
    firsts = [row["answers"][0]["origin"] for row, passes in zip(found, verdicts, strict=True) if any(passes)]
    passing = [len(words(one["text"])) for one in answers if all(one["followed"])]
    failing = [len(words(one["text"])) for one in answers if not all(one["followed"])]
    size = sum(len(json.dumps(row, ensure_ascii=False).encode()) + 1 for row in found)
    cells = (
        f"{split}.jsonl",
        len(found),
        sum(len(set(passes)) == 2 for passes in verdicts),
        len(answers),
        f"{size / 1000:.0f} kB",
        *(f"{firsts.count(origin) / len(firsts):.2f}" for origin in choosing.ORIGINS),
        f"{sum(passing) / len(passing):.1f}",
        f"{sum(failing) / len(failing):.1f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _read(path: Path) -> dict[str, Samples]:
    stages: dict[str, Samples] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples = stages.setdefault(row["stage"], {}).setdefault(row["id"], [])
        samples.append(sampling.Sample(row["text"], row["ended"]))
    return stages


def _write(path: Path | None, stages: dict[str, Samples]) -> None:
    if path is None:
        return
    lines = [
        json.dumps({"stage": stage, "id": id, "text": sample.text, "ended": sample.ended})
        for stage, found in stages.items()
        for id, samples in found.items()
        for sample in samples
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


README = """# The starter set: verifiable instruction following

Everyday prompts, each with one or two instructions that a small function can check
(`zoo/rewards/instructions.py`), and up to four answers to each, sorted by the checkers. The topics of
`heldout.jsonl` do not occur in `train.jsonl`. The prompts are hand-written parts (`topics.py`,
`wordings.py`) put together from a seed; the answers were sampled from SmolLM2-135M-Instruct, so they are
what that model can say, and their facts are not to be trusted.

## How it was made

    python -m starter_set.build --model FOLDER

with `FOLDER` a Hugging Face folder of SmolLM2-135M-Instruct; about 40 minutes on one CPU core.

1. {plain} plain samples for each prompt: temperature {temperature}, top-p {top_p}, at most {tokens} new
   tokens, bfloat16.
2. Small edits where they help: the first sentences that fit, another case, no commas, a list made of
   sentences, a JSON object, a phrase or a title in front, a question at the end. The result is checked again
   ("repaired").
3. Where that gives no good passing answer, {hinted} samples at temperature {hinted_temperature} behind two
   worked examples, the first characters of an obedient answer given ("few-shot"), then edits; {last} more
   where still no passing answer is near the topic.
4. Where every answer passed, {again} more plain samples, in the hope of a failing one.

An answer that ran into the length limit is never kept as it is: it is cut after its last full sentence and
counts as repaired. Good answers stay on the topic, have 8 to 80 words, and do not talk about the request.
A training prompt that no answer follows is left out ({dropped} of {asked}); a held-out one stays, to be asked.
The files are what one run of this script wrote, from nothing, with torch 2.13 on a processor with bfloat16
instructions, one thread. The prompts are the same everywhere; another version of torch or another processor
samples other answers.

Each line: `id`, `topic`, `prompt` (messages), `instructions`, and `answers`, the best passing one first,
each with `text`, `followed` (one verdict per instruction) and `origin` (`sample`, `few-shot`, `repaired`).
`zoo.bundled.starter.records(split, kind)` makes demonstrations, preferences, feedback (one answer to each
prompt, three good ones to a bad one), plain prompts, rankings and labelled steps (sentences) of them.

## How often plain samples follow each instruction, before any training

Over all of them {share:.2f}; {ended:.2f} of the samples end before the length limit; those that do not are
checked as they stand.

| checker | what it checks | share that passes | samples |
|---|---|---|---|
"""
COUNT_HEAD = """\
"pairs" are prompts with a passing and a failing answer; the shares say where the best passing answer of a
prompt came from; the last two columns are mean words of passing and failing answers.

| file | prompts | pairs | answers | size | sample | few-shot | repaired | words, passing | words, failing |
|---|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
