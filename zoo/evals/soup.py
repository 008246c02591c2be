"""Model soups: one model whose weights are the mean of those of several, which began with the same weights.

Wortsman et al., "Model soups" (arXiv:2203.05482): the uniform soup is the mean of all; the greedy soup takes the models
in the order of their held-out scores and keeps each that does not lower the score of the mean so far (their recipe 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.options.spelling import split
from zoo.paths import cache_folder, content_hash

Say = Callable[[str], None]
GREEDY = " of "
"""Between an evaluation and the models of a greedy soup: `soup:instructions of runs/a,runs/b`."""


@dataclass(frozen=True)
class Ingredient:
    """A model, whether it is in the soup, and its held-out score (None for a uniform soup)."""

    name: str
    taken: bool
    score: float | None = None


class Soup:
    """Models by their names, and their mean. out: the folder of the runs. Raises ZooError for models that do not mix.

    Adapters are merged into the weights they were trained on: the mean of products is not the product of means.
    """

    def __init__(self, names: Sequence[str], out: str, say: Say):
        from zoo.models.loading import head_of, load_tokenizer
        from zoo.models.start import resolve_start

        if len(names) < 2:
            raise ZooError("A soup needs two models or more.", "Name several runs: zoo soup runs/a runs/b --to FOLDER")
        self.names, self.out, self.say = list(names), out, say
        self.sources = [resolve_start(name, out, say) for name in names]
        first = load_tokenizer(self.sources[0]).get_vocab()
        for name, source in zip(names, self.sources, strict=True):
            if head_of(source) != head_of(self.sources[0]):
                raise ZooError(
                    f"{name} and {names[0]} are models of two kinds.", "Mix language models, or reward models."
                )
            if load_tokenizer(source).get_vocab() != first:
                raise ZooError(f"{name} has other tokens than {names[0]}.", "Mix models that began as the same model.")

    def uniform(self) -> tuple[Any, list[Ingredient]]:
        """The mean of all."""
        model, weights = self._first(0)
        for number in range(1, len(self.sources)):
            weights.add(self._weights(number))
        weights.fill(model)
        return model, [Ingredient(name, True) for name in self.names]

    def greedy(self, score: Callable[[Any], Any]) -> tuple[Any, list[Ingredient]]:
        """The mean of those that do not lower its score. score: called with a model, gives a `Score`."""
        alone = [score(self._load(number)) for number in range(len(self.sources))]
        better = 1 if alone[0].higher_is_better else -1
        order = sorted(range(len(alone)), key=lambda number: -better * alone[number].value)
        for number in order:
            self.say(f"{self.names[number]}: {alone[number].text()}")
        model, weights = self._first(order[0])
        best, taken = alone[order[0]], {order[0]}
        for number in order[1:]:
            more = self._weights(number)
            weights.add(more)
            weights.fill(model)
            found = score(model)
            if better * (found.value - best.value) >= 0:
                best, taken = found, {*taken, number}
                self.say(f"with {self.names[number]}: {found.text()}")
            else:
                weights.add(more, -1)
                self.say(f"without {self.names[number]}, which makes it {found.text()}")
        weights.fill(model)
        return model, [Ingredient(self.names[n], n in taken, alone[n].value) for n in order]

    def write(self, model: Any, folder: Path, taken: Collection[str] | None = None) -> None:
        """Write a folder that every program reads, with the tokenizer of the first model. taken: None for all."""
        from zoo.libraries.architecture import ending_ids
        from zoo.models.card import base_of, write_card
        from zoo.models.loading import load_template
        from zoo.models.start import export_model

        template = load_template(self.sources[0], eos_ids=ending_ids(model))
        export_model(model, template.trained_tokenizer(), folder, template.ends)
        named = zip(self.names, self.sources, strict=True)
        bases = [base_of(source) for name, source in named if taken is None or name in taken]
        write_card(
            folder,
            bases,
            how="Its weights are the mean of theirs ([arXiv:2203.05482](https://arxiv.org/abs/2203.05482)).",
        )

    # -- weights ---------------------------------------------------------------------------------------------------

    def _load(self, number: int) -> Any:
        import torch

        from zoo.libraries.adapters import merged
        from zoo.models.loading import load_model

        return merged(load_model(self.sources[number], torch.float32)).eval()

    def _first(self, number: int) -> tuple[Any, Sums]:
        model = self._load(number)
        return model, Sums(model.state_dict(), self.names[number])

    def _weights(self, number: int) -> tuple[str, dict[str, Any]]:
        return self.names[number], self._load(number).state_dict()


class Sums:
    """The sums of the weights of some models."""

    def __init__(self, weights: dict[str, Any], name: str):
        self.sums = {key: value.clone() for key, value in weights.items()}
        self.name, self.count = name, 1

    def add(self, more: tuple[str, dict[str, Any]], sign: int = 1) -> None:
        """Add a model's weights, or take them away again. Raises ZooError for a model of another shape."""
        name, weights = more
        other = {key: tuple(value.shape) for key, value in weights.items()}
        if other != (own := {key: tuple(value.shape) for key, value in self.sums.items()}):
            keys = [key for key in {**own, **other} if own.get(key) != other.get(key)]
            raise ZooError(
                f"{name} and {self.name} are models of two shapes: they differ in {keys[0]}.",
                "Mix models that began as the same model.",
            )
        for key, value in weights.items():
            if value.is_floating_point():
                self.sums[key].add_(value, alpha=sign)
        self.count += sign

    def fill(self, model: Any) -> None:
        """Give a model the means."""
        model.load_state_dict({
            key: value / self.count if value.is_floating_point() else value for key, value in self.sums.items()
        })  # fmt: skip


