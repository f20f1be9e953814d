"""What an exported adapter is, in words: ranks, size, what was cut off, what rounding left."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from adamerge.experts.name_patterns import several
from adamerge.merging.rounding import Rounding
from adamerge.results.adapter_factors import LowRankChange
from adamerge.results.adapter_layout import OUT_PROJ, Slot
from adamerge.results.surviving import Surviving

ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank; 16 is its default."""


def notes_of(
    found: Mapping[str, LowRankChange],
    rank: int,
    max_rank: int | None,
    rounding: Rounding,
    size: int,
    peft: str | None,
    dense: Surviving,
    slots: Sequence[Slot],
) -> Iterator[str]:
    """Describe an exported adapter, line by line.

    Args:
        found: Factors by parameter.
        rank: Of the file.
        max_rank: What was asked for.
        rounding: How factors were rounded.
        size: Bytes of factors and heads on disk.
        peft: Version of PEFT that loaded the adapter; None if it is not installed.
        dense: What rounding would leave in a complete checkpoint.
        slots: Where the factors are.
    """
    dtype = str(rounding.heads or torch.float32).removeprefix("torch.")
    ranks = sorted({change.rank for change in found.values()}) or [0]
    padded = f", padded from {ranks[0]}" if ranks[0] < rank else ""
    yield (
        f"adapter: LoRA of rank {rank} (lora_alpha {rank}, so the scale is 1{padded}) on {len(found)} modules, "
        f"{dtype}, {size / 1e6:.1f} MB; {_engine(rank)}"
    )
    by_name = [f"{slot.module}.{slot.parameter}" for slot in slots if slot.kind is nn.Module]
    if by_name:
        yield (
            f"note: {len(by_name)} parameters are targeted by name ({several(by_name)}): experts of a mixture, or "
            "layers that PEFT would take for some. PEFT and transformers load them; vLLM in recent versions alone, and "
            "only fused experts (gate_up_proj with down_proj). Else serve a complete checkpoint"
        )
    if any(slot.parameter == OUT_PROJ for slot in slots):
        yield (
            "note: factors of out_proj in nn.MultiheadAttention are written by half, because PEFT (0.21) adds them "
            "twice, live as when it merges"
        )
    if max_rank is not None:
        yield from _truncation(found, max_rank)
    if dense.share is not None:
        kind = " and ".join(str(one).removeprefix("torch.") for one in dense.dtypes)
        yield (
            f"a complete checkpoint in {kind} ({rounding.mode}) would keep {dense.share:.3f} of what was merged in; "
            "an adapter's factors are rounded beside the base, not together with it"
        )
    if peft is None:
        yield (
            "warning: PEFT is not installed, so the adapter was compared with the merge, but not loaded by PEFT and "
            "transformers. To do so: pip install 'adamerge[adapters]'"
        )
    else:
        yield f"loaded by PEFT {peft} and by transformers' load_adapter: equal to the merge"


def _engine(rank: int) -> str:
    allowed = next((one for one in ENGINE_RANKS if one >= rank), None)
    if allowed is None:
        return f"vLLM takes ranks up to {ENGINE_RANKS[-1]}: set max_rank"
    return f"vLLM needs --max-lora-rank {allowed}"


def _truncation(found: Mapping[str, LowRankChange], max_rank: int) -> Iterator[str]:
    """Say the relative error of a truncation: of everything, by kind of module, and the largest ones."""
    cut = {name: change.dropped / change.norm for name, change in found.items() if change.dropped}
    if not cut:
        yield f"max_rank {max_rank}: nothing was cut off"
        return
    yield f"max_rank {max_rank}: relative error of the change {relative_error(found):.4f}; {len(cut)} modules are cut"
    kinds: dict[str, list[float]] = {}
    for name, error in cut.items():
        kinds.setdefault(name.removesuffix(".weight").rpartition(".")[2], []).append(error)
    words = [f"{kind} {sum(own) / len(own):.4f} (at most {max(own):.4f})" for kind, own in kinds.items()]
    yield f"by kind of module, mean: {', '.join(words)}"
    worst = sorted(cut, key=lambda name: -cut[name])[:3]
    yield f"largest: {', '.join(f'{name} {cut[name]:.4f}' for name in worst)}"


def relative_error(found: Mapping[str, LowRankChange]) -> float:
    """Compute ‖what was cut off‖ / ‖change‖ over all parameters."""
    total = sum(change.norm**2 for change in found.values())
    return (sum(change.dropped**2 for change in found.values()) / total) ** 0.5 if total else 0.0
