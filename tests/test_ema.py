"""The exponential moving average of the weights: that of torch, seen by validation and by the finished model."""

import pytest
import torch
from test_processes import OPTIONS, command_of, only_run
from tiny_runs import assert_same_runs, demonstrations, losses, run_command, trainer, weights, write_rows
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import ZooError

DECAY = 0.7


@pytest.fixture
def train(tmp_path, tiny_folder):
    return trainer(tmp_path, tiny_folder)


@pytest.fixture
def steps(monkeypatch):
    """The weights after each step of the runs of this test."""
    from zoo.optimizers import average

    seen, update = [], average.update

    def watched(optimizer, decay):
        seen.append([p.detach().clone() for group in optimizer.param_groups for p in group["params"]])
        update(optimizer, decay)

    monkeypatch.setattr(average, "update", watched)
    return seen


def torchs_average(steps):
    """What torch's own average of these weights is."""
    model = torch.nn.ParameterList([torch.nn.Parameter(p.clone()) for p in steps[0]])
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    for step in steps:
        with torch.no_grad():
            for parameter, value in zip(model, step, strict=True):
                parameter.copy_(value)
        averaged.update_parameters(model)
    return [parameter.detach() for parameter in averaged.module]


def test_the_finished_model_is_torchs_average_and_validation_sees_it(train, steps, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(5, seed=9))
    run = train("sft", ema=DECAY, lr=1e-2, epochs=2, eval_data=held_out)
    assert len(steps) == run.summary["steps"] > 3
    wanted = sorted(torchs_average(steps), key=lambda p: (p.numel(), float(p.sum())))
    found = sorted(weights(run).values(), key=lambda p: (p.numel(), float(p.sum())))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    last = [row for row in run.log_history if "val/loss" in row][-1]["val/loss"]
    again = train("sft", name="again", model=str(run.model_path), max_steps=1, eval_data=held_out)
    first = next(row["val/loss"] for row in again.log_history if "val/loss" in row)
    assert first == pytest.approx(last, rel=1e-5)


def test_training_itself_is_not_changed(train):
    plain, averaged = train("sft", name="plain", lr=1e-2), train("sft", name="averaged", lr=1e-2, ema=DECAY)
    assert losses(plain) == losses(averaged)
    a, b = weights(plain), weights(averaged)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_the_optimizer_of_a_weight_that_was_never_moved_finds_no_state():
    from zoo.optimizers.average import AVERAGE, take, update

    moved, still = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([moved, still], lr=0.1)
    for _ in range(2):
        moved.grad = torch.ones(2)
        optimizer.step()
        update(optimizer, 0.5)
    assert AVERAGE in optimizer.state[moved] and still not in optimizer.state
    still.grad = torch.ones(2)
    optimizer.step()
    update(optimizer, 0.5)
    take(optimizer)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_two_processes_average_what_one_does(tmp_path, tiny_folder, monkeypatch, strategy):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache-one"))
    one = trainer(tmp_path, tiny_folder)("sft", rows=12, ema=DECAY, **OPTIONS)
    arguments = command_of("sft", tmp_path, tiny_folder, 12, ema=DECAY, strategy=strategy)
    done = run_command(*arguments, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_runs(one, only_run(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ema": 1.0}, "ema"),
        ({"ema": 0.9, "precision": "bf16-true"}, "needs weights of 32 bits"),
        ({"ema": 0.9, "engine": "vllm(url=http://localhost:1)"}, "does not have"),
    ],
)
def test_what_cannot_be_averaged_is_refused(train, options, said):
    with pytest.raises(ZooError, match=said):
        train("grpo" if "engine" in options else "sft", data="starter", **options)
