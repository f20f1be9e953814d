"""Export a merge in the form that was asked for: a complete checkpoint, or an adapter."""

from pathlib import Path

from adamerge.merging.merged_model import MergedModel
from adamerge.results.adapter_export import export_adapter
from adamerge.results.adapter_settings import AdapterExport
from adamerge.results.export import SHARD_BYTES, Cards, Exported, export
from adamerge.types import Coefficients


def export_as(
    adapter: AdapterExport | None,
    model: MergedModel,
    coefficients: Coefficients,
    folder: Path,
    *,
    shard_bytes: int | None,
    links: bool = True,
    cards: Cards | None = None,
) -> Exported:
    """Write a merge; see `export` and `export_adapter`.

    Args:
        adapter: Options of an adapter; None writes a complete checkpoint.
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Output folder; must not exist.
        shard_bytes: Maximum size of one file of a complete checkpoint; None takes 50 GB; an adapter is one file.
        links: Whether folders of tasks may share files by hard links.
        cards: Writes model cards into the folder before it appears.
    """
    if adapter is None:
        return export(model, coefficients, folder, shard_bytes=shard_bytes or SHARD_BYTES, links=links, cards=cards)
    return export_adapter(model, coefficients, folder, max_rank=adapter.max_rank, cards=cards)
