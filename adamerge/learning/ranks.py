"""Import Lightning, which reads its rank where it is imported, also where a variable of that name holds no number."""

import importlib
import os

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that Lightning reads as numbers on import."""

MODULE = "lightning_fabric.utilities.rank_zero"
"""The module of Lightning that reads them."""


def import_lightning() -> None:
    """Import Lightning without the ranks that are no numbers; then they are as they were."""
    wrong = {name: os.environ[name] for name in RANKS if not _is_number(os.environ.get(name, "0"))}
    for name in wrong:
        del os.environ[name]
    try:
        _ = importlib.import_module(MODULE)
    finally:
        os.environ.update(wrong)


def _is_number(text: str) -> bool:
    try:
        _ = int(text)
    except ValueError:
        return False
    return True


import_lightning()
