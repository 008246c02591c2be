"""A world: words, rows of every kind, and a base model trained on the world's texts.

`world:gold(rows=4000, noise=0.25, seed=3)` names a world's data and `world:gold(seed=3)` its base model. The options of
the data are the parameters of the world's function `rows`; the options of the base are the same for all worlds
(`Base`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bundled.laboratory.words import TURNS, make_tokenizer
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError, nearest
from zoo.options.spelling import bind, parse, spell

if TYPE_CHECKING:
    from zoo.bundled.laboratory.networks import Say

Rows = Iterable[dict[str, Any]]
EXAMPLE = "gold(rows=4000, noise=0.25, seed=3)"


@dataclass(frozen=True)
class World:
    """A world of a plugin.

    rows: function(split, kind, **options) -> rows; its parameters are the options, `seed` among them. Raises ZooError
    for a kind or a split that the world does not have.
    texts: function(seed) -> the documents that the base learns, always the same for a seed; None if there are none.
    network: arguments of `networks.make_network` for the base.
    training: arguments of `networks.train_base`: `steps`, `batch` and `lr`.
    defaults: function(algorithm) -> options of the core for this world, in addition to those of every world.
    """

    words: tuple[str, ...]
    rows: Callable[..., Rows]
    texts: Callable[[int], list[str]] | None = None
    chat_template: str | None = TURNS
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    defaults: Callable[[type[Algorithm]], Mapping[str, Any]] = lambda algorithm: {}


@dataclass(frozen=True)
class Base:
    """The options of a base model: `--model "world:gold(seed=3, steps=150)"`."""

    seed: int = 0
    """Seed of the weights and of the training texts."""
    trained: bool = True
    """Whether it is trained on the world's texts; if not, its weights are fresh."""
    steps: int | None = None
    """Training steps; fewer make a poorly trained base; by default as many as the world needs."""
    width: int | None = None
    """Width of its layers, 48 by default in most worlds."""
    layers: int | None = None
    """Number of layers, 2 by default in most worlds."""


class Worlds:
    """All worlds by name, as a source and as a model. Raises ZooError for unknown names and options."""

    def __init__(self, worlds: Mapping[str, World]):
        self.worlds = worlds

    def rows(self, split: str, kind: str, part: str = "") -> Rows:
        """Rows of `world:NAME(option=value)`."""
        name, world, options = self._find(part)
        return world.rows(split, kind, **bind(world.rows, options, f"data world:{name}", fixed=2))

    def defaults(self, part: str, algorithm: type[Algorithm]) -> dict[str, Any]:
        """Options of the core for a network of this size; the base has the seed of the data."""
        name, world, options = self._find(part)
        seed = {"seed": options["seed"]} if "seed" in options else {}
        shared: dict[str, Any] = {"model": spell(f"world:{name}", seed), "lr": 1e-3, "max_length": 64}
        # With so few weights a product takes less time than rounding its inputs, and padding takes less than masks.
        shared |= {"precision": "32-true", "micro_tokens": 8192, "layout": "padded"}
        if algorithm.online():
            # A separate critic costs next to nothing here.
            shared |= {"max_new_tokens": 20, "critic": "own"}
        return {**shared, **world.defaults(algorithm)}

    def asked(self, part: str) -> tuple[str, World, Base]:
        """The name, world and base options of the model `world:NAME(option=value)`."""
        name, world, options = self._find(part)
        return name, world, Base(**bind(Base, options, f"model world:{name}", fixed=0))

    def base(self, part: str, say: Say) -> Path:
        """The folder of the model `world:NAME(option=value)`, made on first use and stored in zoo's cache."""
        from zoo.bundled.laboratory import networks

        name, world, base = self.asked(part)
        training = {**world.training, **({} if base.steps is None else {"steps": base.steps})}
        size = {name: value for name in ("width", "layers") if (value := getattr(base, name)) is not None}
        network = {**world.network, **size}
        texts = world.texts(base.seed) if base.trained and world.texts else []
        tokenizer = make_tokenizer(world.words, world.chat_template)
        facts = {
            "seed": base.seed, "network": network, "training": training if texts else {}, "texts": texts,
            "words": world.words, "template": world.chat_template, "code": inspect.getsource(networks),
        }  # fmt: skip

        def make() -> tuple[Any, Any]:
            if not texts:
                return networks.make_network(tokenizer, seed=base.seed, **network), tokenizer
            say(f"Training world:{part} from scratch on {len(texts):,} texts (once; kept in zoo's cache).")
            return networks.train_base(tokenizer, texts, base.seed, say=say, **training, **network), tokenizer

        return networks.kept(name, facts, make)

    def _find(self, part: str) -> tuple[str, World, dict[str, str]]:
        names = ", ".join(f"world:{name}" for name in self.worlds)
        if not part:
            raise ZooError("There are several worlds.", f"Name one of them: {names}.")
        name, options = parse(part, "world", EXAMPLE)
        if name not in self.worlds:
            raise ZooError(f"No world is called '{name}'.{nearest(name, self.worlds)}", f"There are: {names}.")
        return name, self.worlds[name], options
