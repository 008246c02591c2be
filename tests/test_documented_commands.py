"""Every command of every page: the command line takes it, and it does what the page says, in such a reader's folder.

The model of the pages, smollm2-135m, is the tiny one here, and SHORTER lists what is added so that a command ends in
a moment; the commands themselves stay as they are. Those of a page are run in their order in one folder, on a
pseudo-terminal, so that `zoo chat last` follows `zoo train`.
"""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from documented import ROOT, Command, every_command, group, pages, parse, without_output
from documented_folder import blocks, make_runs, prepare, write_file
from documented_names import CHECKS, check_make, check_pip, check_script
from each import each
from judge_server import completion, serving, tokens_of
from packages import forget_modules, put_on_path, run
from terminal import screen_of
from tiny_runs import on_terminal

from zoo import scaffold
from zoo.bundled import starter
from zoo.bundled.laboratory import networks
from zoo.cli.compare import are_algorithms
from zoo.contract import registry
from zoo.models import default
from zoo.options.fields import options_of
from zoo.rollout.engine import InProcessEngine

CACHE = os.environ.get("ZOO_CACHE")
"""The user's own, before the tests take another one: the real model is fetched once for all test runs."""
SERVER = "https://api.example.com/v1#big-model"
FILLED = {
    "zoo train --recipe NAME --stage STAGE": "zoo train --recipe ipo --stage 'ipo(tau=0.1)' --laptop",
    "zoo train --algo NAME --engine": "zoo train --algo grpo --engine",
    "zoo convert-config FILE": "zoo convert-config axolotl.yaml",
    "zoo new-plugin NAME --data KIND": "zoo new-plugin novel --data preference",
    "zoo recipes NAME": "zoo recipes ipo",
    "zoo compare RUN RUN": "zoo compare first second",
    "zoo eval MODEL --reward SPEC": "zoo eval last --reward length",
    "zoo eval MODEL --reward …": "zoo eval last --reward length",
    "--template-args enable_thinking=false,effort=high": "--template-args role=none",
    "--eval …": "--eval kl(data=starter)",
    "data=…": "data=questions.jsonl",
    "--model FOLDER": "--model my-model",
    "--model MODEL": "--model smollm2-135m",
    "zoo label DATA --teacher MODEL": "zoo label pairs.jsonl --teacher my-model",
    "NAME(action": "loss_spike(action",
    "NAME": "dpo",
}
"""What stands where a page leaves something to the reader; the first that fits is taken."""

SHORTER = {
    "train": {"--max-steps": 1, "--limit": 8},
    "eval": {"--limit": 2},
    "label": {"--limit": 4},
    "check": {"--only": "described"},
    "reproduce": {"--dry-run": None},
}
"""What is added to a command, or stands in place of what it says, so that it ends in a moment."""
ROLLOUTS = {"--eval-prompts": 2}
"""The same for `zoo train` of an algorithm that learns from its own answers."""
COMPARED = {"--max-steps": 1, "--seeds": 1, "--cases": 2}
"""The same where `zoo compare` trains. The tokens that a page names are left out."""
STARTER_ROWS, ANSWER_TOKENS, BASE_STEPS = 12, 4, 2
"""Of the starter set the first rows are there, answers of models end so early, bases of worlds are trained so long."""


def filled(command):
    text = command.text
    for gap, content in FILLED.items():
        text = text.replace(gap, content)
    return command._replace(text=text)


def arguments_of(command):
    """What `zoo` is given; of a name in a sentence, to which an argument belongs, its help."""
    words = command.words
    if words[0] == "torchrun":
        return words[words.index("zoo") + 1 :]
    needs = (
        "data",
        "label",
        "compare",
        "launch",
        "export",
        "soup",
        "new-plugin",
        "check",
        "reproduce",
        "convert-config",
    )
    alone = len(words) == 2 and words[1] in needs or words[-1] in ("dedup", "filter", "contamination")
    return [*words[1:], *(["--help"] if alone else [])]


COMMANDS = [filled(command) for command in every_command()]
OF_ZOO = [command for command in COMMANDS if command.words[0] in ("zoo", "torchrun")]
TAKEN = {tuple(command.words): command for command in reversed(OF_ZOO)}
"""Each spelling once."""


