"""How long curation of made-up rows takes on one core: python benchmarks/curation.py --rows 100000

Words are drawn by rank as in a language (Zipf); a tenth of the rows are copies of earlier ones, with 0, 2 or 30 of
their 200 words changed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = 200
VOCABULARY = 30_000
COPIES = 0.1
CHANGED = (0, 2, 30)
COPIED_FROM = 2000
COMMANDS = {
    "exact": ["dedup", "rows.jsonl"],
    "filter": ["filter", "rows.jsonl"],
    "contamination": ["contamination", "rows.jsonl", "--eval", "test.jsonl"],
    "near": ["dedup", "rows.jsonl", "--near", "0.8"],
}
"""In the order of the memory that they need: what is told is the most of all so far."""


def rows(count: int) -> list[str]:
    source = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(VOCABULARY)]
    ranks = list(itertools.accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    made: list[list[str]] = []
    texts = []
    for _ in range(count):
        if made and source.random() < COPIES:
            text = list(source.choice(made))
            for _ in range(source.choice(CHANGED)):
                text[source.randrange(WORDS)] = source.choice(vocabulary)
        else:
            text = source.choices(vocabulary, cum_weights=ranks, k=WORDS)
            if len(made) < COPIED_FROM:
                made.append(text)
        texts.append(" ".join(text))
    return texts


def timed(arguments: list[str], folder: Path) -> None:
    """Run `zoo data …` as a program of its own and print its line with its seconds and its memory."""
    command = [sys.executable, "-m", "zoo.cli.main", "data", *arguments, "--json", "--force"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report = json.loads(done.stdout)
    removed = ", ".join(f"{entry['count']:,} {name}" for name, entry in report["removed_by_reason"].items())
    print(f"zoo data {' '.join(arguments)}")
    print(f"  {report['rows']:,} rows: {cpu:.0f} s of CPU, {seconds:.0f} s by the clock, "
          f"at most {after.ru_maxrss / 2**20:.2f} GB; {removed or 'none'} removed", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=COMMANDS, help="Time one of the commands.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = rows(options.rows)
        (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        items = [{"text": " ".join(text.split()[:60])} for text in texts[-1000:]]
        (folder / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        for name in [options.only] if options.only else COMMANDS:
            timed(COMMANDS[name], folder)


if __name__ == "__main__":
    main()
