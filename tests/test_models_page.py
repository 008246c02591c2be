"""docs/models.md: its table says what the sweep over architectures finds."""

import warnings

import pytest
import supported_models

from zoo.libraries import releases
from zoo.models import attention
from zoo.testing import sweep
from zoo.testing.architectures import ARCHITECTURES

ROWS = supported_models.rows_of(supported_models.PAGE.read_text(encoding="utf-8"))
SOME = ["gemma2", "phi", "mixtral", "deepseek_v2", "jamba", "falcon_h1"]
"""A cap and a window; a bias; experts; values of a width of their own; a hybrid with a layer that is read beside its
call; a scale."""


def test_the_table_has_every_architecture_and_nothing_in_it_differs():
    assert list(ROWS) == list(ARCHITECTURES) and len(ROWS) >= 25
    assert [row for row in ROWS.values() if "differs" in row or "fails" in row] == []


@pytest.mark.parametrize("kind", [*SOME, *(pytest.param(k, marks=pytest.mark.slow) for k in ROWS if k not in SOME)])
def test_a_row_is_what_the_sweep_finds(kind):
    with warnings.catch_warnings():
        # Some models say that they generate slowly.
        warnings.simplefilter("ignore")
        found = supported_models.line(kind)
    if releases.installed("transformers") == releases.tested("transformers"):
        assert found == ROWS[kind]
    assert "differs" not in found and "fails" not in found


def test_the_sweep_goes_through_the_attention_of_a_run_on_a_cpu(monkeypatch):
    monkeypatch.setattr(attention._Segments, "forward", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep.full("llama", False)


def test_the_sweep_sees_log_probs_and_gradients_that_differ(monkeypatch):
    """A head without its scale, and an adapter that gets no gradient."""
    from zoo.libraries import heads

    former = heads._measured
    monkeypatch.setattr(heads, "_measured", lambda base: (1.0, former(base)[1]))
    with pytest.raises(sweep.Differs, match="log-probs by"):
        sweep.full("cohere", False)
    monkeypatch.undo()
    monkeypatch.setattr("zoo.libraries.adapters.unreached", lambda model: {})
    with pytest.raises(sweep.Differs, match="dt_proj.lora_A.default.weight is not trained"):
        sweep.lora("jamba", ["all-linear"], False)
