"""Cache keys of stored results: hashes of experts, rows and settings."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from adamerge.data.rows import Rows
from adamerge.experts.experts import Expert, Experts
from adamerge.storage.digest import digest_of, digest_of_json
from adamerge.storage.kept import Keeper, Kept, Key


def key_of(experts: str, rows: Mapping[str, Rows], settings: object, size: int) -> Key:
    """Compute the cache key of a result that depends on experts, encoded rows and settings.

    Args:
        experts: Hash of all experts, or of one.
        rows: Rows per task; empty if they are not available, and then the key does not contain them.
        settings: Everything else that the result depends on, as a JSON value.
        size: Rows per forward pass.
    """
    key = {"experts": experts, "settings": digest_of_json(settings)}
    return {**key, "rows": digest_of_rows(rows, size)} if rows else key


def kept_of_rows(
    keeper: Keeper,
    file: Path,
    key: Key,
    make: Callable[[Path], None],
    read: Callable[[Path], Kept],
) -> Kept:
    """Read a result of rows from a file, or compute it and write the file.

    Args:
        keeper: Stores the result.
        file: File of the result.
        key: Result of `key_of`; without rows the result cannot be computed.
        make: As for `Keeper`.
        read: As for `Keeper`.

    Raises:
        ConfigError: There are no rows, and no stored result has the same key.
    """
    return keeper(file, key, make if "rows" in key else None, read)


def digest_of_experts(experts: Experts) -> str:
    """Hash the tensors and configurations of the base and of all experts."""
    own = {task: digest_of_expert(expert) for task, expert in experts.tasks.items()}
    return digest_of_json([experts.base.digest(), own])


def digest_of_expert(expert: Expert) -> str:
    """Hash an expert's tensors, and its configuration if the expert was read from disk."""
    checkpoint = expert.checkpoint
    config = digest_of_json(checkpoint.settings()) if checkpoint else ""
    return digest_of_json([expert.weights.digest(), config])


def digest_of_rows(rows: Mapping[str, Rows], size: int) -> str:
    """Hash every task's encoded rows, `size` per batch."""
    digest = hashlib.sha256()
    for task, own in rows.items():
        digest.update(f"{task} {len(own)}".encode())
        for batch in own.batches(size):
            counted = {} if batch.positions is None else {"positions": batch.positions}
            digest.update(digest_of({**batch.inputs, **counted}).encode())
    return digest.hexdigest()
