"""Training as an aim: a few steps of an algorithm on the tiny model, with everything that a run can write."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from safetensors.torch import load_file

from zoo.contract import registry
from zoo.paths import write_text
from zoo.runs import Run
from zoo.testing.chaos.aims import Aim
from zoo.testing.checks.cuts import alike
from zoo.testing.networks import options_to_name
from zoo.testing.tiny import tiny_rows, write_folder

FILES = "files"
"""The folder of model and data, beside those of the trials."""
STEPS = 6
PHASES = {
    "zoo.training.execution:Execution.score": "scoring {when}",
    "zoo.training.fitting:Fitting.go": "between steps",
    "zoo.training.record.callbacks:Recorder._validate": "validation",
    "zoo.training.online.rollouts:Rollouts.__call__": "rollout",
    "zoo.training.step.module:PostTraining.training_step": "step",
    "zoo.training.record.callbacks:Recorder._save": "writing a checkpoint",
    "zoo.training.record.checkpoints:FolderCheckpoints._work": "writing a checkpoint",
    "zoo.training.record.callbacks:Recorder._write": "writing records",
    "zoo.training.fitting:cut": "writing records",
    "zoo.training.execution:Execution.finish": "ending",
    "zoo.training.execution:Execution.end": "ending",
    "zoo.training.execution:export_model": "exporting the model",
    "zoo.report.run_page:write_run_page": "report",
}
"""What a run does, by the functions that do it; before all of them it is loading."""
STEP = "zoo.training.step.module:PostTraining.training_step"
TIMES = ("timing.jsonl", "timing.json", "report.html", "memory-gb.csv", "seconds.csv", "speed.csv")
"""Files with times, which differ in every run: they must be there, and be whole."""
BEATS = ("heartbeat.json", ".tmp-heartbeat.json")
"""What a kill leaves behind, as a sign of it."""
RUN = Path("runs", "run")
DEVICES = re.compile(r"^devices: \d+$", re.MULTILINE)
FIXED: dict[str, Any] = {
    "name": "run", "batch_size": 4, "max_steps": STEPS, "epochs": 4.0, "save_every": 2,
    "lr": 1e-3, "precision": "32-true", "lora_rank": 2, "lora_dropout": 0.1,
    "max_new_tokens": 6, "accelerator": "cpu", "quiet": True,
    # Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
    "optimizer": "adamw(eps=1e-5)",
}  # fmt: skip


EPISODES = {
    "zoo.rollout.episodes:Player._begin": "beginning episodes",
    "zoo.rollout.episodes:Player._wave": "in episodes",
    "zoo.rollout.episodes:Player._listen": "waiting for environments",
}
"""What a run in an environment does too."""
PLAYED: dict[str, Any] = {
    "max_new_tokens": 60, "max_turns": 3, "reward": "environment", "best_metric": "val/reward",
    "stop": ",".join("abcdefghijklmnopqrstuvwxyz"), "score": "none",
}  # fmt: skip
"""Options of a run in an environment: the tiny model writes at random, and a letter ends its turn."""
STREAMED: dict[str, Any] = {"stream": True, "shuffle_buffer": 5, "reference_cache": "off"}
"""Options of a run that reads its data as it comes, in two passes."""


def training(
    algo: str, lora: bool = False, processes: int = 1, mixture: bool = False, stream: bool = False, strategy: str = "",
    environment: str = "",
) -> Aim:  # fmt: skip
    """A run of an algorithm: a registered name, or ./file.py:Class. Raises ZooError.

    mixture: whether it trains on two files; stream: whether it reads three files as they come; strategy and
    environment: as the options.
    """
    name, cls = registry.load_algorithm(str(Path(algo).resolve()) if ".py:" in algo else algo)
    options = {**options_of(cls), "algo": str(Path(algo).resolve()) if ".py:" in algo else algo, "lora": lora}
    if mixture:
        first = options["data"]
        options["data"] = f"3*{first} + {first.removesuffix('.jsonl')}-held-out.jsonl(name=other)"
    if strategy:
        options["strategy"] = strategy
    if stream:
        options |= {**STREAMED, "data": f"../{FILES}/{cls.kinds()[0]}-part-*.jsonl*"}

    if environment:
        options |= {**PLAYED, "environment": located(environment)}

    def make(folder: Path) -> None:
        import zoo

        # Its whole path: adapters name their base, and must name it alike in all trials.
        fixed = {name: value for name, value in FIXED.items() if not (stream and name == "epochs")}
        files = folder.parent / FILES
        named: dict[str, Any] = {option: str(files / "other") for option in options_to_name(cls)}
        zoo.train(**{**fixed, **options, **named}, model=str(files / "tiny"), devices=processes)

    flags = " --lora" * lora + " --mixture" * mixture + " --stream" * stream
    phases = {**PHASES, **EPISODES} if environment else PHASES
    flags += f" --strategy {strategy}" * bool(strategy) + f" --environment {environment}" * bool(environment)
    return Aim(
        name=name + flags,
        make=make, read=read, resume=resume, begun=begun, prepare=prepare,
        warm=warm, phases=phases, steps=STEP, processes=processes, damage=damage,
    )  # fmt: skip


def resumed_on(aim: Aim, processes: int) -> Aim:
    """An aim of training that goes on with another number of processes: it ends equal, up to rounding."""
    return replace(aim, name=f"{aim.name} --resumed {processes}", resumed=processes, read=read_numbers, same=alike)


def located(environment: str) -> str:
    """The same environment for a process with another working folder."""
    file, sign, rest = environment.partition(".py:")
    return f"{Path(file + '.py').resolve()}:{rest}" if sign else environment


def options_of(cls: Any) -> dict[str, Any]:
    """Options that depend on what the algorithm learns from."""
    kind = cls.kinds()[0]
    options: dict[str, Any] = {"data": f"../{FILES}/{kind}.jsonl", "eval_fraction": 0.0}
    if kind != "prompt" or cls.online():
        # What makes its own answers before the first step has none to held-out prompts.
        options |= {"eval_data": f"../{FILES}/{kind}-held-out.jsonl", "eval_every": 3, "keep_best": True}
    if cls.online():
        reward = "zoo.testing.tiny:tiny_reward"
        options |= {"reward": reward, "answers_per_prompt": 2, "minibatches": 2, "best_metric": "val/reward"}
        options["eval_prompts"] = 4
    if cls.head == "lm":
        rewarded = f"sampled_reward(data=../{FILES}/scored.jsonl,reward=zoo.testing.tiny:tiny_reward,max_new_tokens=6)"
        return {**options, "score": rewarded}
    evaluation = "step_accuracy(zero=wrong," if kind == "stepwise" else "pair_accuracy("
    scored = "stepwise" if kind == "stepwise" else "preference"
    return {**options, "score": f"{evaluation}data=../{FILES}/{scored}.jsonl)"}


def prepare(folder: Path) -> None:
    """Model and data of all trials."""
    files = folder / FILES
    files.mkdir(exist_ok=True)
    write_folder(files / "tiny")
    write_folder(files / "other", seed=1)
    for kind in ("demonstration", "preference", "feedback", "prompt", "ranking", "stepwise", "text"):
        write_rows(files / f"{kind}.jsonl", tiny_rows(kind, 12))
        write_rows(files / f"{kind}-held-out.jsonl", tiny_rows(kind, 5, seed=9))
        for part in range(3):
            write_rows(files / f"{kind}-part-{part}.jsonl", tiny_rows(kind, 4, seed=part))
        packed = gzip.compress((files / f"{kind}-part-2.jsonl").read_bytes(), mtime=0)
        (files / f"{kind}-part-2.jsonl.gz").write_bytes(packed)
        (files / f"{kind}-part-2.jsonl").unlink()
    write_rows(files / "scored.jsonl", tiny_rows("prompt", 3, seed=5))


def warm(folder: Path) -> None:
    """Do here once what each fork would do again: look at the libraries and plugins, and compile the report's page."""
    from zoo.libraries.reliance import require
    from zoo.report.run_page import write_run_page

    for library in ("torch", "transformers", "lightning", "peft"):
        require(library)
    write_run_page(Run(folder / RUN))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def begun(folder: Path) -> bool:
    return (folder / RUN / "run.yaml").is_file()


