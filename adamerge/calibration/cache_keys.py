"""Keys of kept results: what experts, rows and settings are, as hashes."""

import hashlib
from collections.abc import Mapping

from adamerge.data.rows import Rows
from adamerge.experts.experts import Expert, Experts
from adamerge.storage.digest import digest_of, digest_of_json, digest_of_path
from adamerge.storage.kept import Key


def key_of(experts: str, rows: Mapping[str, Rows], settings: object, size: int = 32) -> Key:
    """Key of a result that is made of experts, of rows as the model sees them, and of settings.

    Args:
        experts: Hash of the experts, or of one.
        rows: By task; none where they are not at hand, which leaves them out of the key.
        settings: Whatever else the result depends on, as JSON has it.
        size: Rows per forward pass.
    """
    key = {"experts": experts, "settings": digest_of_json(settings)}
    return {**key, "rows": digest_of_rows(rows, size)} if rows else key


def digest_of_experts(experts: Experts) -> str:
    """Hash of the base's and all experts' numbers and configurations."""
    own = {task: digest_of_expert(expert) for task, expert in experts.tasks.items()}
    return digest_of_json([experts.base.digest(), own])


def digest_of_expert(expert: Expert) -> str:
    """Hash of an expert's numbers, and of its configuration where it comes from disk."""
    checkpoint = expert.checkpoint
    config = digest_of_path(checkpoint.folder / "config.json") if checkpoint else ""
    return digest_of_json([expert.weights.digest(), config])


def digest_of_rows(rows: Mapping[str, Rows], size: int = 32) -> str:
    """Hash of every task's rows as the model sees them, `size` per batch."""
    digest = hashlib.sha256()
    for task, own in rows.items():
        digest.update(f"{task} {len(own)}".encode())
        for batch in own.batches(size):
            counted = {} if batch.positions is None else {"positions": batch.positions}
            digest.update(digest_of({**batch.inputs, **counted}).encode())
    return digest.hexdigest()
