"""What kept outputs of an expert depend on, as hashes: its numbers, its rows, the settings."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from adamerge.data.rows import Rows
from adamerge.merging.merged_model import MergedModel


def made_from(model: MergedModel, task: str, rows: Rows, settings: object, size: int = 32) -> str:
    """Hash of an expert's numbers, of its rows as the model sees them, and of settings.

    Args:
        model: Knows the expert.
        task: Whose.
        rows: Its rows.
        settings: Whatever else the outputs depend on, as JSON has it.
        size: Rows a batch.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(digest_of(model.experts.state_of(task)).encode())
    for batch in rows.batches(size):
        counted = {} if batch.positions is None else {"positions": batch.positions}
        digest.update(digest_of({**batch.inputs, **counted}).encode())
    return digest.hexdigest()[:16]


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
