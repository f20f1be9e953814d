"""Do other readers of an exported checkpoint compute what the merge computes in memory?

    python tests/readers/run.py                      # about five minutes on two cores; installs the readers with pip
    python tests/readers/run.py --readers transformers4 mlx --families llama3 gemma3

Tiny families with random weights are merged and exported. Each reader computes the logits of the export and of the same
model as transformers saves it (`save_pretrained`), in a process of its own; both are compared with the merge in memory.
llama.cpp's converter writes a file instead: tensors and numbers of the file made of the export are compared with those
of the file made of what transformers saved. sentence-transformers embeds texts with encoders that have Pooling, Dense
and Normalize, merged over a plain encoder and over a sentence encoder; in memory that is computed by hand. Printed is
the largest difference, or what the reader says.

Readers are installed without dependencies into the folder --packages, beside what this environment has.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import transformers
from encoders import ENCODERS, merged_encoder
from support.families import save_tokenizer
from transformers import PreTrainedModel

from adamerge import Merge

TRANSFORMERS_4 = (
    "transformers==4.57.6", "tokenizers==0.22.1", "huggingface_hub==0.36.0",
    "requests", "urllib3", "idna", "certifi", "charset-normalizer",
)  # fmt: skip
HTTPX = ("httpx", "httpcore", "h11", "anyio", "sniffio")
PACKAGES: Mapping[str, Sequence[str]] = {
    "transformers5": (),
    "transformers4": TRANSFORMERS_4,
    "mlx": ("mlx", "mlx-cpu", "mlx-lm"),
    "ctranslate2": ("ctranslate2", *TRANSFORMERS_4),
    "gguf": ("llama-cpp-python==0.3.36",),
    "sentence_transformers": ("sentence-transformers",),
    "sentence_transformers5": ("sentence-transformers==5.1.2", "datasets==4.4.1", *HTTPX, *TRANSFORMERS_4),
}
"""What pip installs for each reader."""

MODULE = {
    "transformers5": "transformers",
    "transformers4": "transformers",
    "sentence_transformers5": "sentence_transformers",
}

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}


def plain(theta: float, **more: float) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": theta, **more}


LAYERS = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
    "sliding_attention": plain(2e4),
}
FAMILIES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "llama": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": plain(5e5), "tie_word_embeddings": True}),
    "llama3": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": SCALED}),
    "yarn": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": YARN}),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED, "rope_parameters": plain(1e6)}),
    "mistral": ("MistralForCausalLM", {**GROUPED, "rope_parameters": plain(1e6), "sliding_window": None}),
    "mixtral": (
        "MixtralForCausalLM",
        {**GROUPED, "rope_parameters": plain(1e6), "sliding_window": None, "num_local_experts": 4},
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {
            **GROUPED,
            "head_dim": 16,
            "moe_intermediate_size": 24,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "rope_parameters": plain(1e6),
        },
    ),
    "phi": ("PhiForCausalLM", {**SIZES, "rope_parameters": plain(2e4, partial_rotary_factor=0.5)}),
    "phi3": ("Phi3ForCausalLM", {**GROUPED, "rope_parameters": plain(2e4)}),
    "smollm3": ("SmolLM3ForCausalLM", {**GROUPED, "rope_parameters": plain(2e6)}),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        {**SIZES, "intermediate_size": 128, "rope_parameters": plain(2e4, partial_rotary_factor=0.5)},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **GROUPED,
            "head_dim": 16,
            "rope_parameters": LAYERS,
            "sliding_window": 4,
            "query_pre_attn_scalar": 16,
            "num_hidden_layers": 6,
            "layer_types": [*["sliding_attention"] * 5, "full_attention"],
        },
    ),
    "olmo2": ("Olmo2ForCausalLM", {**SIZES, "rope_parameters": plain(5e5)}),
    "olmo3": (
        "Olmo3ForCausalLM",
        {
            **SIZES,
            "rope_parameters": {**LAYERS, "sliding_attention": plain(1e6)},
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 40}),
    "bert": ("BertForSequenceClassification", SIZES),
    "modernbert": (
        "ModernBertForSequenceClassification",
        {**SIZES, "rope_parameters": {"full_attention": plain(1e5), "sliding_attention": plain(2e4)}},
    ),
}


def build(architecture: str, sizes: Mapping[str, object], seed: int, near: PreTrainedModel | None) -> PreTrainedModel:
    """A model with random weights, near another one if one is given."""
    cls = getattr(transformers, architecture)
    torch.manual_seed(seed)
    model = cls(cls.config_class(**sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
            if near is not None:
                parameter.mul_(0.2).add_(near.get_parameter(name))
    return model.eval()


def write_tokenizer(folder: Path) -> None:
    """A tokenizer with every special token that converters ask for."""
    save_tokenizer(folder, end="[SEP]")
    file = folder / "tokenizer_config.json"
    former = {"bos_token": "[CLS]", "tokenizer_class": "PreTrainedTokenizerFast"}  # transformers 4 knows no other name
    file.write_text(json.dumps({**json.loads(file.read_text()), **former}))


def merged(name: str, folder: Path, ids: np.ndarray) -> tuple[dict[str, Path], np.ndarray]:
    """Merge and export a family; returns the export, the same model saved by transformers, and its logits."""
    architecture, sizes = FAMILIES[name]
    base = build(architecture, sizes, 0, None)
    for seed, part in enumerate(("base", "a", "b")):
        model = base if part == "base" else build(architecture, sizes, seed, base)
        model.save_pretrained(folder / part)
        write_tokenizer(folder / part)
    result = Merge(str(folder / "base"), [str(folder / "a"), str(folder / "b")], method="task_arithmetic").learn()
    exported = result.export(folder / "export").checkpoints["a"]
    module = result.module("a")
    assert isinstance(module, PreTrainedModel)
    module.save_pretrained(folder / "saved")
    write_tokenizer(folder / "saved")
    with torch.no_grad():
        logits = module(torch.from_numpy(ids)).logits.numpy()
    return {"export": exported, "saved": folder / "saved"}, logits


def install(reader: str, packages: Path) -> list[str]:
    """Install a reader, if it is not there; returns what its path begins with."""
    place = packages / reader
    if PACKAGES[reader] and not place.exists():
        source = ["download", "--no-binary", ":all:", "--dest"] if reader == "gguf" else ["install", "--target"]
        pip = [sys.executable, "-m", "pip", source[0], "-q", "--no-deps", *source[1:], str(place)]
        subprocess.run([*pip, *PACKAGES[reader]], check=True)
    if reader != "gguf":
        return [str(place)] if PACKAGES[reader] else []
    if not any(file.is_dir() for file in place.iterdir()):
        with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
            archive.extractall(place, filter="data")
    root = next(place.glob("*/vendor/llama.cpp"))
    return [str(root), str(root / "gguf-py")]


def read(reader: str, path: Sequence[str], checkpoints: Sequence[Path], ids: Path) -> list[np.ndarray | str]:
    """What a reader computes of each checkpoint; or what it says."""
    with tempfile.TemporaryDirectory() as out:
        script, module = str(Path(__file__).with_name("read.py")), MODULE.get(reader, reader)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, script, module, str(ids), out, *map(str, checkpoints)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return [_found(Path(out) / str(number), said) for number in range(len(checkpoints))]


def _found(out: Path, said: str) -> np.ndarray | str:
    if out.with_suffix(".npy").exists():
        return np.load(out.with_suffix(".npy"))
    text = out.with_suffix(".txt").read_text() if out.with_suffix(".txt").exists() else said
    return text[:110].replace("|", " ")


def difference(found: np.ndarray | str, expected: np.ndarray | str) -> str:
    """The largest difference, or the message."""
    if isinstance(found, str) or isinstance(expected, str):
        return found if isinstance(found, str) else "the export alone is read"
    if found.shape != expected.shape:
        return f"shape {found.shape}, not {expected.shape}"
    return f"{float(np.abs(found - expected).max(initial=0)):.1e}"


def _made(name: str, folder: Path, ids: np.ndarray) -> tuple[dict[str, Path], np.ndarray]:
    if name in FAMILIES:
        return merged(name, folder, ids)
    return merged_encoder(name, folder, build, SIZES, write_tokenizer)


def _reads(reader: str, name: str) -> bool:
    """Return whether a family is for a reader: sentence encoders for sentence-transformers alone."""
    return (name in ENCODERS) == reader.startswith("sentence")


def _wanted(name: str, readers: Mapping[str, object]) -> bool:
    return any(_reads(reader, name) for reader in readers)


def _compared(
    reader: str, path: Sequence[str], own: Mapping[str, tuple[dict[str, Path], np.ndarray]], ids: Path
) -> dict[str, tuple[str, ...]]:
    """Let a reader compute what each family's two checkpoints say; returns the largest differences by family."""
    found = iter(read(reader, path, [one for places, _ in own.values() for one in places.values()], ids))
    table: dict[str, tuple[str, ...]] = {}
    for name, (_, logits) in own.items():
        export, saved = next(found), next(found)
        if reader == "gguf":  # the files of both are compared with each other
            table[name] = (difference(export, saved),)
        else:
            table[name] = (difference(export, logits), difference(saved, logits))
    return table


