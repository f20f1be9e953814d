"""Experts from checkpoints on disk: one module for all of one class and configuration."""

from support.families import build

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints


def test_experts_of_one_configuration_share_a_module(tmp_path):
    for name, labels in {"base": 2, "a": 2, "b": 2, "c": 3}.items():
        build("BertForSequenceClassification", "bert", 1, num_labels=labels).save_pretrained(tmp_path / name)
    base, *opened = (open_checkpoint(str(tmp_path / name)) for name in ("base", "a", "b", "c"))
    tasks = from_checkpoints(base, dict(zip("abc", opened, strict=True))).tasks
    assert tasks["a"].module is tasks["b"].module
    assert tasks["c"].module.config.num_labels == 3
    assert tasks["a"].module is not tasks["c"].module
