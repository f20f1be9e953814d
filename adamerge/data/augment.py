"""Changed copies of the rows to learn from."""

from collections.abc import Mapping

from adamerge.data.rows import Rows
from adamerge.data.settings import Augmentation


def augmented(rows: Mapping[str, Rows], how: Augmentation | None, seed: int) -> dict[str, Rows]:
    """Add changed copies to every task's rows, where that is possible.

    Args:
        rows: Rows per task.
        how: How many copies, and what is changed; None changes nothing.
        seed: Random seed of the changes.
    """
    return {task: (how and own.augmented(how, seed)) or own for task, own in rows.items()}
