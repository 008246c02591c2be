"""Whether what a command names exists: algorithms, data, evaluations, rewards, recipes, files. Not a test file itself.

Each check gets the values of one command as the command line read them, and raises ZooError or AssertionError.
"""

import re
import tomllib
from functools import cache

from documented import ROOT
from documented_folder import ROWS, RUNS

from zoo.bundled.laboratory import plugin
from zoo.cli.compare import are_algorithms
from zoo.comparison.entrants import read_settings
from zoo.contract import registry
from zoo.contract.algorithm import DATA_KINDS
from zoo.data.curation.rules import chosen_rules
from zoo.data.sources.mixture import read_mixture
from zoo.data.sources.named import parts_of
from zoo.environments.named import check_environment
from zoo.evals.chosen import choose
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES
from zoo.options.checks import names_in
from zoo.options.config import TrainConfig
from zoo.options.expression import Expression
from zoo.options.fields import options_of
from zoo.options.roles import ROLES
from zoo.options.spelling import bind, seeds
from zoo.options.spelling import parse as spelled
from zoo.recipes.find import SIZES, one_size
from zoo.recipes.load import load_recipe
from zoo.recipes.single import find_stage
from zoo.recipes.structure import unknown_stage
from zoo.rewards.functions import options_for, parameters_of
from zoo.rewards.judge_options import JUDGED, judged_options
from zoo.rewards.plugin import bundled
from zoo.testing.declared import find_check
from zoo.testing.guards import find_guard
from zoo.testing.optimizers import find_optimizer
from zoo.testing.schedules import find_schedule
from zoo.testing.suite import NAMES
from zoo.training.run import resolve_options

MADE = {"checked", "clean", "good", "harmless", "labelled", "mine", "unique", "deduplicated", "taught"}
"""Files that commands of the pages write, or that a page shows in whole."""
FILES = {*ROWS, *MADE}
MODELS = {
    "smollm2-135m",
    "my-model",
    "last",
    "self",
    "rater",
    "shown",
    "agent",
    "rm-a",
    "rm-b",
    "rm-sft-smollm2-135m-1-1",
    "prm-smollm2-135m-1",
    *RUNS,
}
OTHERS = {"sums", "capitals", "my-folder", "owner/name", "reasoning-gym", "./mine.py"}
"""Sources of the packages and the hub that pages show."""
COMMON = {option.name for option in options_of(TrainConfig)}


@cache
def contributed(sort):
    return registry.contributions(registry.manager(), sort)


def check_mixture(text):
    """Every part of a mixture is a source."""
    for part in read_mixture(text, contributed("sources")):
        check_source(part.source)


def check_source(text):
    """A named source has the part with its options; a file is one that a page can have."""
    name, part = parts_of(text)
    if name == "world":
        _, world, options = plugin.worlds()._find(part)
        bind(world.rows, options, text, fixed=2)
    elif re.search(r"\.(jsonl|json|parquet|csv)$", text):
        assert text.split(".")[0] in (*FILES, "shards/*"), f"no page has a file {text}"
    else:
        assert name in {*contributed("sources"), *OTHERS}, f"no source is called {name}"


def check_model(text):
    name, part = parts_of(text)
    if name == "world":
        plugin.worlds().asked(part)
    elif not text.startswith("https://"):
        # What follows @ is one of its checkpoints.
        assert text.removeprefix("runs/").partition("@")[0] in MODELS, f"no page has a model or run {text}"


def check_reward(text):
    expression = Expression(text)
    named = {**bundled(), **contributed("rewards")}
    for mention in expression.mentions:
        if mention.name in named:
            options_for(mention, parameters_of(named[mention.name]), expression, {})
        elif mention.name in JUDGED:
            check_model(judged_options(mention, expression).model)
        elif ":" not in mention.name:
            check_model(mention.name)


def check_evals(texts):
    known = {**contributed("evals"), "capitals": contributed("evals")["instructions"]}
    for one in choose(texts, known):
        for name, check in (("data", check_source), ("reward", check_reward), ("gold", check_reward)):
            if one.options.get(name):
                check(str(one.options[name]))


OWN = ("algo", "algorithm", "config", "recipe", "stage", "laptop", "small", "gpu", "dry_run", "elsewhere", "as_json",
       "resume", "log_format")  # fmt: skip
"""What `zoo train` takes besides the options of a run."""


def size_in(values):
    return one_size({size: bool(values.get(size)) for size in SIZES}) or "full"


