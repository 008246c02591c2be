"""How many rows a CPU second makes of a file of short preference pairs: python benchmarks/data_rate.py --rows 20000

Each stage of a row is timed by itself, in one process and one thread, next to the tokenizer alone on the same texts:
every distinct text that the chat template writes (a pair's prompt, and the prompt with each of its answers) once, in
batches. Where TRL is installed, its preparation of the same rows is timed too. Seconds are those of the CPU, of all
threads together.
"""

from __future__ import annotations

import os

# Threads would hide CPU seconds in waiting.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

BLOCK = 1000
PROMPT_WORDS, ANSWER_WORDS = (5, 20), (5, 30)
WORDS = """
the of and to in is it that was for on are as with they be at one have this from by not what all were when we there
can an your which their said if do will each about how up out them then she many some so these would other into has
more her two like him see time could no make than first been its who now people my made over did down only way find
use may water long little very after words called just where most know get through back much before go good new write
our used me man too any day same right look think also around another came come work three word must because does part
even place well such here take why things help put years different away again off went old number great tell men say
small every found still between name should home big give air line set own under read last never us left end along
while might next sound below saw something thought both few those always looked show large often together asked house
world going want school important until form food keep children feet land side without boy once animals life enough
took sometimes four head above kind began almost live page got earth need far hand high year mother light parts
country father let night following picture being study second eyes soon times story boys since white days ever paper
hard near sentence better best across during today others however sure means knew try told young miles sun ways thing
whole hear example heard several change answer room sea against top turned learn point city play toward five using
himself usually temperature government energy
""".split()


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


def pairs(count: int) -> Iterator[dict[str, str]]:
    """Questions with two answers; words are drawn by rank as in a language (Zipf)."""
    source = random.Random(0)
    ranks = list(accumulate(1 / rank for rank in range(1, len(WORDS) + 1)))

    def sentence(least: int, most: int, end: str) -> str:
        drawn = source.choices(WORDS, cum_weights=ranks, k=source.randint(least, most))
        return " ".join(drawn).capitalize() + end

    for _ in range(count):
        answers = (sentence(*ANSWER_WORDS, ".") for _ in range(2))
        yield dict(zip(("prompt", "chosen", "rejected"), (sentence(*PROMPT_WORDS, "?"), *answers), strict=True))


def zoo_stages(file: Path, template: Any, clock: Clock) -> None:
    """Every stage of every row, block by block."""
    from zoo.data.encoding.block import Columns
    from zoo.data.encoding.stages import fitted, rendered, tokenized, trainable
    from zoo.data.encoding.statistics import Statistics
    from zoo.data.formats import FORMATS
    from zoo.data.report import Report
    from zoo.data.sources import open_source
    from zoo.data.stages import mark_duplicates, records_of

    report, statistics, format = Report("rows"), Statistics(), FORMATS["preference"]
    kind, lines = format.kind, iter(open_source(str(file), "preference").rows)
    records: list[Any] = []
    marked = mark_duplicates(chain.from_iterable(iter(lambda: records, None)), report)
    while True:
        with clock("read"):
            rows = list(islice(lines, BLOCK))
        if not rows:
            return
        with clock("record and check"):
            records = list(records_of(rows, format, {}, report))
        with clock("duplicates"):
            list(islice(marked, len(records)))
        with clock("render"):
            texts = list(rendered(records, kind, template, report))
        with clock("tokenize"):
            tokens = list(tokenized(texts, template))
        with clock("length and content"):
            kept = list(trainable(fitted(tokens, 1024, "drop", report, []), kind, template, report))
        with clock("columns"):
            statistics.add(columns_of(kept, Columns(), kind), template.eos_ids)


def columns_of(rows: Iterable[Any], columns: Any, kind: str) -> Any:
    for row in rows:
        columns.add(row.record, row.fields)
    return columns.block(kind, [], len(columns.rows), [])


