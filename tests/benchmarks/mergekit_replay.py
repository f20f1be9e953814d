"""Does mergekit make a learned merge of the language pool again? Weights, and greedy answers to test rows.

    python tests/benchmarks/mergekit_replay.py --pools pools     # about 10 minutes of one core, 8 GB of disk

The five adapters of the pool are added into their base by PEFT, the dense experts merged by `adamerge fit`
(zoo_expert_merging: `method: expert_merging` over `centre: null`), the run is written by `adamerge mergekit`, and
merged by `mergekit-yaml`. What lies in --out already is used again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peft
import torch
import yaml
from pool_inputs import LANGUAGE
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

MOST_APART = 1e-5


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pools", type=Path, default=Path("pools"), help="folder of the checkpoints")
    asked.add_argument("--shared", type=Path, default=Path("../shared/zoo"))
    asked.add_argument("--rows", type=int, default=4, help="unlabeled rows per task")
    asked.add_argument("--steps", type=int, default=2)
    asked.add_argument("--questions", type=int, default=4, help="test rows per task")
    asked.add_argument("--out", type=Path, default=Path("runs/mergekit"))
    given = asked.parse_args()
    out, rows = given.out.absolute(), given.shared.absolute() / "llm/data"
    for task in LANGUAGE:
        if not (out / "dense" / task).exists():
            add_adapter(given.pools / "llm/base", given.pools / "llm" / task, out / "dense" / task)
    if not (out / "run/recipe.json").exists():
        file = out / "merge.yaml"
        file.write_text(yaml.safe_dump(configuration(given, out, rows)), encoding="utf-8")
        run(sys.executable, "-m", "adamerge", "fit", str(file))
    if not (out / "kit").exists():
        run(sys.executable, "-m", "adamerge", "mergekit", str(out / "run"), str(out / "kit.yaml"))
        run(str(Path(sys.executable).with_name("mergekit-yaml")), str(out / "kit.yaml"), str(out / "kit"))
    folders = (out / "run/merged", out / "kit")
    names, apart, moved = difference(*folders, given.pools / "llm/base")
    questions = [turns for task in LANGUAGE for turns in first_questions(rows / task / "test.jsonl", given.questions)]
    ours, theirs = (answers(folder, questions) for folder in folders)
    same = sum(own == other for own, other in zip(ours, theirs, strict=True))
    print(f"{names} tensors, apart by at most {apart:.2e}; from the base by up to {moved:.2e}")
    print(f"{same} of {len(questions)} greedy answers are the same, for example {ours[0]!r}")
    sys.exit(apart > MOST_APART or same < len(questions))


def add_adapter(base: Path, adapter: Path, out: Path) -> None:
    """Write a dense expert: the base with an adapter added by PEFT."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def configuration(given: argparse.Namespace, out: Path, rows: Path) -> dict[str, object]:
    """The merge as a configuration."""
    models = [
        {
            "model": str(out / "dense" / task),
            "calibration": {"path": str(rows / task / "unlabeled.jsonl"), "rows": given.rows},
        }
        for task in LANGUAGE
    ]
    return {
        "base_model": str((given.pools / "llm/base").absolute()),
        "models": models,
        "method": "expert_merging",
        "centre": None,
        "data": {"batch_size": 1, "micro_batch": 4, "positions": "completion", "pseudo_answers": {"max_new_tokens": 4}},
        "watch": {"guard": False, "every": given.steps, "monitor": "last"},
        "trainer": {"max_steps": given.steps, "accelerator": "cpu"},
        "run_dir": str(out / "run"),
    }


def run(*words: str) -> None:
    """Run a command; end with it if it fails."""
    print(" ".join(words), flush=True)
    if code := subprocess.run(words, check=False).returncode:
        sys.exit(code)


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint, one by one."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            for name in content.keys():
                yield name, content.get_tensor(name).double()


def difference(ours: Path, theirs: Path, base: Path) -> tuple[int, float, float]:
    """The number of tensors, how far two checkpoints are apart at most, and how far the first is from the base."""
    other, start = dict(tensors(theirs)), dict(tensors(base))
    own = dict(tensors(ours))
    assert own.keys() == other.keys() == start.keys(), own.keys() ^ other.keys() ^ start.keys()
    apart = max(float((own[name] - other[name]).abs().max()) for name in own)
    return len(own), apart, max(float((own[name] - start[name]).abs().max()) for name in own)


def first_questions(file: Path, count: int) -> Iterator[list[dict[str, str]]]:
    """The turns before the answer of the first rows of a file."""
    for line in file.read_text(encoding="utf-8").splitlines()[:count]:
        yield json.loads(line)["messages"][:-1]


def answers(folder: Path, questions: list[list[dict[str, str]]], most: int = 12) -> list[str]:
    """What a model says, greedily."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = list[str]()
    for turns in questions:
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        said = model.generate(**asked, do_sample=False, max_new_tokens=most)
        found.append(tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


if __name__ == "__main__":
    main()
