"""The pools of pools.py merged by mergekit and by PEFT, with their own code, and measured as pools.py measures.

    python tests/benchmarks/peers.py --pools pools --only text-8
    python tests/benchmarks/peers.py --pools pools --only language-5 --test_rows 50

mergekit gets the backbones as complete checkpoints and the weights of its own examples; PEFT gets the adapters, one
merge a combination type. Each merge takes the base's place in a merge whose coefficients are 0, so that every task is
measured with its expert's head and tokenizer, on test files that decide nothing. What a peer refuses is printed.
"""

import argparse
import gc
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import yaml
from peft import PeftModel
from pool_inputs import POOLS
from pools import few
from rich.console import Console
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.results.evaluate import Evaluation
from adamerge.runs.learn_merge import open_inputs
from adamerge.runs.read_config import merge_config

MERGEKIT: Mapping[str, tuple[str, Mapping[str, object], Mapping[str, object]]] = {
    "linear": ("linear", {"weight": 1.0}, {"normalize": True}),
    "task arithmetic, 0.3": ("task_arithmetic", {"weight": 0.3}, {}),
    "TIES, density 0.2": ("ties", {"weight": 1.0, "density": 0.2}, {"normalize": True}),
    "TIES, density 0.2, 0.3 each": ("ties", {"weight": 0.3, "density": 0.2}, {"normalize": False}),
    "DARE-TIES, density 0.5, 0.3 each": ("dare_ties", {"weight": 0.3, "density": 0.5}, {"normalize": False}),
    "DELLA, density 0.5, 0.3 each": ("della", {"weight": 0.3, "density": 0.5}, {"normalize": False}),
    "breadcrumbs, density 0.9, 0.3 each": ("breadcrumbs", {"weight": 0.3, "density": 0.9}, {"normalize": False}),
    "SCE, top 0.2": ("sce", {}, {"select_topk": 0.2}),
    "multislerp": ("multislerp", {"weight": 1.0}, {}),
    "karcher": ("karcher", {}, {}),
    "model stock": ("model_stock", {}, {}),
}
"""Method, parameters of each model, and parameters of the merge."""

PEFT: Mapping[str, tuple[float, Mapping[str, object]]] = {
    "linear, 1/5 each": (0.2, {"combination_type": "linear"}),
    "cat, 1/5 each": (0.2, {"combination_type": "cat"}),
    "cat, 0.3 each": (0.3, {"combination_type": "cat"}),
    "svd, 0.3 each": (0.3, {"combination_type": "svd"}),
    "ties_svd, density 0.2, 1 each": (1.0, {"combination_type": "ties_svd", "density": 0.2}),
    "dare_linear_svd, density 0.5, 0.3 each": (0.3, {"combination_type": "dare_linear_svd", "density": 0.5}),
}
"""Weight of each adapter, and options of add_weighted_adapter."""


def by_mergekit(name: str, models: Mapping[str, Path], out: Path) -> None:
    """Merge the tensors of complete checkpoints by mergekit-pytorch, which needs no architecture; "base" is the base.

    mergekit-yaml of 0.1.5 ends in a TypeError for BERT's classes, whose description has aliases.
    """
    method, each, whole = MERGEKIT[name]
    files = {key: str(folder / "model.safetensors") for key, folder in models.items()}
    listed = [{"model": file, "parameters": dict(each)} for key, file in files.items() if key != "base"]
    config = {"merge_method": method, "models": listed, "parameters": dict(whole), "dtype": "float32"}
    config |= {} if method in ("linear", "karcher") else {"base_model": files["base"]}
    shutil.copytree(models["base"], out, ignore=shutil.ignore_patterns("*.safetensors"))
    written = out / "mergekit.yaml"
    written.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "mergekit-pytorch"), str(written), str(out), "--random-seed", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip().splitlines()[-1])


def by_peft(name: str, base: Path, adapters: Mapping[str, Path], out: Path) -> None:
    """Merge adapters, and the result into the base."""
    weight, options = PEFT[name]
    model = None
    for task, folder in adapters.items():
        if model is None:
            whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            model = PeftModel.from_pretrained(whole, folder, adapter_name=task)
        else:
            model.load_adapter(folder, adapter_name=task)
    assert model is not None
    torch.manual_seed(0)
    model.add_weighted_adapter(list(adapters), [weight] * len(adapters), "merged", **options)
    model.set_adapter("merged")
    model.merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def backbones(models: Mapping[str, Path], language: bool, folder: Path) -> dict[str, Path]:
    """Save every model without its head, in fp32, as mergekit takes them."""
    kind = AutoModelForCausalLM if language else AutoModel
    for name, path in models.items():
        if not (folder / name).exists():
            kind.from_pretrained(path, dtype=torch.float32).save_pretrained(folder / name)
            for file in (own for own in models["base"].iterdir() if not (folder / name / own.name).exists()):
                if file.suffix in (".json", ".jinja", ".txt"):  # tokenizer or image processor
                    shutil.copyfile(file, folder / name / file.name)
    return {name: folder / name for name in models}


def measure(pool: Mapping[str, object], merged: Path) -> dict[str, float | None]:
    """Measure a merge in the base's place."""
    config = merge_config({**pool, "base_model": str(merged), "method": "task_arithmetic", "init": 0.0})
    opened = open_inputs(config, None, Console(quiet=True))
    experts = opened.experts
    vectors = task_vectors(experts, experts.shared, resident=False)
    model = MergedModel(experts, vectors, task_wise(experts.shared))
    return Evaluation(model, opened.data.evaluation).merged(uniform(model, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, default=Path("pools"), help="Folder of the checkpoints.")
    parser.add_argument("--shared", type=Path, default=Path("../shared/zoo"))
    parser.add_argument("--only", nargs="+", choices=["text-8", "vision-4", "language-5"], default=["text-8"])
    parser.add_argument("--by", nargs="+", choices=["mergekit", "PEFT"], default=["mergekit", "PEFT"])
    parser.add_argument("--test_rows", type=int, help="Test rows per task, where all take too long.")
    options = parser.parse_args()
    for name in options.only:
        pool = few(POOLS[name](options.pools, options.shared), 8, options.test_rows)
        paths = {Path(str(model["model"])).name: Path(str(model["model"])) for model in pool["models"]}
        base, language = Path(str(pool["base_model"])), name == "language-5"
        print(f"\n{name}\n\n| | mean | {' | '.join(paths)} | seconds |\n|---|---|{'---|' * len(paths)}---|", flush=True)
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "merged"
            if "mergekit" in options.by:
                dense = {task: options.pools / "llm/fp32" / task for task in paths} if language else paths
                whole = backbones({"base": base, **dense}, language, Path(place))
                for method in MERGEKIT:
                    _row(f"mergekit: {method}", partial(by_mergekit, method, whole, out), pool, out)
            if "PEFT" in options.by and language:
                for method in PEFT:
                    _row(f"PEFT: {method}", partial(by_peft, method, base, paths, out), pool, out)


def _row(name: str, merge: Callable[[], None], pool: Mapping[str, object], out: Path) -> None:
    """Merge, measure and print a row; or what was refused."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    try:
        merge()
        seconds = time.perf_counter() - began
        scores = measure(pool, out)
    except Exception as error:
        print(f"| {name} | {type(error).__name__}: {str(error).strip().splitlines()[0][:160]} |", flush=True)
        return
    gc.collect()
    tasks = [f"{value:.1f}" for task, value in scores.items() if task != "mean" and value is not None]
    print(f"| {name} | {scores['mean']:.2f} | {' | '.join(tasks)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
