"""What the command line loads before it answers: no torch where it only lists, explains, refuses or looks."""

import json
import os
import subprocess
import sys

import pytest
from tiny_runs import data_for, write_rows

HEAVY = (
    "torch", "transformers", "lightning", "peft", "datasets", "pandas", "pyarrow", "scipy", "sympy", "numpy",
    "safetensors",
)  # fmt: skip
PLUGIN = '''
from dataclasses import dataclass

import torch

from zoo.api import Algorithm, Loss, require


class Mine(Algorithm):
    """Learns what it likes."""

    api_version = 2
    data = "preference"
    needs = ("policy",)

    @dataclass
    class Config:
        strength: float = 1.0
        """How strongly."""

        def __post_init__(self):
            require(self.strength > 0, "strength must be above 0")

    def loss(self, batch, models, config):
        return Loss.per_example(torch.zeros(len(batch)))
'''


RUN_ALL = """
import contextlib, io, json, sys
from zoo.cli import main

asked, heavy, known = json.load(sys.stdin), set(sys.argv[1:]), set()
for name, arguments in asked.items():
    out, sys.argv = io.StringIO(), ["zoo", *arguments]
    main.app.registered_commands.clear()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main.main()
        except SystemExit as end:
            status = end.code or 0
    loaded = sorted(heavy & sys.modules.keys() - known)
    known.update(loaded)
    print(json.dumps([name, status, out.getvalue(), loaded]))
"""
"""Runs commands one after the other in one process; what one has loaded is not held against the next."""


