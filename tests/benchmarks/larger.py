"""Files larger than memory: `adamerge fit` and `adamerge export` on a model of 1.5 B parameters, watched from outside.

    python tests/benchmarks/larger.py --folder FOLDER     # Qwen2.5-1.5B's shapes, 8 experts: 28 GB of files
    python tests/benchmarks/larger.py --layers 2 --width 64 --vocabulary 2000 --experts 2

Base and experts with random weights are written in bf16. Two runs of three steps learn with 4 rows of each task, one
coefficient per tensor and then chunks; `export` writes the merge of the second run again. Every command is a process of
its own: anonymous memory (RssAnon) and bytes from the disk (/proc/PID/io) are sampled while it runs.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from transformers import Qwen2Config, Qwen2ForCausalLM
from watched import anonymous

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.families import save_rows, save_tokenizer


class Taken(NamedTuple):
    """What a command took: seconds, peak anonymous memory, bytes from the disk, and its last lines."""

    seconds: float
    peak: int
    read: int
    text: str


def make(folder: Path, options: argparse.Namespace) -> None:
    """Write base, experts, rows and merge.yaml."""
    config = Qwen2Config(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.width * 35 // 6,
        num_hidden_layers=options.layers,
        num_attention_heads=max(2, options.width // 128),
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size=options.max_shard_size)
    save_tokenizer(folder / "base", end="[SEP]")
    start = {name: value.clone() for name, value in model.named_parameters()}
    for number in range(options.experts):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.randn(parameter.shape).mul_(2e-3).add_(start[name]))
        model.save_pretrained(folder / f"e{number}", max_shard_size=options.max_shard_size)
        save_rows(folder / f"e{number}.jsonl", options.rows, number)
    written = {
        "base_model": "base",
        "models": [{"model": f"e{k}", "calibration": f"e{k}.jsonl"} for k in range(options.experts)],
        "method": "expert_merging",
        "memory": {"mode": "streamed", "limit": options.limit},
        "out_dtype": "bfloat16",
        "data": {"batch_size": options.rows, "held_out": 0.0, "micro_batch": options.rows, "positions": "all"},
        "watch": {"every": options.steps},
        "trainer": {"max_steps": options.steps, "accelerator": "cpu"},
    }
    (folder / "merge.yaml").write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")


def take(folder: Path, *words: str) -> Taken:
    """Run a command of adamerge and watch it."""
    began, peak, read = time.perf_counter(), 0, 0
    log = folder / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "adamerge", *words], cwd=folder, stdout=out, stderr=out)
        while process.poll() is None:
            try:
                peak = max(peak, 1024 * anonymous(process.pid))
                read = max(read, _read(process.pid))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                break
            time.sleep(0.05)
        code = process.wait()
    text = log.read_text()
    if code:
        raise SystemExit(text)
    seconds = time.perf_counter() - began
    print(f"adamerge {' '.join(words)}: {seconds:.0f} s, {peak / 1e9:.2f} GB, read {read / 1e9:.1f} GB", flush=True)
    return Taken(seconds, peak, read, text)


def copy(files: list[Path], to: Path, written: int) -> float:
    """Read all inputs once, and write as many bytes as the output has; returns seconds."""
    began, piece = time.perf_counter(), bytearray(2**24)
    for file in files:
        with file.open("rb", buffering=0) as own:
            while own.readinto(piece):
                pass
    with to.open("wb") as out:
        for _ in range(0, written, len(piece)):
            out.write(piece)
        out.flush()
    seconds = time.perf_counter() - began
    to.unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--rows", type=int, default=4, help="Rows of a task in a step.")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--limit", default="5GB", help="memory.limit")
    parser.add_argument("--max-shard-size", default="50GB")
    parser.add_argument("--folder", type=Path, help="Where the files are, or are written and stay.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = (options.folder or Path(place)).absolute()
        if not (folder / "merge.yaml").exists():
            make(folder, options)
        inputs = sorted(folder.glob("*/*.safetensors"))
        size = sum(file.stat().st_size for file in inputs)
        print(f"{size / 1e9:.1f} GB of files", flush=True)
        chunks = [
            "--method",
            "expert_merging++",
            "--centre",
            "null",
            "--chunks",
            "{budget: 8, first_steps: 0, importance: rms}",
        ]
        for run, more in (("tensors", []), ("chunks", chunks)):
            taken = take(folder, "fit", "--config", "merge.yaml", "--run_dir", f"run_{run}", *more)
            print(*(line for line in taken.text.splitlines() if line.startswith(("memory:", "a step"))), sep="\n")
            (said,) = re.findall(r"^memory: streamed (\d+) MB", taken.text, re.MULTILINE)[:1]
            (read,) = re.findall(r"read ([\d.]+) MB from the disk", taken.text)[-1:]
            print(f"{run}: peak {taken.peak / 1e9:.2f} GB (below 5), estimate {1e6 * int(said) / taken.peak:.3f} of it")
            print(
                f"{run}: from the disk in a step, in sizes of the files: {1e6 * float(read) / size:.2f} (at most 2.2)"
            )
        taken = take(folder, "export", "run_chunks", "out")
        written = sum(file.stat().st_size for file in folder.glob("out/**/*.safetensors"))
        plain = copy(inputs, folder / "copy.bin", written)
        print(
            f"export: {taken.peak / 1e9:.2f} GB (below 1.5), {taken.seconds:.0f} s, {taken.seconds / plain:.2f} times"
        )
        print(f"reading all files once and writing {written / 1e9:.1f} GB ({plain:.0f} s; at most 1.5 times)")


def _read(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


if __name__ == "__main__":
    main()
