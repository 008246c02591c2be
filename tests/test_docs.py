"""The documents are held to the code: links lead somewhere, examples run, nothing is left out.

test_documented_commands.py has the commands.
"""

import importlib
import inspect
import json
import math
import re
import sys
import tomllib
from pathlib import Path

import algorithm_pages
import pytest
import torch
import yaml
from packages import forget_modules, put_on_path

import zoo
from zoo.contract import hookspecs, registry, roles
from zoo.environments.named import make_pool
from zoo.options.config import TO_COME, TrainConfig
from zoo.options.fields import options_of
from zoo.rewards.fences import DESCRIPTORS
from zoo.rewards.sandbox import Limits
from zoo.values.types import Answer, Answers

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
PAIRS = [
    ("Name a primary colour.", "Red.", "Brown, I think."),
    ("How many days has a week?", "Seven.", "Six."),
    ("Say hello in German.", "Guten Tag.", "Bonjour."),
    ("What is the capital of France?", "Paris.", "It may be Lyon."),
]


def text_of(page):
    """A page without what a program printed: that is pasted, not written."""
    return re.sub(r"<!-- \w+ output -->.*?<!-- end -->", "", PAGES[page].read_text(encoding="utf-8"), flags=re.S)


def blocks(page, language):
    """(name, content) of the fenced blocks of a language; the name stands in a comment above the block."""
    pattern = rf"(?:^<!-- ([\w.]+) -->\n)?^```{language}\n(.*?)^```$"
    return re.findall(pattern, text_of(page), flags=re.M | re.S)


def block(page, name):
    return next(content for found, content in blocks(page, r"\w+") if found == name)


@pytest.fixture
def workplace(tmp_path, monkeypatch, tiny_folder):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my-model").symlink_to(tiny_folder)
    simpo = block("README.md", "simpo.py")
    (tmp_path / "simpo.py").write_text(simpo)
    (tmp_path / "mine.py").write_text(block("docs/tutorial.md", "mine.py"))
    (tmp_path / "pyproject.toml").write_text(block("docs/tutorial.md", "pyproject.toml"))
    put_on_path(tmp_path, monkeypatch)
    yield tmp_path
    forget_modules(tmp_path)


@pytest.fixture
def from_file(monkeypatch):
    """Import a module that an example made, and forget it after the test."""
    names = ("simpo", "test_simpo", "capitals")
    # tests/ has a test_simpo too.
    before = {name: sys.modules.pop(name, None) for name in names}

    def load(folder, name):
        monkeypatch.syspath_prepend(str(folder))
        return importlib.import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)
        if before[name] is not None:
            sys.modules[name] = before[name]


# -- options, hooks, algorithms, folders -------------------------------------------------------------------------


def table_rows(page):
    """The cells of every table row of a page."""
    lines = re.findall(r"^\|(.+)\|$", text_of(page), flags=re.M)
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_the_contract_lists_the_names_that_are_kept_for_later():
    kept = re.search(r"kept for later\s+ones:([^.]*)\.", PAGES["docs/contract.md"].read_text(encoding="utf-8"))[1]
    assert re.findall(r"`(\w+)`", kept) == sorted(TO_COME)


def test_every_option_of_the_core_is_described_with_its_default():
    rows = [row for row in table_rows("docs/running.md") if len(row) == 3]
    described = {row[0].strip("`"): row[1] for row in rows if row[0].startswith("`--")}
    shown = {o.flag: "none" if o.default in (None, "") else str(o.default) for o in options_of(TrainConfig)}
    assert described == shown


def test_every_hook_is_described_with_its_exact_arguments():
    described = {row[0].strip("`") for row in table_rows("docs/contract.md")}
    hooks = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "zoo_spec")}
    assert len(hooks) >= len(hookspecs.ALGORITHM_HOOKS) + len(hookspecs.LISTENER_HOOKS) + 3
    for name, hook in hooks.items():
        assert f"{name}({', '.join(inspect.signature(hook).parameters)})" in described


