"""The progress bar: shown on a terminal, or if it is configured."""

import sys

import pytest
from pytorch_lightning.callbacks import ProgressBar

from adamerge.learning.trainer import Progress, build_trainer, without_advice


@pytest.mark.parametrize(
    ("terminal", "wanted", "drawn"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_no_bar_is_shown_if_output_is_not_a_terminal(monkeypatch, terminal, wanted, drawn):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with without_advice():
        trainer = build_trainer({"accelerator": "cpu", "enable_progress_bar": wanted}, [])
    bars = [type(callback) for callback in trainer.callbacks if isinstance(callback, ProgressBar)]
    assert bars == [Progress] * drawn