# -- the folder of a page ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock(tmp_path_factory, tiny_folder):
    """A folder with the runs that are put into others. From here on the default model is the tiny one, and data,
    answers and bases are as small as STARTER_ROWS, ANSWER_TOKENS and BASE_STEPS say."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "models").mkdir()
    (cache / "models" / default.NAME).symlink_to(tiny_folder)
    train_base, generate, records = networks.train_base, InProcessEngine.generate, starter.records

    def shortly(*given, **options):
        return train_base(*given, **{**options, "steps": BASE_STEPS})

    def briefly(engine, prompts, samples, sampling, *given, **options):
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, ANSWER_TOKENS))
        return generate(engine, prompts, samples, sampling, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(cache))
        patch.setattr(networks, "train_base", shortly)
        patch.setattr(InProcessEngine, "generate", briefly)
        patch.setattr(starter, "records", lambda split, kind: list(records(split, kind))[:STARTER_ROWS])
        patch.chdir(tmp_path_factory.mktemp("stock"))
        make_runs(default.NAME)
        yield Path.cwd()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each page and test."""
    made = {}

    def folder(*key):
        if key not in made:
            made[key] = tmp_path_factory.mktemp("page")
        return made[key]

    return folder


@pytest.fixture
def at(request, stock, folders, tiny_folder):
    """`with at(command)`: the folder of its page as working directory, ready for it, with the packages it names."""

    @contextmanager
    def at(command):
        folder = folders(request.function.__name__, command.page)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("HOME", str(folder))
            for package in packages(command, folder):
                put_on_path(package, patch)
            prepare(command, folder, stock, tiny_folder)
            try:
                yield folder
            finally:
                forget_modules(folder)

    return at


@pytest.fixture
def here(request, at):
    with at(request.node.callspec.params["command"]) as folder:
        yield folder


CAPITALS = """
[project]
name = "zoo-capitals"
version = "1.0"

[project.entry-points."zoo.plugins"]
capitals = "capitals"
"""


def packages(command, folder):
    """The folders of the packages that are installed on the page before this command."""
    if re.search(r"(--algo|check|algos) mine\b", command.text):
        package = folder / "zoo-mine"
        kind = "prompt" if command.page.endswith("prompt") else "preference"
        if command.page == "docs/tutorial.md":
            package = folder
            for name in ("mine.py", "pyproject.toml"):
                (folder / name).write_text(blocks(pages()[command.page])[name], encoding="utf-8")
        elif not package.exists():
            scaffold.new_plugin("mine", kind, folder)
        yield package
    if re.search(r"\b(awr|sums)\b", command.text):
        if not (folder / "zoo-sums").exists():
            shutil.copytree(ROOT / "tests" / "third_party" / "zoo-sums", folder / "zoo-sums")
        yield folder / "zoo-sums"
    site = folder / "site"
    # `zoo eval` alone measures what the run before it was scored with.
    if re.search(r"\bcapitals\b", command.text) or site.exists():
        site.mkdir(exist_ok=True)
        (site / "capitals.py").write_text(blocks(pages()["docs/contract.md"])["capitals.py"], encoding="utf-8")
        (site / "pyproject.toml").write_text(CAPITALS, encoding="utf-8")
        yield site


# -- what the command line takes ---------------------------------------------------------------------------------


def test_the_command_line_takes_it_and_has_everything_that_it_names(at, monkeypatch):
    def check(command):
        arguments = arguments_of(command)
        # Help pages are printed.
        with at(command), redirect_stdout(io.StringIO()):
            try:
                name, values = parse(arguments, monkeypatch)
            except typer.Exit:
                assert "--help" in arguments or "--version" in arguments
                return
            CHECKS.get(name, len)(values)

    each(TAKEN.values(), check)


def test_scripts_targets_and_extras_of_the_repository_exist():
    def check(command):
        assert entry(OUTSIDE, command), "OUTSIDE says of every other program why it is not run"
        words = command.words
        of = {"python": check_script, "make": check_make, "time": check_make, "pip": check_pip}
        of.get(words[0], len)(words)

    each([command for command in COMMANDS if command not in OF_ZOO], check)