def resume(folder: Path) -> None:
    """Go on with the run, as `zoo resume` does; one that was killed after its very end is refused.

    Without a usable checkpoint it begins again, which only who accepts that is allowed.
    """
    import zoo

    run = Run(folder / RUN)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if run.config["devices"] != processes:
        write_text(run.path / "run.yaml", DEVICES.sub(f"devices: {processes}", (run.path / "run.yaml").read_text()))
    if not run.is_complete:
        zoo.resume(folder / RUN, allow_change=["checkpoint"], quiet=True)


def read(folder: Path) -> Mapping[str, Any]:
    """The sha256 of each file below runs/; of those with times, whether they are whole."""
    paths = [path for path in sorted((folder / "runs").rglob("*")) if path.name not in BEATS]
    files = {str(path.relative_to(folder / "runs")): _content(path) for path in paths if path.is_file()}
    return files | {str(path.relative_to(folder / "runs")): "a folder" for path in paths if path.is_dir()}


def read_numbers(folder: Path) -> Mapping[str, Any]:
    """The metrics of every step, the scores, and the weights."""
    run = Run(folder / RUN)
    weights = {file.name: load_file(file) for file in run.model_path.glob("*.safetensors")}
    return {"metrics": run.log_history, "scores": run.summary["scores"], **weights}


def _content(path: Path) -> Any:
    if path.name == "fingerprints.json":
        # The signature is made with another key in each trial.
        return json.loads(path.read_text(encoding="utf-8"))["began"]
    if path.name == "environment.json":
        facts = json.loads(path.read_text(encoding="utf-8"))
        return {**facts, "date": len(facts["date"])}
    if path.name not in TIMES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if path.name == "timing.jsonl":
        return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]
    text = path.read_text(encoding="utf-8")
    return "whole" if path.suffix != ".html" or text.rstrip().endswith("</html>") else "cut"


def damage(folder: Path, source: Random) -> str:
    """Flip a byte of the newest checkpoint, cut a file of it, or remove one; "" where there is none."""
    checkpoints = sorted(
        (folder / RUN / "checkpoints").glob("step-*"), key=lambda path: int(re.sub(r"\D", "", path.name) or 0)
    )
    if not checkpoints:
        return ""
    file = source.choice(sorted(path for path in checkpoints[-1].rglob("*") if path.is_file()))
    how = source.choice(("flipped", "cut", "removed"))
    content = bytearray(file.read_bytes())
    place = source.randrange(len(content))
    if how == "removed":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:place])
    else:
        content[place] ^= 1 << source.randrange(8)
        file.write_bytes(content)
    return f"{file.relative_to(folder / RUN)} {how}"


def algorithms() -> list[str]:
    """Every registered algorithm."""
    return [entry.name for entry in registry.algorithms()]
