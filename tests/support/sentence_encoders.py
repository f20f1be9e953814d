"""Tiny sentence encoders, and what they compute by plain transformers and torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from support.families import build, near, save_family, save_tokenizer
from torch import Tensor
from transformers import AutoTokenizer

TASKS = ("mood", "topic")
TEXTS = ["good film", "so bad the song was", "calm"]


def save_encoders(folder: Path) -> Path:
    """A BERT base and two experts near it, with tokenizers; plain encoders."""
    base = build("BertModel", "bert", 0)
    save_family(folder, base, {task: near("BertModel", "bert", base, seed) for seed, task in enumerate(TASKS, 1)})
    for name in ("base", *TASKS):
        save_tokenizer(folder / name)
    return folder


def as_sentence_encoder(folder: str | Path, seed: int, size: int = 8, mode: str = "cls") -> None:
    """Save pooling, a dense layer and normalisation beside a plain encoder."""
    torch.manual_seed(seed)
    modules = [Transformer(str(folder)), Pooling(16, pooling_mode=mode), Dense(16, size), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))


def by_hand(folder: str | Path, dense: Mapping[str, Tensor], texts: Sequence[str] = TEXTS) -> Tensor:
    """Embed with plain transformers: the first token, a dense layer with tanh, length 1."""
    model, tokenizer = transformers.AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        hidden = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).last_hidden_state[:, 0]
    return torch.nn.functional.normalize((hidden @ dense["linear.weight"].T + dense["linear.bias"]).tanh())


def cosines(folder: str | Path, dense: Mapping[str, Tensor]) -> Tensor:
    """Cosines of what sentence-transformers and plain transformers compute."""
    found = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    return torch.nn.functional.cosine_similarity(found, by_hand(folder, dense))
