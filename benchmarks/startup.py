"""CPU seconds that commands take before there is anything to train: help, listings, refusals, dry runs.

    python benchmarks/startup.py

Each is run in a folder of its own with a tiny model, once so that cards and compiled files are there, then three times;
the least counts. `--first` prints the first time too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = (
    "--help",
    "--version",
    "algos",
    "algos dpo",
    "train --algo dpo --help",
    "train --model tiny --dry-run",
    "train --algo dpo --model tiny --data pairs.jsonl --dry-run",
    "train --algo ppo --model tiny --dry-run",
    "train --algo dpo --model tiny --data nothere.jsonl",
    "train --algo dpo --betta 1",
    "train --model tiny --loggers nothere",
    "resume nothere",
    "runs",
    "recipes",
    "eval --list",
    "doctor",
)
TIMES = 3


def make_folder(folder: Path) -> None:
    """A tiny model and a few pairs."""
    code = "from pathlib import Path\nfrom zoo.testing.tiny import write_folder\nwrite_folder(Path('tiny'))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    rows = [{"prompt": f"question {i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def seconds(command: str, folder: Path) -> tuple[float, int]:
    """CPU seconds of a command, and its exit status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZOO_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", "from zoo.cli.main import main; main()", *command.split()], cwd=folder,
        env=environment, capture_output=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", action="store_true", help="also print the first time, which makes the cards")
    parser.add_argument("--only", default="", help="commands that contain this")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_folder(folder)
        print("CPU s  exit  command" + ("  (first time)" if given.first else ""))
        for command in (one for one in COMMANDS if given.only in one):
            first, status = seconds(command, folder)
            least = min(seconds(command, folder)[0] for _ in range(TIMES))
            print(f"{least:5.2f}  {status:4}  zoo {command}" + (f"  ({first:.2f})" if given.first else ""), flush=True)


if __name__ == "__main__":
    main()