WRONG = [
    "trian", "train --betta 1", "train --algo dpo --betta 1", "eval last --evals x", "runs --jso", "algos dppo",
    "train --algo dppo", "train --schedule sine", "train --algo dpo --loss hing", "train --data wrold:gold",
    "train --data 'world:gold(row=3)'", "train --score acuracy", "train --reward lenght", "eval --eval kll",
    "eval --eval 'kl(date=starter)'", "eval last --eval 'kl(data=startre)'", "eval nobody", "data absent.jsonl",
    "data filter rows.jsonl --rules chta", "recipes ipoo", "reproduce ipo --laptop --only dpoo",
    "check dpo --only lern", "compare --algos dpo,kot", "compare --algos dpo,kto --set dpo.bet=1",
    "label starter --kind pairs", "new-plugin novel --data pairs", "train --engine vlm",
    "train --recipe ipo --stage 'ipo(tau=7)' --laptop",
]  # fmt: skip


def test_a_command_that_names_what_is_not_there_would_be_noticed(at, monkeypatch):
    def check(wrong):
        command = Command("nowhere", f"zoo {wrong}", "block")
        with at(command), pytest.raises(Exception) as caught:
            name, values = parse(arguments_of(command), monkeypatch)
            CHECKS.get(name, len)(values)
        kinds = [cls.__name__ for cls in type(caught.value).__mro__]
        assert {"ZooError", "AssertionError", "UsageError"} & set(kinds), caught.value

    each(WRONG, check)


def test_the_pages_show_every_command():
    shown = {command.words[1] for command in OF_ZOO if command.place in ("block", "sentence")}
    assert set(group().commands) <= shown


OTHERS = {
    "--logprobs-mode", "--nproc-per-node", "--nnodes", "--rdzv-endpoint", "--nodes", "--ntasks-per-node", "--no-deps",
    "--force-reinstall", "--security-opt", "--signal", "--array", "--wrap", "--head", "--address", "--directory",
    "--generation-config", "--served-model-name",
}  # fmt: skip
"""Flags of vllm, torchrun, srun, sbatch, ray, docker, pip and http.server."""


