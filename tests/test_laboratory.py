"""What the worlds share: a tokenizer of words, a tiny network from a seed, and a base that has read a world's texts."""

import math
import random

import pytest
import torch

from zoo.bundled.laboratory import networks, plugin
from zoo.bundled.laboratory.words import make_tokenizer
from zoo.bundled.laboratory.worlds import World, Worlds
from zoo.contract.registry import algorithms, contributions, load_algorithm, manager
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.evals.chosen import choose
from zoo.models.loading import load_model, load_tokenizer
from zoo.models.names import Source
from zoo.options.checks import names_in

WORDS = ("moon", "sun", "rises", "sets")


def rows(split, kind, rows: int = 4, seed: int = 0):
    return [{"prompt": "moon", "completion": "rises", "number": seed + k} for k in range(rows)]


def texts(seed):
    """A document is a fair choice and its certain consequence: log 2 nats over 3 tokens."""
    draw = random.Random(seed)
    return [draw.choice(["moon rises", "sun sets"]) for _ in range(200)]


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    return Worlds({"sky": World(WORDS, rows, texts, training={"steps": 60, "batch": 16})})


def test_a_text_is_its_words_between_start_and_end():
    template = ChatTemplate(make_tokenizer(WORDS))
    answer = template.answer("moon", "rises rises")
    decoded = template.tokenizer.convert_ids_to_tokens
    assert decoded(answer.prompt) == ["<start>", "moon"]
    assert decoded(answer.completion) == ["rises", "rises", "<end>"] and answer.mask.all()
    assert template.prompt_ids("moon") == answer.prompt.tolist()
    assert decoded(template.tokens.ids(["sun bird"])[0]) == ["<start>", "sun", "<unknown>"]


def test_a_line_break_is_a_word_where_a_world_has_it():
    tokenizer = make_tokenizer([*WORDS, "\n"], None)
    assert tokenizer.tokenize("moon rises\nsun  sets") == ["moon", "rises", "\n", "sun", "sets"]
    with pytest.raises(ValueError, match="differ"):
        make_tokenizer(["moon", "moon"])


def test_a_network_follows_from_its_seed_bit_for_bit_and_leaves_the_random_numbers_alone():
    tokenizer = make_tokenizer([str(number) for number in range(28)])
    before = torch.random.get_rng_state()
    one, same, other = (networks.make_network(tokenizer, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    weights = sum(value.numel() for name, value in one.items() if name != "lm_head.weight")
    assert 55_000 < weights < 65_000


def test_the_base_of_a_world_learns_its_texts_and_loads_like_any_model(worlds):
    said = []
    folder = worlds.base("sky(seed=1)", said.append)
    assert "on 200 texts" in said[0] and "step 60 of 60" in said[-1]
    source = Source("sky", folder)
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    ids = torch.tensor([tokenizer("moon rises")["input_ids"] + [tokenizer.eos_token_id]])
    assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(math.log(2) / 3, abs=0.05)


def test_a_base_is_made_once_and_anything_else_makes_another(worlds):
    first = worlds.base("sky(steps=2)", lambda text: None)
    kept = (first / "model.safetensors").read_bytes()
    assert worlds.base("sky(steps=2)", lambda text: pytest.fail("made again")) == first
    (first / "config.json").unlink()
    first.rename(first.with_name("moved"))
    assert (worlds.base("sky(steps=2)", lambda text: None) / "model.safetensors").read_bytes() == kept
    others = {
        worlds.base(text, lambda text: None) for text in ("sky(steps=3)", "sky(trained=false)", "sky(seed=1,steps=2)")
    }
    assert len(others) == 3 and first not in others


def test_what_is_no_world_or_no_option_of_it_is_told_with_what_was_meant(worlds):
    for wrong, told in (
        ("skye", r"No world is called 'skye'. Did you mean 'sky'\?"),
        ("", "There are several worlds"),
        ("sky(rose=3)", r"data world:sky has no option 'rose'. Did you mean 'rows'\?"),
        ("sky(rows=", "The world 'sky.rows=' cannot be read"),
    ):
        with pytest.raises(ZooError, match=told):
            worlds.rows("train", "demonstration", wrong)
    with pytest.raises(ZooError, match=r"model world:sky has no option 'sede'. Did you mean 'seed'\?"):
        worlds.base("sky(sede=1)", print)
    assert len(worlds.rows("train", "demonstration", "sky(rows=7)")) == 7


@pytest.mark.parametrize("name", sorted(plugin.worlds().worlds))
def test_every_bundled_world_has_an_untrained_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    folder = plugin.worlds().base(f"{name}(trained=false)", print)
    assert load_model(Source(name, folder), torch.float32).num_parameters() > 0


@pytest.mark.parametrize("world", plugin.worlds().worlds)
def test_evaluations_that_a_world_brings_are_there_for_every_algorithm(world):
    available = contributions(manager(), "evals")
    for entry in algorithms():
        cls = load_algorithm(entry.name)[1]
        score = plugin.worlds().defaults(world, cls).get("score")
        assert score is None or choose(names_in(score), available, cls.head), entry.name