def check_train(values):
    algo, recipe = values["algorithm"] or values["algo"], values["recipe"]
    if recipe is not None:
        algo = find_stage(recipe, values["stage"], size_in(values))[2].algo
    given = {name: value for name, value in values.items() if name not in OWN}
    core = resolve_options(algo, values["config"], given, "command line")[0].core
    for source in filter(None, (core.data, core.eval_data, core.decay_data)):
        check_mixture(source)
    for reward in filter(None, (core.reward, core.gold_reward)):
        check_reward(reward)
    for model in filter(None, (core.model, core.reference, core.critic_model, core.judge)):
        check_model(model)
    for model in ROLES["teacher"].models(core.teacher).values() if core.teacher else ():
        check_model(model)
    if core.score not in ("auto", "none", ""):
        check_evals(names_in(core.score))
    for kind in (OPTIMIZERS, SCHEDULES):
        kind.choose(getattr(core, kind.what), kind.available(contributed(f"{kind.what}s")))
    name, options = spelled(core.engine, "engine")
    assert name in contributed("engines")
    bind(contributed("engines")[name], options, f"engine {name}", fixed=0)


def check_eval(values):
    check_model(values["model"])
    check_evals(values["evals"] or [])
    for reward in values["reward"] or []:
        check_reward(reward)
    if values["data"]:
        check_source(values["data"])


def check_data(values):
    check_mixture(values["source"])
    if values["wanted"] not in (None, *DATA_KINDS):
        registry.load_algorithm(values["wanted"])


def check_curation(values):
    chosen_rules(values.get("rules", "chat"))
    for source in filter(None, (values["source"], *values.get("evaluation", ()))):
        check_source(source)


def check_label(values):
    check_source(values["data"])
    for model in filter(None, (values["model"], values["judge"])):
        check_model(model)
    assert values["kind"] in (None, *DATA_KINDS)
    assert values["constitution"] in (None, "default", "mine.yaml")


def check_compare(values):
    if values["runs"] and are_algorithms(values["runs"]):
        values |= {"algos": ",".join(values["runs"]), "runs": None}
    if not values["runs"]:
        given = {key: values.pop(key) for key in ("algos", "seeds", "config", "sets")}
        common = {key: value for key, value in values.items() if key in COMMON}
        settings = read_settings(given["algos"], given["seeds"], given["config"], given["sets"] or [], common)
        for entrant in settings.entrants:
            settings.resolve(entrant)
    for run in values["runs"] or []:
        check_model(run)


def check_recipe(values):
    name = values.get("recipe") or values.get("name")
    if name and not name.endswith(".yaml"):
        variant = load_recipe(name).variant(size_in(values))
        assert not (values.get("only") and unknown_stage(variant, values["only"]))
    if values.get("seeds"):
        seeds(values["seeds"])


def check_suite(values):
    if values["environment"]:
        if not values["environment"].startswith("./"):
            check_environment(values["environment"], contributed("environments"))
        return
    if any(find(values["name"]) is not None for find in (find_guard, find_optimizer, find_schedule)):
        return
    registry.load_algorithm(values["name"])
    for one in values["only"] or ():
        find_check(one, NAMES)


def check_script(words):
    """`python file.py --flag value` of the repository: the file is there, and has the flags and their values."""
    if words[1] == "-I" or words[1:3] in (["-m", "pytest"], ["-m", "http.server"], ["-m", "nltk.downloader"]):
        return  # how rewards start Python: no command for a reader; and no scripts of the repository
    file = ROOT / words[1]
    if words[1] == "-m":
        places = (ROOT / folder / words[2].replace(".", "/") for folder in (".", "tools"))
        module = next(place for place in places if place.parent.is_dir())
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    source = file.read_text(encoding="utf-8")
    for flag in (word for word in words if word.startswith("--")):
        either = f'"{flag.replace("--no-", "--", 1)}", action=argparse.BooleanOptionalAction'
        assert f'"{flag}"' in source or either in source, f"{file} has no flag {flag}"
    for flag, value in zip(words, words[1:], strict=False):
        assert flag != "--scenario" or f'"{value}"' in source, f"{file} has no scenario {value}"


def check_make(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert words[words.index("make") + 1] in targets


def check_pip(words):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = words[words.index("-c") - 1] if "-c" in words else words[-1]
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).is_file()
    name, _, extra = wanted.rstrip("]").partition("[")
    assert name in (".", project["name"], "alpaca-eval", "pytest")
    assert not extra or extra in project["optional-dependencies"], f"there is no extra {extra}"


def check_package(values):
    assert values["data"] in DATA_KINDS


CHECKS = {
    "train": check_train, "eval": check_eval, "data": check_data, "data dedup": check_curation,
    "data filter": check_curation, "data contamination": check_curation, "label": check_label,
    "compare": check_compare, "recipes": check_recipe, "reproduce": check_recipe, "check": check_suite,
    "chat": lambda values: [check_model(name) for name in (values["model"], values["versus"]) if name],
    "new-plugin": check_package,
    "algos": lambda values: values["name"] and registry.load_algorithm(values["name"]),
}  # fmt: skip
