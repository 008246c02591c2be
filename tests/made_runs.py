"""Run folders made by hand, whose numbers are known: not a test file itself."""

import json
import math

from zoo.evals.kept_scores import read_samples
from zoo.report.plots.series import Series
from zoo.report.sections.warnings import run_warnings
from zoo.runs import Run


def made(folder, *, algo="sft", metrics=(), samples=(), data=None, heldout=None, timing=None, timings=(), **summary):
    """A finished run of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(f"algo: {algo}\nmodel: tiny\ndata: rows\n")
    run = Run(folder)
    run.write_json("summary.json", summary)
    run.write_json("data.json", data or {})
    for name, content in (("heldout", heldout), ("timing", timing)):
        if content:
            run.write_json(f"{name}.json", content)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if timings:
        (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timings))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return run


def gold(d, alpha=0.5, beta=0.2):
    """The law of arXiv:2210.10760 from a start of 0.1."""
    return 0.1 + (d * (alpha - beta * math.log(d)) if d else 0.0)


def online_rows(steps=40, every=4, farthest=12.0):
    """A run whose distance d = √KL grows evenly to `farthest`: its reward rises by 0.01 a step, its gold score is
    that of the law above with its top at d = e^1.5, and everything else is well."""
    rows = []
    for step in range(steps + 1):
        d = farthest * step / steps
        if step:
            row = {"step": step, "epoch": step / steps, "loss": 0.5 - 0.001 * step, "grad_norm": 1.0, "lr": 1e-5,
                   "num_tokens": 100.0 * step, "kl": d * d / 20, "kl_k3": d * d / 20, "ratio": 1.0, "ratio_max": 1.5,
                   "clip_share_low": 0.01, "clip_share_high": 0.02, "entropy": 2.0 - 0.01 * step,
                   "value/loss": 0.3, "value/explained_variance": 0.4, "rollout/reward": 0.2 + 0.01 * step,
                   "rollout/reward_std": 0.2, "rollout/reward/exact": 0.1, "rollout/reward/length": 0.1,
                   "rollout/missing": 0.0, "rollout/length": 20.0 + 0.1 * step, "rollout/cut": 0.1,
                   "rollout/flat_groups": 0.2, "rollout/engine_gap": 1e-6}  # fmt: skip
            rows.append(row)
        if step % every == 0:
            rows.append({"step": step, "val/reward": 0.2 + 0.01 * step, "val/gold": gold(d), "val/kl": d * d,
                         "val/length": 20.0, "val/cut": 0.0})  # fmt: skip
    return rows


def warnings_of(run):
    return run_warnings(run, Series(run.log_history), read_samples(run))


def changed(rows, **values):
    """The rows with other values of some metrics, by name with _ for /; a function gets the row."""
    names = {name.replace("__", "/"): value for name, value in values.items()}

    def value_of(row, key):
        return names[key](row) if callable(names[key]) else names[key]

    return [{key: value_of(row, key) if key in names else value for key, value in row.items()} for row in rows]


def revision_steps(chains):
    """What revisions.jsonl holds, of (first answer, [(principle, revision), …]) for each prompt; "" says nothing."""
    steps, answers = [], [first for first, _ in chains]
    for k in range(len(chains[0][1])):
        for i, (_, revised) in enumerate(chains):
            principle, revision = revised[k]
            steps.append({"row": i, "prompt": f"prompt {i}", "initial": chains[i][0], "round": k + 1,
                          "principle": principle, "answer": answers[i], "critique": f"critique {i}.{k + 1}",
                          "revision": revision, "cut": False})  # fmt: skip
            answers[i] = revision or answers[i]
    return steps


def online_samples(moments=("before", "step 10", "step 20", "after"), prompts=2):
    rows = [
        {"eval": "held-out", "when": when, "prompt": f"prompt {i}", "answer": f"answer {i} {when}", "score": 0.25 * k,
         "length": 3 + k, "cut": i == 0, "principle": "be kind"}
        for k, when in enumerate(moments) for i in range(prompts)
    ]  # fmt: skip
    seen = [
        {"eval": "rollout", "when": f"step {i}", "prompt": f"new {i}", "answer": "once", "score": None}
        for i in range(3)
    ]
    return rows + seen
