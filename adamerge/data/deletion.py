"""Random deletion of tokens, by which one text becomes several."""

import random
from collections.abc import Collection, Sequence

from adamerge.data.settings import Augmentation


def deletions(
    rows: Sequence[tuple[int, Sequence[int]]], special: Collection[int], how: Augmentation, seed: int
) -> list[tuple[int, Sequence[int]]]:
    """Draw which tokens of each copy of each row stay.

    Every copy draws its own share p, uniform between 0 and `how.deletion`, and loses each token with probability p. It
    keeps special tokens, and one token at least.

    Args:
        rows: Index and token ids of each row.
        special: Ids of tokens that stay.
        how: Number of copies of so many rows, and the largest share.
        seed: Random seed.

    Returns:
        Index of the row and places of the tokens that stay, one copy after another.

    Example:
        >>> deletions([(7, [0, 5, 6, 8, 9, 1])], {0, 1}, Augmentation(copies=2, deletion=0.9), seed=3)
        [(7, [0, 1, 2, 3, 4, 5]), (7, [0, 2, 3, 4, 5])]
    """
    drawn, copies = random.Random(seed), range(how.copies_of(len(rows)))
    return [(row, _kept(ids, special, drawn.random() * how.deletion, drawn)) for _ in copies for row, ids in rows]


def _kept(ids: Sequence[int], special: Collection[int], share: float, drawn: random.Random) -> list[int]:
    stays = [token in special or drawn.random() >= share for token in ids]
    words = [place for place, token in enumerate(ids) if token not in special]
    if words and not any(stays[place] for place in words):
        stays[drawn.choice(words)] = True
    return [place for place, stay in enumerate(stays) if stay]
