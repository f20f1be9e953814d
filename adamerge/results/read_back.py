"""Read back what was written, as a user would load it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' progress bars off inside the block: one per file would bury what matters."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()


def load(architecture: str, place: Path, trust_remote_code: bool) -> nn.Module:
    """Load a checkpoint in fp32 as a user would.

    Raises:
        RuntimeError: transformers does not find every tensor that its class needs.
    """
    cls = getattr(transformers, architecture, transformers.AutoModel)
    trust = {"trust_remote_code": True} if trust_remote_code else {}
    with without_bars():
        loaded, info = cls.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **trust)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise RuntimeError(f"{place}: transformers does not find {sorted(info['missing_keys'])}. Please report this.")
    return loaded


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Equal but for fp32 combining and one rounding to the dtype on disk; integers are equal."""
    if not expected.is_floating_point():
        return torch.equal(found.cpu(), expected.cpu())
    found, expected = found.detach().float(), expected.detach().cpu().float()
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    return bool(((found - expected).abs() <= rounding * (expected.abs() + expected.abs().amax())).all())
