"""A base and three experts of a tiny Llama, trained on what every Python brings along: its code, its docs, its names.

    python tests/benchmarks/language_family.py language_family       # about a minute

The base is trained on a mix of three domains, each expert goes on with one of them: `code` is the standard library's
source without comments and docstrings, `docs` its docstrings and help texts, `names` the characters of Unicode with
their names. Every tenth document of a domain is a test document, and of the others every tenth is for calibration:
neither base nor expert has seen it. A folder that is complete is left as it is.
"""

import argparse
import ast
import json
import sysconfig
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DOMAINS = ("code", "docs", "names")
PIECE = 200
"""Characters a row, about; rows end with a line."""


@dataclass(frozen=True)
class Training:
    """How large the models are and how long they are trained.

    Attributes:
        words: Of the vocabulary.
        width: Hidden channels.
        layers: Transformer blocks.
        base_steps: Steps on the mix.
        expert_steps: Steps on one domain, from the base on.
        batch: Rows a step.
        length: Tokens a row.
        characters: Of each domain at most.
        rows: Of each domain at most, to calibrate with and to test on.
    """

    words: int = 1024
    width: int = 128
    layers: int = 3
    base_steps: int = 300
    expert_steps: int = 150
    batch: int = 16
    length: int = 64
    characters: int = 1_200_000
    rows: int = 256


def documents(domain: str) -> Iterator[str]:
    """The documents of a domain, always the same in the same order."""
    if domain == "names":
        for start in range(0, 0x20000, 128):
            named = [(i, _name(i)) for i in range(start, start + 128)]
            lines = [f"{i:04X} {unicodedata.category(chr(i))} {name}" for i, name in named if name]
            if len(lines) > 40:
                yield "\n".join(lines) + "\n"
        return
    if domain == "docs":
        yield from (text for _, text in sorted(topics.items()))
    for tree in _library():
        described = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
        if domain == "docs":
            found = [text for text in map(ast.get_docstring, described) if text and len(text) > 120]
            if found:
                yield "\n\n".join(found) + "\n"
        else:
            for node in described:
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
            yield ast.unparse(tree) + "\n"


def _library() -> Iterator[ast.Module]:
    """The standard library's modules, in an order that mixes its packages."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.rglob("*.py"), key=lambda file: sha256(file.name.encode()).digest()):
        if {"site-packages", "test", "tests", "lib2to3", "encodings"} & set(file.relative_to(library).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue


def _name(index: int) -> str:
    name = unicodedata.name(chr(index), "")
    return "" if name.startswith(("CJK", "HANGUL SYLLABLE", "TANGUT", "NUSHU", "KHITAN")) else name


def pieces(document: str) -> Iterator[str]:
    """A document in rows of whole lines."""
    lines: list[str] = []
    for line in document.splitlines(keepends=True):
        lines.append(line)
        if sum(map(len, lines)) >= PIECE:
            yield "".join(lines)
            lines = []


def split(domain: str, characters: int) -> dict[str, list[str]]:
    """Rows of a domain: to train on, to calibrate with, to test on; no document is in two of them."""
    rows: dict[str, list[str]] = {"train": [], "calibration": [], "test": []}
    size = 0
    for number, document in enumerate(documents(domain)):
        part = "test" if number % 10 == 0 else "calibration" if number % 10 == 5 else "train"
        rows[part] += pieces(document)
        size += len(document)
        if size > characters:
            break
    return rows


def make_family(folder: Path, training: Training) -> None:
    """Write models/base, models/<domain> and data/<domain>_<part>.jsonl, unless they are there already."""
    if (folder / "complete").exists():
        return
    rows = {domain: split(domain, training.characters) for domain in DOMAINS}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for domain, parts in rows.items():
        for part in ("calibration", "test"):
            chosen = _every(parts[part], training.rows)
            text = "".join(json.dumps(_row(piece)) + "\n" for piece in chosen)
            (folder / "data" / f"{domain}_{part}.jsonl").write_text(text, encoding="utf-8")
    tokenizer = make_tokenizer([row for parts in rows.values() for row in _every(parts["train"], 1500)], training)
    streams = [_stream(tokenizer, parts["train"]) for parts in rows.values()]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=training.width, intermediate_size=3 * training.width,
        num_hidden_layers=training.layers, num_attention_heads=4, max_position_embeddings=256, bos_token_id=0,
        eos_token_id=1, pad_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    base = LlamaForCausalLM(config)
    train(base, streams, training.base_steps, 3e-3, training)
    tokenizer.save_pretrained(folder / "models/base")
    base.save_pretrained(folder / "models/base")
    for domain, stream in zip(DOMAINS, streams, strict=True):
        expert = LlamaForCausalLM(config)
        expert.load_state_dict(base.state_dict())
        train(expert, [stream], training.expert_steps, 1e-3, training)
        expert.save_pretrained(folder / "models" / domain)
    (folder / "complete").touch()


def make_tokenizer(texts: Sequence[str], training: Training) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a token for the beginning and one for the end."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=training.words, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", model_max_length=10**6)


def train(
    model: LlamaForCausalLM, streams: Sequence[torch.Tensor], steps: int, rate: float, training: Training
) -> None:
    """Next-token training on windows drawn from the streams in turn."""
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        batch: list[torch.Tensor] = []
        for row in range(training.batch):
            stream = streams[row % len(streams)]
            start = int(torch.randint(len(stream) - training.length, (), generator=draw))
            batch.append(stream[start : start + training.length])
        ids = torch.stack(batch)  # (B, S)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"  step {step:4d}  loss {loss.item():.3f}", flush=True)
    model.eval()


def _row(piece: str) -> dict[str, str]:
    """A piece as a whole, and divided at a line's end near its middle into what is given and what follows."""
    middle = piece.find("\n", len(piece) // 3) + 1
    middle = middle if 0 < middle < len(piece) else len(piece) // 2
    return {"text": piece, "prompt": piece[:middle], "completion": piece[middle:]}


def _stream(tokenizer: PreTrainedTokenizerFast, rows: Sequence[str]) -> torch.Tensor:
    """All rows one after the other, each with its beginning."""
    return torch.tensor([token for ids in tokenizer(list(rows))["input_ids"] for token in ids])


def _every(rows: Sequence[str], count: int) -> list[str]:
    """At most `count` rows, evenly spread."""
    return list(rows[:: max(1, len(rows) // count)][:count])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    make_family(parser.parse_args().folder, Training())
