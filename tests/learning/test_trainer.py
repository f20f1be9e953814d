"""The progress bar: shown on a terminal, or if it is configured; devices, and what each process gets."""

import logging
import re
import sys
from pathlib import Path

import lightning_fabric
import pytest
import pytorch_lightning
from lightning_fabric.utilities.rank_zero import rank_zero_warn
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.callbacks import ProgressBar

from adamerge import ConfigError
from adamerge.learning.settings import check_devices
from adamerge.learning.trainer import ADVICE_OF, Progress, build_trainer, without_advice
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


def functions(package):
    """Names of all functions in a package's files."""
    texts = [file.read_text(encoding="utf-8") for file in Path(package.__file__).parent.rglob("*.py")]
    return {name for text in texts for name in re.findall(r"^ *def (\w+)", text, re.MULTILINE)}


def give_advice():
    """Let Lightning say what is left out, one note and one warning."""
    with without_advice():
        build_trainer({"accelerator": "cpu", "precision": "bf16-mixed"}, [])
        build_trainer({"accelerator": "cpu", "limit_val_batches": 1}, [])
        rank_zero_warn("advice", category=PossibleUserWarning)
        rank_zero_warn("a fault")


def test_advice_is_known_by_who_gives_it_and_everything_else_is_said(caplog):
    assert functions(pytorch_lightning) | functions(lightning_fabric) >= ADVICE_OF
    caplog.set_level(logging.INFO)
    with pytest.warns(UserWarning, match="a fault") as warned:
        give_advice()
    assert ["limit_val_batches=1" in said for said in caplog.messages] == [True]
    assert len(warned) == 1
