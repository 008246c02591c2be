"""Sums and counts: the same mean however the step was cut."""

import pytest
import torch

from zoo.training.step import sums as module
from zoo.training.step.sums import Sums
from zoo.values.types import Loss, metric_sums


def pair(total, count):
    return torch.tensor(total), torch.tensor(count)


def test_means_are_sums_over_counts_of_all_that_was_added():
    sums = Sums()
    sums.add({"loss": pair(6.0, 3.0), "margin": pair(1.0, 1.0)})
    sums.add({"loss": pair(1.0, 4.0)})
    assert sums.means() == {"loss": 1.0, "margin": 1.0}
    assert (sums.total("loss"), sums.count("loss")) == (7.0, 7.0)
    assert sums.names == ["loss", "margin"]


def test_what_counted_nothing_has_no_mean():
    sums = Sums()
    sums.add({"accuracy": pair(0.0, 0.0)})
    assert sums.means() == {}


def test_sums_are_kept_in_double_precision():
    sums = Sums()
    sums.add({"x": pair(1.0, 1.0)})
    for _ in range(1000):
        sums.add({"x": pair(1e-8, 0.0)})
    assert sums.means()["x"] == pytest.approx(1 + 1e-5, abs=1e-9), "float32 would have lost every small term"


def test_a_mean_does_not_depend_on_how_its_values_were_cut():
    values = torch.tensor([1.0, 2.0, float("nan"), 4.0, 8.0])
    whole, cut = Sums(), Sums()
    whole.add(metric_sums({"x": values}))
    for part in (values[:1], values[1:3], values[3:]):
        cut.add(metric_sums({"x": part}))
    assert whole.means() == cut.means() == {"x": 3.75}


def test_sums_of_all_processes_are_in_the_order_of_this_one(monkeypatch):
    """The others may have theirs in another."""
    own, other = Sums(), Sums()
    own.add({"loss": pair(6.0, 3.0), "accuracy": pair(1.0, 2.0)})
    other.add({"accuracy": pair(1.0, 2.0), "loss": pair(0.0, 3.0)})

    def all_gather(every, mine):
        every[0].copy_(mine)
        every[1].copy_(torch.stack([part for name in sorted(other.pairs) for part in other.pairs[name]]))

    monkeypatch.setattr(module, "is_distributed", lambda: True)
    monkeypatch.setattr(module, "begin_exchange", lambda: None)
    monkeypatch.setattr(module.dist, "all_gather", all_gather)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    together = own.reduced(torch.device("cpu"))
    assert list(together.means().items()) == [("loss", 1.0), ("accuracy", 0.5)]


def test_a_metric_named_max_is_the_largest_value_that_counts_however_it_was_cut():
    values, weights = torch.tensor([1.0, 7.0, float("nan"), 900.0]), torch.tensor([1.0, 2.0, 1.0, 0.0])
    whole, cut = Sums(), Sums()
    whole.add(metric_sums({"ratio_max": (values, weights)}))
    for part in (slice(0, 1), slice(2, 4), slice(1, 2)):
        cut.add(metric_sums({"ratio_max": (values[part], weights[part])}))
    assert whole.means() == cut.means() == {"ratio_max": 7.0}
    below = Sums()
    below.add(metric_sums({"ratio_max": (torch.tensor([5.0]), torch.tensor([0.0]))}))
    below.add(metric_sums({"ratio_max": torch.tensor([-3.0])}))
    assert below.means() == {"ratio_max": -3.0}, "nothing that does not count stands in for it"


def test_the_loss_of_a_step_is_the_mean_over_all_its_tokens(vectors):
    """Σ over ranks, micro-batches and tokens / N, and none of the means of means that common bugs return."""
    case = vectors["sft.token_normalised_loss"]
    expected = case["expected"]
    sums, weights = Sums(), []
    for rank in case["inputs"]["token_nll"].values():
        for micro_batch in rank:
            nll = torch.tensor([micro_batch], requires_grad=True)
            loss = Loss.per_token(nll, torch.ones(1, len(micro_batch)))
            sums.add({"loss": (loss.numerator, loss.denominator)})
            loss.numerator.backward()
            weights += (nll.grad / expected["n_tokens_global"]).flatten().tolist()
    assert sums.count("loss") == expected["n_tokens_global"]
    assert sums.means()["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert weights == pytest.approx([expected["weight_of_each_token_in_gradient"]] * 10)
    for name, wrong in expected.items():
        if name.startswith("WRONG_"):
            assert abs(sums.means()["loss"] - wrong) > 1e-3, name


def test_the_scale_of_summed_gradients_gives_what_each_micro_batch_should_send_backward(vectors):
    """The engine averages over processes, so numerators are multiplied by processes / N."""
    case = vectors["sft.token_normalised_loss"]
    scale = case["inputs"]["world_size"] / case["expected"]["n_tokens_global"]
    for rank, micro_batches in case["inputs"]["token_nll"].items():
        found = [float(Loss.per_token(torch.tensor([nll]), torch.ones(1, len(nll))).numerator) * scale
                 for nll in micro_batches]  # fmt: skip
        assert found == pytest.approx(case["expected"]["backward_loss_per_microbatch"][rank], rel=1e-6)
