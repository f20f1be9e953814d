"""The progress bar: shown on a terminal, or if it is configured; devices, and what each process gets."""

import sys

import pytest
from pytorch_lightning.callbacks import ProgressBar

from adamerge import ConfigError
from adamerge.learning.settings import check_devices
from adamerge.learning.trainer import Progress, build_trainer, without_advice
from adamerge.optim import processes


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "fsdp2"}, "trainer.strategy: expected several devices for fsdp2"),
        ({"strategy": "fsdp", "devices": 2}, "trainer.strategy: expected ddp .* or fsdp2 .* found 'fsdp'"),
        ({"devices": 10**6}, "trainer.devices: expected at most"),
        ({"devices": "auto"}, "trainer.devices: expected a number"),
        ({"num_nodes": 0}, "trainer.num_nodes: expected a number of at least 1"),
    ],
)
def test_devices_that_cannot_learn_together_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        check_devices({"accelerator": "cpu", **options})


def test_shares_are_even_where_processes_go_in_step(monkeypatch):
    shares = {}
    for rank in range(3):
        monkeypatch.setattr(processes, "rank_and_count", lambda rank=rank: (rank, 3))
        shares[rank] = (list(processes.share_of("abcd", 1)), list(processes.share_of("abcd", 1, even=True)))
    assert sorted(item for own, _ in shares.values() for item in own) == list("abcd")
    assert all(even == [*own, *"a" * (2 - len(own))] for own, even in shares.values())