def texts_of(file: Path, template: Any) -> list[str]:
    """Every distinct text that the chat template writes."""
    texts: dict[str, None] = {}
    for line in file.open(encoding="utf-8"):
        pair = json.loads(line)
        texts[template.prompt_text(pair["prompt"])] = None
        for side in ("chosen", "rejected"):
            texts[template.render(pair["prompt"], pair[side]).text] = None
    return list(texts)


def tokenizer_alone(texts: list[str], tokenizer: Any, clock: Clock) -> int:
    """Two ways of calling it: as the library under it is called with the least around it, and as programs call it."""
    inner = tokenizer.backend_tokenizer
    tokens = 0
    for place in range(0, len(texts), BLOCK):
        part = texts[place : place + BLOCK]
        with clock("fast"):
            tokens += sum(len(encoding.ids) for encoding in inner.encode_batch_fast(part, add_special_tokens=False))
        with clock("called"):
            tokenizer(part, add_special_tokens=False)["input_ids"]
    return tokens


def trl_preparation(file: Path, folder: Path) -> float | None:
    """CPU seconds in which TRL's DPO trainer prepares the rows of a file; None where TRL is not installed.

    A trainer prepares them when it is made; what making one with few rows takes is left out.
    """
    try:
        import trl
    except ImportError:
        return None
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    options = trl.DPOConfig(output_dir=str(file.parent / "trl"), report_to=[], use_cpu=True, bf16=False)
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    pairs = [json.loads(line) for line in file.open(encoding="utf-8")]
    rows = [{name: [{"role": roles[name], "content": pair[name]}] for name in roles} for pair in pairs]

    def seconds(part: list[Any]) -> float:
        table = datasets.Dataset.from_list(part)
        started = time.process_time()
        trl.DPOTrainer(model, args=options, train_dataset=table, processing_class=tokenizer)
        return time.process_time() - started

    few = [seconds(rows[:8]) for _ in range(2)][-1]
    return seconds(rows) - few


def line(name: str, seconds: float, rows: int, whole: float) -> str:
    return f"{name:34}{seconds / rows * 1e6:10.1f}{rows / seconds:12,.0f}{seconds / whole:9.0%}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--model", default="smollm2-135m", help="whose tokenizer and template to use")
    options.add_argument("--template", default="auto")
    given = options.parse_args()
    from zoo.data.encoding.encode import uncollected
    from zoo.models.loading import load_template
    from zoo.models.start import resolve_start

    start = resolve_start(given.model, "runs", print)
    template = load_template(start, given.template)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs(given.rows)), encoding="utf-8")
        stages, alone = Clock(), Clock()
        texts = texts_of(file, template)
        # As encoding does. Otherwise the stage in which Python looks for cycles of objects pays for all of them.
        with uncollected(), template.watched():
            zoo_stages(file, template, stages)
            tokens = tokenizer_alone(texts, template.tokenizer, alone)
        whole = sum(stages.seconds.values())
        print(f"{given.rows:,} pairs, {len(texts):,} texts of {tokens / len(texts):.0f} tokens on average")
        print(f"{'stage':34}{'µs a pair':>10}{'pairs/CPU s':>12}{'share':>9}")
        for name, seconds in stages.seconds.items():
            print(line(name, seconds, given.rows, whole))
        print(line("zoo, all stages", whole, given.rows, whole))
        print(line("tokenizer alone", alone.seconds["fast"], given.rows, whole))
        print(line("tokenizer as programs call it", alone.seconds["called"], given.rows, whole))
        trl_seconds = trl_preparation(file, Path(start.path))
        if trl_seconds is None:
            print("TRL is not installed.")
        else:
            print(line(f"preparation of TRL {version('trl')}", trl_seconds, given.rows, whole))
        print(f"Of the tokenizer's own rate: {alone.seconds['fast'] / whole:.0%}")


if __name__ == "__main__":
    main()
