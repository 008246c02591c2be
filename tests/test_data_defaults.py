"""What a source brings besides rows: options that fit the data, and models by name."""

import io
import json
import types

import pytest
from tiny_runs import cli

from zoo.api import DataSource, hookimpl
from zoo.cli.train import show
from zoo.contract import registry
from zoo.data.sources import open_source
from zoo.data.sources.mixture import data_defaults
from zoo.data.sources.named import parts_of
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.evals import subject
from zoo.labelling import job as labelling
from zoo.models.names import resolve_model
from zoo.terminal import Console
from zoo.testing.tiny import write_folder
from zoo.training.run import resolve_options


def brought(part, algorithm):
    return {"lr": 0.125, "max_length": 32, "score": f"seen-{algorithm.head}", **({"reward": part} if part else {})}


def rows(split, kind, part=""):
    return [{"prompt": f"{part} {k}", "completion": kind} for k in range(3)]


@pytest.fixture
def shop(monkeypatch, tmp_path):
    """A plugin with a source that brings options, and a model that it makes once."""
    made = []

    def tiny(part, say):
        say(f"making {part}")
        made.append(part)
        return write_folder(tmp_path / "made")

    plugin = types.ModuleType("shop")
    plugin.sources = hookimpl(lambda: {"shop": DataSource(rows, brought), "stall": DataSource(rows)})
    plugin.models = hookimpl(lambda: {"shop": tiny})
    for name in ("sources", "models"):
        getattr(plugin, name).__name__ = name
    loaded, broken = registry.plugin_modules()
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*loaded, ("shop", plugin)), broken))
    return made


def options(**given):
    return resolve_options("sft", None, given, "command line")[0]


def test_they_stand_above_the_algorithm_and_below_what_is_typed(shop, tmp_path):
    found = options(data="shop:corner", max_length=48)
    assert (found.core.lr, found.origin["lr"]) == (0.125, "data shop:corner")
    assert (found.core.max_length, found.origin["max_length"]) == (48, "command line")
    assert (found.core.reward, found.core.epochs) == ("corner", 2) and found.origin["epochs"] == "default of sft"
    file = tmp_path / "own.yaml"
    file.write_text("data: shop\nlr: 0.5\n")
    from_file = resolve_options("sft", file, {}, "command line")[0]
    assert (from_file.core.lr, from_file.origin["lr"], from_file.core.max_length) == (0.5, str(file), 32)


def test_auto_means_the_evaluation_that_the_data_brings(shop):
    assert options(data="shop", score="auto").core.score == "seen-lm"
    assert options(data="shop", score="none").core.score == "none"
    assert options(data="stall").core.score == options(data="rows.jsonl").core.score == "auto"


def test_the_starter_set_brings_its_reward_to_who_learns_from_answers_and_its_evaluation_to_all():
    assert data_defaults("starter@heldout", registry.load_algorithm("grpo")[1]) == {
        "score": "instructions", "reward": "instructions",
    }  # fmt: skip
    assert data_defaults("starter", registry.load_algorithm("rm")[1]) == {"score": "pair_accuracy"}
    found = options()
    assert found.core.score == "instructions" and found.origin["score"] == "data starter" and found.core.reward is None


def test_a_dry_run_shows_where_they_came_from(shop):
    table = io.StringIO()
    show(options(data="shop:corner"), Console(file=table, width=120))
    assert ["lr", "0.125", "data", "shop:corner"] in [line.split() for line in table.getvalue().splitlines()]


def test_an_option_that_does_not_exist_names_the_source(shop, monkeypatch):
    source = DataSource(rows, lambda part, algorithm: {"max_lenght": 3})
    plugins, broken = registry.plugin_modules()
    other = types.ModuleType("other")
    other.sources = hookimpl(lambda: {"other": source})
    other.sources.__name__ = "sources"
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*plugins, ("other", other)), broken))
    with pytest.raises(ZooError, match=r"'max_lenght' \(data other\).*Did you mean 'max_length'"):
        options(data="other")


@pytest.mark.parametrize(
    "text, found",
    [
        ("shop", ("shop", "")),
        ("shop:corner(a=1)", ("shop", "corner(a=1)")),
        ("shop:corner(a=1)@heldout", ("shop", "corner(a=1)")),
        ("owner/name:config@test", ("owner/name", "config")),
    ],
)
def test_a_source_is_its_name_its_part_and_a_split(text, found):
    assert parts_of(text) == found


def test_rows_come_from_it_as_from_a_function():
    opened = open_source(
        "shop:corner@heldout", "demonstration", Reading(named_sources={"shop": DataSource(rows, brought)})
    )
    assert [line.row["prompt"] for line in opened.rows] == ["corner 0", "corner 1", "corner 2"]
    assert opened.split == "heldout"


def test_a_model_is_made_by_the_plugin_that_brings_it(shop):
    said = []
    source = resolve_model("shop:big(seed=3)", said.append)
    assert shop == ["big(seed=3)"] and said == ["making big(seed=3)"]
    assert source.name == "shop:big(seed=3)" and source.short_name == "shop-big-seed-3"
    assert json.loads((source.folder / "config.json").read_text())["model_type"] == "llama"


def test_a_slip_in_the_name_of_a_model_names_the_one_that_was_meant(shop, tmp_path, monkeypatch):
    from zoo.models.start import resolve_start

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ZooError, match=r"Did you mean 'shop'\?"):
        resolve_start("shopp", str(tmp_path), print)


def test_rows_are_shown_in_the_tokens_of_the_model_that_the_source_brings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = cli("data", "world:bandit", "--for", "dpo", "--examples", "1")
    assert status == 0 and "prompt, 2 tokens\n<start> choose" in out
    status, out, _ = cli("data", "world:bandit", "--for", "dpo", "--model", str(write_folder(tmp_path / "tiny")))
    assert status == 0 and "<|im_start|>user" in out


@pytest.mark.parametrize(
    "arguments", [("label", "world:bandit", "--kind", "preference"), ("data", "filter", "world:bandit", "--kind",
                  "preference", "--rules", "perplexity(keep=0.9)", "--dry-run")],
)  # fmt: skip
def test_whoever_reads_a_source_with_a_model_takes_the_one_that_it_brings(arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(name, *rest, **options):
        asked.append(name)
        raise ZooError("far enough")

    for module in (labelling, subject):
        monkeypatch.setattr(module, "load_subject", load)
    assert cli(*arguments)[0] == 2 and cli(*arguments, "--model", "world:gold")[0] == 2
    assert asked == ["world:bandit", "world:gold"]