class NamedSoups:
    """`soup:a,b,c`, and `soup:EVALUATION of a,b,c` for the greedy one: made once, and kept in zoo's cache."""

    def __call__(self, part: str, say: Any) -> Path:
        evaluation, names = self._read(part)
        soup = Soup(names, "runs", say)
        files = [
            file for source in soup.sources if source.folder for file in sorted(source.folder.glob("*.safetensors"))
        ]
        key = hashlib.sha256(f"{evaluation} {content_hash(files)}".encode()).hexdigest()[:16]
        folder = cache_folder() / "models" / f"soup-{key}"
        if not (folder / "config.json").is_file():
            say(f"Mixing {', '.join(names)} (once; kept in {folder}).")
            model, mixed = soup.greedy(scoring(evaluation, soup)) if evaluation else soup.uniform()
            soup.write(model, folder, [ingredient.name for ingredient in mixed if ingredient.taken])
        return folder

    def check(self, part: str) -> None:
        self._read(part)

    def _read(self, part: str) -> tuple[str, list[str]]:
        evaluation, found, names = part.rpartition(GREEDY)
        listed = [name.strip() for name in split(names) or []]
        if len(listed) < 2:
            raise ZooError(f"soup:{part} names no two models.", "Write soup:runs/a,runs/b.")
        return evaluation if found else "", listed


def scoring(evaluation: str, soup: Soup) -> Callable[[Any], Any]:
    """A function that gives a model's score by an evaluation, such as `instructions`."""
    from zoo.contract import registry
    from zoo.evals import Subject
    from zoo.evals.chosen import choose
    from zoo.libraries.architecture import ending_ids
    from zoo.models.loading import head_of, load_template
    from zoo.randomness import seed_everything

    available = registry.contributions(registry.manager(), "evals")
    (chosen,) = choose([evaluation], available, head_of(soup.sources[0]))

    def score(model: Any) -> Any:
        seed_everything(0)
        template = load_template(soup.sources[0])
        template.eos_ids |= ending_ids(model)
        return chosen.run(Subject(model, template.tokenizer, template, out=soup.out, say=soup.say))

    return score
