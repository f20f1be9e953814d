"""Import Lightning, which reads its rank where it is imported, also where a variable of that name holds no number."""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that Lightning reads as numbers on import."""

SEEDS = ("PL_SEED_WORKERS",)
"""Variables that Lightning reads as numbers when it learns."""

MODULE = "lightning_fabric.utilities.rank_zero"
"""The module of Lightning that reads ranks."""


def import_lightning() -> None:
    """Import Lightning without the ranks that are no numbers."""
    with numbers_alone(RANKS):
        _ = importlib.import_module(MODULE)


@contextmanager
def numbers_alone(names: Sequence[str]) -> Iterator[None]:
    """Leave out in the block those variables that hold no number; then they are as they were.

    Args:
        names: Variables that are read as numbers.
    """
    wrong = {name: os.environ[name] for name in names if not _is_number(os.environ.get(name, "0"))}
    for name in wrong:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(wrong)


def _is_number(text: str) -> bool:
    try:
        _ = int(text)
    except ValueError:
        return False
    return True


import_lightning()
