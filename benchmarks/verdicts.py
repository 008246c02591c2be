"""How often each verdict of a claim comes out, for claims whose true effect is known.

    python benchmarks/verdicts.py

A claim asks for an effect of at least 1 (`by`). Its values over seeds are normal, with a true mean of 0 (no effect) or
2 (twice the effect) and a deviation of 1, 2 or 4. It is judged after 3, 5 or 10 seeds, or until it is decided (at most
20). Each share comes from 2,000 claims, so one of 2.5 % has a standard error of 0.35 %.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from zoo.recipes.verdicts import CONTRADICTED, LOOKS, REPRODUCED, UNDECIDED, Bounds, Quantity, verdict

BY = Bounds(by=1.0)
TRUTHS = {0: "no effect", 2: "twice the effect"}
DESIGNS = {"3 seeds": (3,), "5 seeds": (5,), "10 seeds": (10,), "until decided": LOOKS}


def judged(values: list[float], looks: tuple[int, ...]) -> tuple[str, int]:
    """The verdict, and the number of seeds after which it was found."""
    for seeds in looks:
        found = verdict([Quantity("effect", values[:seeds], BY)])
        if found != UNDECIDED:
            return found, seeds
    return UNDECIDED, looks[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=2000, help="Claims in each row.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    titles = [f"{effect}: {name}" for effect in TRUTHS.values() for name in (REPRODUCED, CONTRADICTED, "seeds used")]
    print(f"| judged after | deviation | {' | '.join(titles)} |")
    print("|---|---|" + "---|" * len(titles))
    for design, looks in DESIGNS.items():
        for deviation in (1, 2, 4):
            cells = []
            for truth in TRUTHS:
                counts, used = Counter[str](), 0
                for values in random.normal(truth, deviation, (given.claims, looks[-1])).tolist():
                    found, seeds = judged(values, looks)
                    counts[found] += 1
                    used += seeds
                cells += [f"{counts[name] / given.claims:.1%}" for name in (REPRODUCED, CONTRADICTED)]
                cells += [f"{used / given.claims:.1f}"]
            print(f"| {design} | {deviation} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
