"""Bootstrap intervals of shares, from the share and the number of rows alone."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

LEVEL = 0.95
_DRAWS = 4000


def interval(share: float, rows: int) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a share of rows, exactly.

    A resample of n rows of which k are right has Binomial(n, k/n) right ones, so no row has to be drawn.

    Args:
        share: k/n, 0 to 1.
        rows: n.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled share.

    Example:
        >>> interval(0.5, 100)
        (0.4, 0.6)

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    low, high = binom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], rows, min(max(share, 0.0), 1.0)) / rows
    return float(low), float(high)


def interval_of_mean(shares: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Compute the same of the mean over tasks, whose rows are resampled apart.

    Args:
        shares: Share and number of rows of each task.
    """
    random = np.random.default_rng(0)
    draws = [random.binomial(rows, min(max(share, 0.0), 1.0), _DRAWS) / rows for share, rows in shares]
    low, high = np.quantile(np.mean(draws, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