def table(found: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Iterator[str]:
    """Yield the lines of a table: a row for each family, and columns for each of its readers."""
    columns = [(reader, n) for reader, rows in found.items() for n in range(len(next(iter(rows.values()), ())))]
    heads = [f"{reader}: {'saved' if n else 'export'}" for reader, n in columns]
    yield f"| family | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for name in dict.fromkeys(name for rows in found.values() for name in rows):
        cells = [found[reader].get(name, ("", ""))[n] for reader, n in columns]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("readers"))
    parser.add_argument("--readers", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    every = [*FAMILIES, *ENCODERS]
    parser.add_argument("--families", nargs="+", default=every, choices=every)
    options = parser.parse_args()
    paths = {reader: install(reader, options.packages) for reader in options.readers}
    with tempfile.TemporaryDirectory() as place:
        ids = Path(place) / "ids.npy"
        np.save(ids, np.random.default_rng(0).integers(3, 40, (1, 24)))
        models = {
            name: _made(name, Path(place) / name, np.load(ids)) for name in options.families if _wanted(name, paths)
        }
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for reader, path in paths.items():
            own = {name: model for name, model in models.items() if _reads(reader, name)}
            found[reader] = _compared(reader, path, own, ids)
            print(f"{reader}: {found[reader]}", file=sys.stderr, flush=True)
    for encoders in (False, True):
        rows = {reader: one for reader, one in found.items() if reader.startswith("sentence") is encoders and one}
        print(*table(rows), "", sep="\n") if rows else None


if __name__ == "__main__":
    main()
