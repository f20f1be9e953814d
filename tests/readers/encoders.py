"""Sentence encoders: merged and exported, and saved by sentence-transformers as the merge computes in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from read import TEXTS
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from adamerge import Merge

Build = Callable[[str, Mapping[str, object], int, PreTrainedModel | None], PreTrainedModel]
Write = Callable[[Path], None]

ENCODERS: Mapping[str, tuple[str, str, Mapping[str, object], bool]] = {
    f"{family}, {base}": (architecture, pooling, more, base == "sentence encoder")
    for family, architecture, pooling, more in (
        ("BERT", "BertModel", "cls", {}),
        ("ModernBERT", "ModernBertModel", "mean", {}),
        ("Qwen2", "Qwen2Model", "lasttoken", {"num_key_value_heads": 1}),
    )
    for base in ("plain base", "sentence encoder")
}
"""Class of the transformer, pooling, settings, and whether the base is a sentence encoder too."""

WIDTH, OUT, SCALE = 32, 12, 0.3


def merged_encoder(
    name: str, folder: Path, build: Build, sizes: Mapping[str, object], tokenizer: Write
) -> tuple[dict[str, Path], np.ndarray]:
    """Merge and export sentence encoders; returns the export, the same model as saved, and the embeddings in memory."""
    architecture, pooling, more, with_base = ENCODERS[name]
    base = build(architecture, {**sizes, **more}, 0, None)
    dense: dict[str, dict[str, Tensor]] = {}
    for seed, part in enumerate(("base", "a", "b")):
        model = base if part == "base" else build(architecture, {**sizes, **more}, seed, base)
        model.save_pretrained(folder / part)
        tokenizer(folder / part)
        if part != "base" or with_base:
            dense[part] = _dense(seed)
            _save_modules(folder / part, pooling, dense[part], tokenizer)
    result = Merge(str(folder / "base"), [str(folder / "a"), str(folder / "b")], method="task_arithmetic", init=SCALE)
    learned = result.learn()
    module = cast(PreTrainedModel, learned.module("a"))
    expected = _merged(dense)
    module.save_pretrained(folder / "saved")
    tokenizer(folder / "saved")
    _save_modules(folder / "saved", pooling, expected, tokenizer)
    exported = learned.export(folder / "export").folder
    return {"export": exported, "saved": folder / "saved"}, _embeddings(module, folder / "saved", pooling, expected)


def _dense(seed: int) -> dict[str, Tensor]:
    """Weights of a dense layer; those of experts lie near each other."""
    common, own = (torch.Generator().manual_seed(number) for number in (100, 101 + seed))
    shapes = {"linear.weight": (OUT, WIDTH), "linear.bias": (OUT,)}
    return {n: torch.randn(s, generator=common) * 0.3 + torch.randn(s, generator=own) * 0.1 for n, s in shapes.items()}


def _merged(dense: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What the merged dense layer should be: base + Σ c·(expert − base), or the mean where the base has none."""
    experts = [own for part, own in dense.items() if part != "base"]
    if "base" not in dense:
        return {name: cast(Tensor, sum(own[name] for own in experts)) / len(experts) for name in experts[0]}
    return {
        name: start + SCALE * cast(Tensor, sum(own[name] - start for own in experts))
        for name, start in dense["base"].items()
    }


def _save_modules(folder: Path, pooling: str, dense: Mapping[str, Tensor], tokenizer: Write) -> None:
    """Make the transformer in a folder a sentence encoder, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    layer = Dense(WIDTH, OUT)
    layer.load_state_dict(dict(dense))
    modules = [Transformer(str(folder)), Pooling(WIDTH, pooling_mode=pooling), layer, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    tokenizer(folder)


def _embeddings(module: PreTrainedModel, tokenizer: Path, pooling: str, dense: Mapping[str, Tensor]) -> np.ndarray:
    """Embed by hand: the transformer in memory, pooling, the dense layer with tanh, length 1."""
    rows = AutoTokenizer.from_pretrained(tokenizer)(
        list(TEXTS), padding=True, padding_side="right", return_tensors="pt"
    )
    with torch.no_grad():
        hidden, mask = module(**rows).last_hidden_state, rows["attention_mask"]
    pooled = _pooled(hidden, mask, pooling)
    found = (pooled @ dense["linear.weight"].T + dense["linear.bias"]).tanh()
    return torch.nn.functional.normalize(found).numpy()


def _pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
