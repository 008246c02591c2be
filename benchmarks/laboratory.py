"""The experiments of docs/laboratory.md: trains in its worlds, prints the page's tables, and draws its plots.

    OMP_NUM_THREADS=1 python benchmarks/laboratory.py docs/laboratory

Runs that are there already are read again, so that a second call draws only.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import zoo
from zoo.bundled.laboratory.rooms import EXTRA, MAP, WAYS, way
from zoo.report.plots.axes import Plot
from zoo.report.plots.lines import paths
from zoo.report.plots.standalone import stand_alone
from zoo.runs import Run

RUNS = Path("runs") / "laboratory"
WEIGHTS = (0.001, 0.3, 1.0)
"""β of the KL penalty. Not 0, with which there would be no reference to measure the distance from."""


def trained(name: str, algo: str, **options: object) -> Run:
    """The run of this name, trained unless it is finished."""
    folder = RUNS / name
    if (folder / "summary.json").is_file():
        return Run(folder)
    return zoo.train(algo, name=name, out=str(RUNS), quiet=True, save_every=0, score="none", **options)


def policy(name: str, reward: str, weight: float, steps: int = 60) -> Run:
    """A policy trained on a reward that is not the true one, which is measured all the way."""
    return trained(
        name, "ppo", data="world:gold", reward=reward, gold_reward="gold", kl_coef=weight, max_steps=steps,
        answers_per_prompt=1, rollout_epochs=4, eval_every=6, eval_prompts=240,
    )  # fmt: skip


def measured(run: Run, *names: str) -> list[tuple[float, ...]]:
    """The step and these metrics of every validation."""
    return [(line["step"], *(line[name] for name in names)) for line in run.log_history if names[0] in line]


def line(run: Run, metric: str) -> list[tuple[float, float, float]]:
    """(√KL, metric, step) of every validation."""
    return [(max(kl, 0.0) ** 0.5, value, step) for step, kl, value in measured(run, "val/kl", metric)]


def by_step(run: Run, metric: str) -> list[tuple[float, float, float]]:
    return [(step, value, step) for step, value in measured(run, metric)]


def draw(plot: Plot | None, file: Path) -> None:
    assert plot is not None
    label = f"{plot.title}: {', '.join(plot.names)} against {plot.columns[2]}"
    file.write_text(stand_alone([plot], label), encoding="utf-8")


def hacking(folder: Path) -> None:
    """The proxy counts good words; gold turns where there are too many."""
    run = policy("proxy-0.001", "proxy", 0.001)
    lines = {"proxy": by_step(run, "val/reward"), "gold": by_step(run, "val/gold")}
    draw(paths("Reward hacking", lines, "step"), folder / "hacking.svg")
    print("| step | proxy | gold | KL | words |\n|---|---|---|---|---|")
    for step, reward, gold, kl, length in measured(run, "val/reward", "val/gold", "val/kl", "val/length"):
        print(f"| {step} | {reward:.2f} | {gold:.2f} | {kl:.1f} | {length:.1f} |")


def frontier(folder: Path) -> None:
    """Where each weight of the KL penalty ends."""
    runs = {f"β {weight}": policy(f"proxy-{weight}", "proxy", weight) for weight in WEIGHTS}
    lines = {name: line(run, "val/gold") for name, run in runs.items()}
    draw(paths("Gold against distance", lines, "√KL to the start"), folder / "frontier.svg")
    print("| β | proxy | gold | KL | entropy |\n|---|---|---|---|---|")
    for name, run in runs.items():
        _, reward, gold, kl = measured(run, "val/reward", "val/gold", "val/kl")[-1]
        entropy = [one["entropy"] for one in run.log_history if "entropy" in one][-1]
        print(f"| {name[2:]} | {reward:.2f} | {gold:.2f} | {kl:.1f} | {entropy:.2f} |")


def overoptimisation(folder: Path) -> None:
    """The reward is learned, from few pairs of which a quarter are the wrong way round."""
    judge = trained("rater", "rm", data="world:gold(rows=1000, noise=0.25)", epochs=4)
    runs = {f"β {weight}": policy(f"learned-{weight}", str(judge.path), weight) for weight in (0.001, 0.3)}
    lines = {}
    for name, run in runs.items():
        lines[f"learned, {name}"], lines[f"gold, {name}"] = line(run, "val/reward"), line(run, "val/gold")
    draw(paths("A learned reward", lines, "√KL to the start"), folder / "overoptimisation.svg")
    print("| β | step | learned reward | gold | KL |\n|---|---|---|---|---|")
    for name, run in runs.items():
        for step, reward, gold, kl in measured(run, "val/reward", "val/gold", "val/kl")[::2]:
            print(f"| {name[2:]} | {step} | {reward:.2f} | {gold:.2f} | {kl:.1f} |")


def collapse(folder: Path) -> None:
    """What a policy still tries: the entropy of its answers, a token."""
    lines = {}
    for weight in WEIGHTS:
        found = [
            (one["step"], one["entropy"])
            for one in policy(f"proxy-{weight}", "proxy", weight).log_history
            if "entropy" in one
        ]
        lines[f"β {weight}"] = [(step, entropy, step) for step, entropy in found[::3]]
    draw(paths("Entropy a token", lines, "step"), folder / "collapse.svg")


def game(folder: Path) -> None:
    """A text game, learned from its rewards, and from the grades of a judge that reads what was played."""
    with judging() as judge:
        options = {"grpo": {}, "ppo": {}, "rlaif": {"judge": judge}}
        runs = {name: trained(f"rooms-{name}", name, data="world:rooms", eval_every=5, **own)
                for name, own in options.items()}  # fmt: skip
    lines = {name: by_step(run, "val/reward") for name, run in runs.items()}
    draw(paths("A house of six rooms", lines, "step"), folder / "game.svg")
    print("| step | " + " | ".join(runs) + " |\n|" + "---|" * (1 + len(runs)))
    for points in zip(*lines.values(), strict=True):
        print(f"| {points[0][0]} | " + " | ".join(f"{reward:.2f}" for _, reward, _ in points) + " |")


@contextlib.contextmanager
def judging() -> Iterator[str]:
    """A judge of the game behind an API like OpenAI's; its address. It reads the moves, and grades them by the map."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1#map"
        server.shutdown()


class Judge(BaseHTTPRequestHandler):
    """Answers each request with a grade from 1 to 10 for the episode in it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        likeliest = [{"token": str(grade(asked)), "logprob": math.log(0.99)}]
        content = [{"token": str(grade(asked)), "logprob": 0.0, "top_logprobs": likeliest}]
        choice = {"message": {"content": str(grade(asked))}, "logprobs": {"content": content}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice]})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


def grade(asked: str) -> int:
    """10 for the shortest way, one less for each move that was not needed, 1 for a room that was not found."""
    (start, goal), played = re.search(r"(\w+) find (\w+)", asked).groups(), asked.split("find", 1)[1]  # type: ignore[union-attr]
    room = start
    for count, move in enumerate((word for word in re.findall(r"\w+", played) if word in WAYS), start=1):
        room = MAP.get((room, move), room)
        if room == goal:
            return max(1, round(10 - 10 * EXTRA * (count - len(way(start, goal)))))
    return 1


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/laboratory")
    place.mkdir(parents=True, exist_ok=True)
    for experiment in (hacking, frontier, overoptimisation, collapse, game):
        print(f"\n{experiment.__doc__}\n")
        experiment(place)