def test_everything_that_a_plugin_may_import_is_described():
    from zoo import api

    text = text_of("docs/contract.md") + text_of("README.md")
    assert [name for name in api.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_the_table_of_algorithms_names_those_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bundled = set(project["entry-points"]["zoo.algorithms"]) - {registry.DEFAULT}
    table = text_of("README.md").partition("## Algorithms")[2].partition("\n## ")[0]
    named = re.findall(r"^\| \[`([\w-]+)`\]\(docs/algorithms/([\w-]+)\.md\) \|", table, flags=re.M)
    assert {name for name, _ in named} == bundled and all(name == page for name, page in named)


def test_the_pages_of_the_algorithms_say_what_the_classes_say_and_describe_every_variant():
    pages = algorithm_pages.pages()
    assert set(pages) == set(algorithm_pages.FOLDER.glob("*.md"))
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, "run: python tools/algorithm_pages.py --write"
    for name, cls in algorithm_pages.bundled().items():
        text = pages[algorithm_pages.FOLDER / f"{name}.md"]
        assert [variant for variant in cls.variants if f"\n### {variant}\n" not in text] == []


def test_the_tree_names_every_folder_and_no_other():
    tree = text_of("README.md").partition("## What is where")[2]
    lines = re.findall(r"^( *)(\w+)/  +\S", tree, flags=re.M)
    top = {name for indent, name in lines if not indent}
    core = {name for indent, name in lines if indent}
    assert all((ROOT / name).is_dir() for name in top)
    assert core == {path.parent.name for path in (ROOT / "zoo").glob("*/__init__.py")}


# -- links -------------------------------------------------------------------------------------------------------


def anchors(path):
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ +(.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def leads_nowhere(page, target):
    """Whether a link of a page names a file or a heading that there is not."""
    if re.match(r"https?:", target):
        return False
    name, _, anchor = target.partition("#")
    path = PAGES[page].parent / name if name else PAGES[page]
    return not path.exists() or (anchor and anchor not in anchors(path))


def test_every_link_inside_the_repository_leads_somewhere():
    prose = {page: re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S) for page in PAGES}
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", prose[page])]
    assert [f"{page}: {target}" for page, target in links if leads_nowhere(page, target)] == []


def test_every_path_in_a_code_span_exists():
    spans = [(page, span) for page in PAGES for span in re.findall(r"(?<!`)`([\w./-]+)`(?!`)", text_of(page))]
    paths = [(page, span) for page, span in spans if re.match(r"(zoo|plugins|tests|docs|benchmarks)/", span)]
    assert [f"{page}: {path}" for page, path in paths if "simpo" not in path and not (ROOT / path).exists()] == []


def test_no_page_shows_a_path_of_somebodys_machine():
    own = re.compile(r"(?<![\w.:/~])/(?:home|work|tmp|root|Users|mnt)/.*")
    texts = {page: path.read_text(encoding="utf-8") for page, path in PAGES.items()}
    assert [f"{page}: {path}" for page, text in texts.items() for path in own.findall(text)] == []


# -- examples ----------------------------------------------------------------------------------------------------

FAST = {"model": "my-model", "batch_size": 2, "max_steps": 2, "precision": "32-true", "accelerator": "cpu"}


def test_every_python_example_is_valid():
    examples = [(f"{page}[{i}]", text) for page in PAGES for i, (_, text) in enumerate(blocks(page, "python"))]
    invalid = []
    for name, text in examples:
        try:
            compile(text, name, "exec")
        except SyntaxError as error:
            invalid.append(f"{name}: {error}")
    assert invalid == []


def test_the_algorithm_of_the_readme_trains_from_its_file(workplace):
    run = zoo.train("./simpo.py:SimPO", data="pairs.jsonl", gamma=0.5, quiet=True, **FAST)
    steps = [row for row in run.log_history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert run.config["gamma"] == 0.5 and run.config["algo"] == "./simpo.py:SimPO"
    # −log σ(z) is convex, so the mean loss is at least that of the mean margin.
    assert all(row["loss"] >= math.log1p(math.exp(0.5 - row["margin"])) - 1e-5 for row in steps)
    assert all(row["accuracy"] in (0, 0.5, 1) for row in steps)


def test_the_formula_test_of_the_contract_passes(workplace, from_file):
    (workplace / "test_simpo.py").write_text(block("docs/contract.md", "test_simpo.py"))
    module = from_file(workplace, "test_simpo")
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_python_example_of_the_readme_runs(workplace, monkeypatch, capsys):
    made = zoo.train

    def small(**options):
        return made(**{"batch_size": 2, "quiet": True, **options})

    monkeypatch.setattr(zoo, "train", small, raising=False)
    names = {}
    exec(compile(block("README.md", "train.py"), "train.py", "exec"), names)
    run, model = names["run"], names["model"]
    assert run.status == "finished" and run.config["beta"] == 0.2
    loss, place = capsys.readouterr().out.split()
    assert float(loss) == run.log_history[-1]["loss"] and place == str(run.model_path)
    assert model.num_parameters() > 0 and names["tokenizer"].eos_token == "<|im_end|>"


@pytest.fixture
def capitals(workplace, from_file):
    """The example plugin, installed as a package of its own."""
    site = workplace / "site"
    info = site / "zoo_capitals-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-capitals\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo.plugins]\ncapitals = capitals\n")
    (site / "capitals.py").write_text(block("docs/contract.md", "capitals.py"))
    registry.plugin_modules.cache_clear()
    yield from_file(site, "capitals")
    registry.plugin_modules.cache_clear()


def test_the_plugin_of_the_contract_gives_data_a_score_and_a_diary(capitals, workplace):
    run = zoo.train("sft", data="capitals", score="capitals", quiet=True, **FAST)
    assert run.summary["scores"]["after"]["capitals"]["n"] == 2
    assert "val/loss" in run.log_history[0], "the held-out countries are validated on"
    assert (workplace / "runs" / "diary.txt").read_text().startswith(f"{run.name}: loss ")


def test_the_reward_of_the_contract_leaves_out_what_it_cannot_score(capitals):
    plugins = registry.manager()
    reward = registry.contributions(plugins, "rewards")["capitals"]
    records = [{"city": "Oslo"}, {"city": "Oslo"}, {}]
    assert reward(["It is Oslo.", "Rome", "Rome"], records) == [1.0, 0.0, None]


def test_everything_that_a_role_or_an_answer_has_is_described():
    text = text_of("docs/contract.md")
    interfaces = (roles.Writer, roles.Policy, roles.Critic, roles.Judge, roles.Models, Answer, Answers)
    names = {name for one in interfaces for name in (*vars(one), *one.__annotations__) if not name.startswith("_")}
    names |= {name for name in inspect.signature(roles.Reward.__call__).parameters if name not in ("self", "answers")}
    assert len(names) > 25
    moves = {"to", "select", "prompts", "name"}
    assert [name for name in sorted(names - moves) if not re.search(rf"[.`]{name}\b|\b{name}=", text)] == []


def test_a_turn_with_the_result_of_a_tool_learns_the_turn_alone():
    names = {}
    exec(next(content for _, content in blocks("docs/contract.md", "python") if "def with_result" in content), names)
    answers = Answers([names["with_result"]([1, 2], [3, 4], torch.tensor([-0.5, -1.0]), [5, 6, 7])])
    assert answers.lengths.tolist() == [2] and answers.behaviour.tolist() == [[-0.5, -1.0, 0.0, 0.0, 0.0]]


def test_the_environments_of_the_contract_answer(workplace):
    (workplace / "dice.py").write_text(block("docs/contract.md", "dice.py"))

    def answered(name, *turns):
        pool = make_pool(f"./dice.py:{name}", {}, 60.0)
        episode = pool.start({}, seed=3)
        given = [episode.receive()]
        for turn in turns:
            episode.step({"role": "assistant", "content": turn} if isinstance(turn, str) else turn)
            given.append(episode.receive())
        pool.close()
        return given[1:]

    call = {"type": "function", "function": {"name": "roll", "arguments": {"dice": 2}}}
    rolled, _ = answered("Dice", {"role": "assistant", "content": "", "tool_calls": [call]}, "13")
    (result,) = rolled.messages
    (first, last) = answered("Dice", {"role": "assistant", "content": "", "tool_calls": [call]}, result["content"])
    assert first == rolled and (last.done, last.reward) == (True, 1.0)
    low, high, *_, last = answered("Guess", "0", "101", *["dear"] * 8)
    said = [turn.messages[0]["content"] for turn in (low, high)]
    assert said == ["My number is higher.", "My number is lower."] and (last.done, last.reward) == (True, 0.0)


ALGORITHMS = ["Centred", "Adaptive", "Ranker", "Anchored", "AgainstItself"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_short_algorithms_of_the_contract_train(name, workplace):
    source = next(content for _, content in blocks("docs/contract.md", "python") if f"class {name}(" in content)
    (workplace / "short.py").write_text(source)
    run = zoo.train("./short.py", data="pairs.jsonl", quiet=True, **FAST)
    assert run.status == "finished" and len([row for row in run.log_history if "loss" in row]) == 2


def test_what_is_measured_reaches_the_loss(workplace):
    source = next(content for _, content in blocks("docs/contract.md", "python") if "class Centred(" in content)
    (workplace / "short.py").write_text(source)
    run = zoo.train("./short.py", data="pairs.jsonl", quiet=True, **{**FAST, "micro_tokens": 1})
    assert run.log_history[-1]["advantage"] == pytest.approx(0, abs=1e-5), "the average is that of the whole step"


COUNTING = """
from zoo.api import Algorithm, Loss


class Counting(Algorithm):
    api_version = 2
    data = "demonstration"

    def measure(self, batch):
        return {"examples": len(batch)}

    def loss(self, batch, models):
        logps = models.policy.logps(batch.completion).mean()
        return Loss.per_example(-logps, {"examples": batch.measured["examples"].expand(len(batch))})
"""


def test_a_number_that_is_measured_is_added_up_over_the_step(workplace):
    (workplace / "counting.py").write_text(COUNTING)
    run = zoo.train("./counting.py", data="pairs.jsonl", quiet=True, **{**FAST, "micro_tokens": 1})
    assert [row["examples"] for row in run.log_history if "loss" in row] == [FAST["batch_size"]] * 2


def test_the_options_of_the_contract_become_flags_and_messages():
    from zoo.contract.algorithm import Algorithm
    from zoo.errors import ZooError
    from zoo.options.config import resolve

    names = {}
    exec(next(content for _, content in blocks("docs/contract.md", "python") if "class Config:" in content), names)
    cls = type("Example", (Algorithm,), {"data": "preference", "Config": names["Config"]})
    assert resolve("example", cls, [("command line", {"beta": "0.3", "loss": "hinge"})]).algorithm.loss == "hinge"
    with pytest.raises(ZooError, match="beta must be above 0"):
        resolve("example", cls, [("command line", {"beta": "-1"})])


def test_the_wrapper_of_the_contract_adds_its_metric(workplace, monkeypatch):
    source = next(content for _, content in blocks("docs/contract.md", "python") if "wrapper=True" in content)
    module = type(sys)("late")
    exec(source, vars(module))
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((("late", module),), ()))
    run = zoo.train("./simpo.py:SimPO", data="pairs.jsonl", quiet=True, **FAST)
    assert run.log_history[-1]["late"] == 0.0


def test_the_licence_is_the_one_that_the_package_names():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (zoo.__version__, "Apache-2.0")


def test_the_limits_of_model_written_programs_are_those_of_the_page():
    limits, page = Limits(), text_of("SECURITY.md")
    assert f"| {limits.seconds:g} s for all tests" in page and f"| {limits.memory >> 20} MiB of address space" in page
    assert f"{limits.disk >> 20} MiB in all, {DESCRIPTORS} open at a time" in page
    rewards = text_of("docs/rewards.md")
    assert f"folder in memory of {limits.disk >> 20} MiB" in rewards and f"{DESCRIPTORS} open files" in rewards


def test_the_changelog_has_the_version_of_the_package_and_a_place_for_plugins():
    text = text_of("CHANGELOG.md")
    first, *released = re.findall(r"(?m)^## \[(.+?)\]", text)
    assert first == "Unreleased" and "### Plugin API" in text
    # Before the first release no version stands there.
    assert not released or released[0] == zoo.__version__


# -- decisions ---------------------------------------------------------------------------------------------------

DECISIONS = "docs/decisions/README.md"


def test_the_index_of_decisions_has_each_page_with_its_title():
    indexed = [f"{row[0]} {row[1]}" for row in table_rows(DECISIONS) if row[0].startswith("[")]
    titles = {name: text_of(name).splitlines()[0] for name in sorted(PAGES) if re.match(r"docs/decisions/\d", name)}
    links = [re.sub(r".*/((\d+)-.*)", r"[\2](\1)", name) for name in titles]
    assert indexed == [f"{link} {title[8:]}" for link, title in zip(links, titles.values(), strict=True)]
    assert [title[:8] for title in titles.values()] == [f"# {number:04}: " for number in range(1, len(titles) + 1)]


def test_every_decision_has_its_four_parts():
    parts = ["Context", "Decision", "Consequences", "Alternatives"]
    pages = [name for name in PAGES if re.match(r"docs/decisions/\d", name)]
    assert {name: re.findall(r"^## (.+)$", text_of(name), flags=re.M) for name in pages} == dict.fromkeys(pages, parts)