def known_flags():
    """The flags of every command, algorithm and script, and of the algorithms that pages show."""
    commands = group().commands
    shown = [*commands.values(), *commands["data"].verbs().values()]
    flags = {flag for one in shown for option in one.params for flag in (*option.opts, *option.secondary_opts)}
    for entry in registry.algorithms():
        options = options_of(registry.load_algorithm(entry.full_name)[1].Config)
        flags |= {flag for option in options for flag in (option.flag, f"--no-{option.flag[2:]}")}
    chaos = ROOT / "zoo/testing/chaos/__main__.py"
    for script in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py"), chaos]:
        flags |= set(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    return flags | OTHERS | {"--help", "--version", "--margin", "--anchor", "--guide", "--install-completion"}


def test_every_flag_that_a_page_names_exists():
    known = known_flags()
    named = {
        (page, flag)
        for page, text in pages().items()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", without_output(text))
    }
    assert len(named) > 200
    assert {(page, flag) for page, flag in named if flag not in known} == set()


# -- what it does ------------------------------------------------------------------------------------------------

NOT_RUN = {
    r"^(zoo|plugins)/\S+\.py: ": "what an error says to type next, for the case of that error",
    r"^CHANGELOG.md: ": "tells what there is; the other pages show it",
    r"recipes/README.md: zoo reproduce": "the same command for each recipe; test_recipes_bundled.py makes every plan",
    r"zoo board": "shows a page until ctrl-C; test_board.py and test_browser.py have it",
    r"zoo runs --delete": "removes a run; test_run_commands.py does so",
    r"zoo recipes --table": "writes into the checkout; test_recipe_table.py does so elsewhere",
    r"--devices [24]": "starts processes of its own; slow, below",
    r"--num-nodes 2": "needs two machines; test_cluster.py plays both",
    r"http\(url=": "needs a reward server; test_reward_served.py has one",
    r"(gymnasium|verifiers|openenv)\(": "needs another library; test_environment_adaptors.py plays all three",
    r"--gguf": "needs llama.cpp's converter, which knows no tiny tokenizer; test_export.py has a stand-in",
    r"--push": "sends to the hub; test_export.py has a stand-in",
    r"zoo launch .*train|--workers": "starts processes of its own; test_workers.py does",
}
"""Commands of zoo that are only held to the command line, and why."""
OUTSIDE = {
    r"make ": "installs and tests this checkout; continuous integration does",
    r"pip install (-e )?'?\.(\[[\w-]+\])?'?( -c \S+)?$": "test_tutorial.py and test_third_party.py install packages",
    r"pip install .*(tensorboard|alpaca-eval|pytest)": "needs a network",
    r"python -m pytest tests/": "a test of this checkout",
    r"pytest$": "test_tutorial.py, test_new_plugin.py and test_third_party.py run the tests of packages",
    r"python benchmarks/": "takes an hour, and another environment with a program to compare with",
    r"python tools/mutations": "runs the tests a hundred times",
    r"python -m http.server": "serves the site until it is stopped",
    r"python tools/": "reads imports and classes; test_imports.py and test_docs.py do the same",
    r"python -m starter_set.build": "samples with the real model for 40 minutes",
    r"python -m nltk.downloader": "needs a network",
    r"python -m zoo$": "zoo under another name; test_startup.py starts it",
    r"python -m zoo.testing.chaos": "kills runs; test_chaos.py does",
    r"python -I -S": "how zoo starts Python itself",
    r"vllm serve": "needs vLLM and a GPU",
    r"sbatch ": "needs SLURM",
}
"""Commands of other programs: whether what they name exists is tested above, and this is why they are not run."""
SLOW = {
    r"zoo doctor": "imports everything; test_cli.py has it",
    r"--sweep": "trains every setting, and then compares; test_tuning.py does so",
    r"--name (agent|shown)|--data world:rooms|--lora --environment calculator": (
        "plays many episodes; test_episodes.py trains in environments"
    ),
    r"--tokens 63338|--tokens 32000|strong=dpo|--set dpo.beta=0.2|--out comparisons/(mine|tour)": (
        "trains several, as others of the page do"
    ),
    r"best_of_n\(reward=min": "draws 256 answers to each prompt, as the command above it does",
    r"labels=completions": "the world's base writes the labels",
    r"rows=4000, noise=0.25, seed=3": "draws 4,000 pairs; the next command of the page draws 1,000",
    r"--kl-coef 0.001|width=24|--name rater": "many answers of the gold world; the page's first commands are like it",
}
"""Commands that are run, but take long."""
REFUSED = {
    r"--near": ("datasketch", 'pip install "datasketch>=1.6"'),
    r"reasoning-gym": ("reasoning_gym", 'pip install "reasoning-gym>=0.1.20"'),
    r"lc_alpacaeval": ("alpaca_eval", "pip install --no-deps alpaca-eval"),
    r"ifeval\(": ("lm_eval", "pip install"),
    r"owner/name": ("a network", "cannot be reached and is not in the local cache"),
    r"vllm\(": ("a server", "No server answers at http://127.0.0.1:8000"),
    **({} if torch.cuda.is_available() else {r"--accelerator gpu": ("a GPU", "torch sees no GPU here")}),
}
"""Commands that need what a test has not: a package that may be missing, or another thing. They then end with status 2
and these words."""


def entry(table, command):
    """What the table says of a command."""
    return next((said for pattern, said in table.items() if re.search(pattern, str(command))), None)


def to_run():
    """The commands of zoo that are run: those in blocks on every page, the others where no block has them."""
    seen = {tuple(command.words) for command in OF_ZOO if command.place == "block"}
    for command in OF_ZOO:
        words = tuple(command.words)
        if not entry(NOT_RUN, command) and (command.place == "block" or words not in seen):
            seen.add(words)
            yield command


@pytest.mark.parametrize("table", [NOT_RUN, OUTSIDE, SLOW, REFUSED, FILLED])
def test_every_exception_still_has_its_command(table):
    shown = [str(command) for command in every_command()]
    pattern = re.escape if table is FILLED else str
    assert [key for key in table if not any(re.search(pattern(key), text) for text in shown)] == []


def shortened(arguments):
    """The arguments, with what SHORTER says of such a command."""
    if {"--help", "--list", "--dry-run"} & set(arguments):
        return arguments
    # Of the noise that the tiny model writes, few answers have a verdict.
    arguments = [word.replace("k=8)", "k=1)") for word in arguments]
    added = dict(SHORTER.get(arguments[0], {}))
    words = [word for word in arguments[1:2] if not word.startswith("-")]
    if arguments[0] == "compare" and (words and are_algorithms(words) or {"--algos", "--config"} & set(arguments)):
        arguments, added = without(arguments, "--tokens"), COMPARED
    if arguments[0] == "train" and named_algorithm(arguments).online():
        added |= ROLLOUTS
    if arguments[0] == "label" and "--teacher" in arguments:
        # So short answers are all cut.
        added |= {"--keep-cut": None}
    if "--stream" in arguments:
        added = {"--max-steps": 1} if arguments[0] == "train" else {}
    for flag, value in added.items():
        arguments = [*without(arguments, flag), flag, *([] if value is None else [str(value)])]
    return arguments


def named_algorithm(arguments):
    recipe = "--recipe" in arguments
    word = next((word for word in arguments[1:2] if not word.startswith("-")), None)
    named = arguments[arguments.index("--algo") + 1] if "--algo" in arguments else word
    name = named or ("ipo" if recipe else "sft")
    return registry.load_algorithm(name)[1]


def without(arguments, flag):
    """The arguments without a flag and its values."""
    places = [i for i, word in enumerate(arguments) if word == flag or i and arguments[i - 1] == flag]
    return [word for i, word in enumerate(arguments) if i not in places]


def judged(body, number):
    """What the server of the pages answers: a choice and a grade with their probabilities, or verdicts in words."""
    if "logprobs" not in body:
        return 200, completion('It is good: [[7]], {"criteria_met": true}')
    likeliest = {"1": 0.4, "2": 0.3, "3": 0.1, "A": 0.1, "Yes": 0.05, "No": 0.05}
    return 200, completion("1", tokens_of(["1"], [likeliest]))


def typed(command):
    """Run it as it is typed, with a server of the judges where it names one: status, and what the screen shows."""
    with serving(judged) if SERVER in command.text else nullcontext(("", [])) as (address, _):
        arguments = [word.replace(SERVER, address) for word in shortened(arguments_of(command))]
        status, written = on_terminal(*arguments, stdin="Hello\n", width=WIDTH)
    return status, "\n".join(screen_of(written, WIDTH))


WIDTH = 200
"""Columns of the terminal: enough for most sentences."""
RUN_TOGETHER = re.compile(r"([A-Za-z][\w ()]*) \d+/\d+.*\1 \d+/\d+|\b\d+/\d+[A-Za-z]")
"""Counters that stand behind each other."""


def marked(command):
    return pytest.param(command, marks=[pytest.mark.slow] if entry(SLOW, command) else [], id=str(command))


@pytest.mark.parametrize("command", map(marked, to_run()))
def test_it_does_what_the_page_says(command, here):
    needs, words = entry(REFUSED, command) or ("", "")
    refused = needs and (" " in needs or importlib.util.find_spec(needs) is None)
    status, shown = typed(command)
    assert not RUN_TOGETHER.search(shown), shown
    assert "Traceback (most recent call last)" not in shown, shown
    assert status == (2 if refused else 0), shown
    assert not refused or words in shown, shown


# -- in a process of its own, and exactly as it is typed ----------------------------------------------------------

PROCESSES = [command for command in OF_ZOO if "--devices 2" in command.text]
EXACT = {
    "README.md": r"zoo (data|train|chat|export) .*(pairs\.jsonl|answers\.jsonl|last)",
    "docs/laboratory.md": r"zoo train .*world:bandit|zoo train --algo dpo --data world:gold$|zoo (eval|chat) last",
    "docs/conformance.md": r"zoo check dpo$",
}
"""Commands that end in minutes as they stand, on the real default model where they name none."""


@pytest.mark.slow
@pytest.mark.parametrize("command", PROCESSES, ids=str)
def test_two_processes_start(command, here):
    words = [*shortened(arguments_of(command)), "--accelerator", "cpu"]
    launcher = command.words[1 : command.words.index("zoo") + 1] if command.words[0] == "torchrun" else []
    start = ["-m", "torch.distributed.run", *launcher] if launcher else ["-m", "zoo"]
    shown = run(sys.executable, *start, *words, cwd=here)
    assert "Training dpo" in shown and "Traceback" not in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [one for one in OF_ZOO if re.search(EXACT.get(one.page, "^$"), " ".join(one.words))], ids=str
)
def test_it_does_so_exactly_as_it_is_typed(command, folders, tmp_path):
    folder = folders("exactly", command.page)
    for name in re.findall(r"[\w-]+\.jsonl", command.text):
        write_file(command, name, folder)
    environment = {name: value for name, value in os.environ.items() if name != "ZOO_CACHE"}
    environment |= {"ZOO_CACHE": CACHE} if CACHE else {}
    words = [sys.executable, "-m", "zoo.cli.main", *arguments_of(command)]
    done = subprocess.run(words, cwd=folder, env=environment, input="Hello\n", capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