def zoo(asked, cwd, **environment):
    """(exit status, output, heavy packages that it loaded) of each command, by its name."""
    env = {**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *HEAVY], input=json.dumps(asked), capture_output=True, text=True, cwd=cwd,
        env=env, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (status, out, loaded) for name, status, out, loaded in rows}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    """A folder with a model, rows, a plugin in a file and a run; the cards of what the tests name are made."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "tiny").symlink_to(tiny_folder)
    data_for("dpo", folder)
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "rewards.py").write_text("import torch\n\ndef right(completions, records):\n    return [1.0]\n")
    write_rows(folder / "prompts.jsonl", [{"prompt": f"prompt {i}"} for i in range(40)])
    (folder / "runs/old").mkdir(parents=True)
    (folder / "runs/old/run.yaml").write_text("algo: dpo\nmodel: tiny\ndata: starter\n")
    code = (
        "from zoo.cards import described\nfrom zoo.training.outlook import look_ahead\n"
        "from zoo.training.run import resolve_options\n"
        "for name in ('dpo', './mine.py:Mine'):\n    described(name)\n"
        "options = {'model': 'tiny', 'score': 'instructions', 'engine': 'vllm(url=http://127.0.0.1:8000)'}\n"
        "look_ahead(*resolve_options('ppo', None, options, 'command line'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, timeout=120)
    return folder


ANSWERS = [
    ["--help"], ["-h"], ["-V"], ["--version"], ["algos"], ["algos", "--json"], ["algos", "dpo"],
    ["algos", "./mine.py:Mine"], ["train", "--help"], ["train", "--algo", "kto", "--help"],
    ["train", "--algo", "./mine.py:Mine", "-h"], ["runs"], ["runs", "old"],
    ["recipes"], ["templates"], ["templates", "chatml", "--json"],
    ["eval", "--list"], ["eval", "--help"], ["compare", "--help"], ["doctor", "--help"],
    ["train", "--model", "tiny", "--dry-run"],
    ["train", "--algo", "dpo", "--model", "tiny", "--data", "dpo-12.jsonl", "--dry-run", "--json"],
    ["train", "--algo", "./mine.py:Mine", "--model", "tiny", "--data", "dpo-12.jsonl", "--dry-run"],
    ["train", "--algo", "ppo", "--model", "tiny", "--data", "prompts.jsonl", "--reward", "rewards.py:right",
     "--dry-run"],
    ["train", "--algo", "dpo", "--data", "world:facts", "--dry-run"],
    ["train", "--algo", "ppo", "--data", "world:gold", "--dry-run"],
]  # fmt: skip
REFUSED = {
    "no data called x.jsonl": (["train", "--data", "x.jsonl", "--model", "tiny"], "x.jsonl"),
    "a port that cannot be": (["board", "--port", "70000"], "cannot listen on port 70000"),
    "unknown option": (["train", "--algo", "dpo", "--betta", "1"], "No such option"),
    "option of another": (["train", "--algo", "dpo", "--desirable-weight", "1"], "an option of kto"),
    "wrong type": (["train", "--algo", "dpo", "--beta", "much"], "must be float"),
    "out of range": (["train", "--lr", "-1"], "0 or more"),
    "the algorithm's own rule": (["train", "--algo", "dpo", "--beta", "-1"], "beta must be above 0"),
    "a stranger's rule": (["train", "--algo", "./mine.py:Mine", "--strength", "0"], "strength must be above 0"),
    "algorithm": (["train", "--algo", "dpoo"], "Did you mean 'dpo'?"),
    "card": (["algos", "dpoo"], "Did you mean 'dpo'?"),
    "model": (["train", "--model", "./nothere"], "There is no model at ./nothere"),
    "logger": (["train", "--model", "tiny", "--loggers", "wandbb"], "Did you mean 'wandb'?"),
    "reward": (["train", "--algo", "ppo", "--model", "tiny", "--reward", "exct"], "Did you mean 'exact'?"),
    "engine": (["train", "--algo", "ppo", "--model", "tiny", "--engine", "vlm"], "Did you mean 'vllm'?"),
    "evaluation": (["train", "--model", "tiny", "--score", "instruction"], "Did you mean 'instructions'?"),
    "run to resume": (["resume", "nothere"], "No run is called 'nothere'"),
    "run to show": (["runs", "nothere"], "No run is called 'nothere'"),
    "run to export": (["export", "nothere", "new"], "No run is called 'nothere'"),
    "run to compare": (["compare", "nothere", "old"], "No run is called 'nothere'"),
    "model to chat with": (["chat", "./nothere"], "There is no model at ./nothere"),
    "model to evaluate": (["eval", "./nothere"], "There is no model at ./nothere"),
    "evaluation to make": (["eval", "tiny", "--eval", "accurcy"], "Did you mean 'accuracy'?"),
    "data to show": (["data", "nothere.jsonl"], "nothere.jsonl"),
    "data to label": (["label", "nothere.jsonl", "--out", "out.jsonl"], "nothere.jsonl"),
    "recipe": (["reproduce", "nothere"], "nothere"),
    "world": (["data", "world:nothere"], "No world is called 'nothere'"),
    "algorithm to check": (["check", "dpoo"], "Did you mean 'dpo'?"),
}


@pytest.fixture(scope="module")
def answers(place):
    asked = {" ".join(arguments): arguments for arguments in ANSWERS}
    return zoo({**asked, **{case: arguments for case, (arguments, _) in REFUSED.items()}}, place)


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_help_listings_and_dry_runs_load_nothing_heavy(answers, arguments):
    status, out, loaded = answers[" ".join(arguments)]
    assert (status, loaded) == (0, []), out


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_refused_early_is_refused_without_loading_anything_heavy(answers, case):
    status, out, loaded = answers[case]
    assert (status, loaded) == (2, []), out
    assert REFUSED[case][1] in " ".join(out.split())


def test_the_page_of_all_commands_is_for_people(answers):
    out = answers["--help"][1]
    assert "<bool>" not in out and "--version, -V" in out and "  train " in out


@pytest.mark.parametrize(
    ("line", "offers"),
    [("zoo tr", "train"), ("zoo train --algo kt", "kto"), ("zoo train --algo dpo --label-s", "--label-smoothing"),
     ("zoo resume ol", "old")],
)  # fmt: skip
def test_a_shell_is_told_how_a_line_may_go_on(place, line, offers):
    asked = {"_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    status, out, loaded = zoo({"": []}, place, **asked)[""]
    assert (status, loaded) == (0, []) and offers in out.split()


def test_names_and_papers_stay_whole_in_a_narrow_terminal(place):
    out = zoo({"": ["algos"]}, place, COLUMNS="60")[""][1]
    assert "arXiv:2305.18290" in out and "constitutional" in out
    assert max(map(len, out.splitlines())) <= 60


def test_python_m_zoo_is_the_command(place):
    done = subprocess.run([sys.executable, "-m", "zoo", "-V"], capture_output=True, text=True, cwd=place)
    assert (done.returncode, done.stdout.split()[0]) == (0, "zoo")


def test_a_source_or_a_reward_of_a_stranger_does_not_load_torch(place):
    code = "import sys\nfrom zoo.api import DataSource, Eval, ZooError, hookimpl\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.long
def test_one_card_brings_those_of_its_package(place, tmp_path):
    """The first that is asked for takes seconds; the others are imported with it."""
    asked = {"first": ["algos", "dpo"]}, {"second": ["algos", "grpo"]}
    first, second = (zoo(one, place, ZOO_CACHE=str(tmp_path)) for one in asked)
    assert "torch" in first["first"][2] and second["second"][2] == []
