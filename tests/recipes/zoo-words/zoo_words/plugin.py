"""What the recipe of the tests is made of: rows of a few words, and evaluations of which one draws numbers."""

import torch

from zoo.api import Eval, ZooError, hookimpl, mean_score
from zoo.testing.tiny import tiny_rows


def words(split, kind):
    """Rows in which every answer is one word longer than its prompt is early."""
    return tiny_rows(kind, 24 if split == "train" else 8, seed=0 if split == "train" else 1)


def likely(subject, text: str = "red"):
    """Mean log-probability a token of a text."""
    ids = torch.tensor([subject.tokenizer(f"{text} dog sun").input_ids])
    with torch.no_grad():
        logps = subject.model(ids).logits.log_softmax(-1)[0, :-1]
    values = logps.gather(-1, ids[0, 1:, None]).flatten().tolist()
    return mean_score("likely", values, details={"tokens": len(values), "text": text})


def drawn(subject, samples: int = 16):
    """The mean of random tokens that the model draws, from the global generator."""
    if not samples:
        raise ZooError("there is nothing to draw", "Draw more.")
    ids = torch.tensor([subject.tokenizer("red").input_ids] * samples)
    with torch.no_grad():
        probabilities = subject.model(ids).logits[:, -1].softmax(-1)
    tokens = torch.multinomial(probabilities, 1).flatten()
    shown = [{"prompt": "red", "answer": subject.tokenizer.decode([token]), "score": float(token)} for token in tokens]
    return mean_score("drawn", [float(token) for token in tokens], samples=shown)


def number(subject, of: float = 0.25):
    """A number that needs no model."""
    return mean_score("number", [of], details={"twice": 2 * of})


@hookimpl
def sources():
    return {"words": words}


@hookimpl
def evals():
    return {
        "likely": Eval("Mean log-probability a token of a text.", likely),
        "drawn": Eval("Mean of tokens that are drawn.", drawn),
        "number": Eval("A number.", number, head="none"),
    }
