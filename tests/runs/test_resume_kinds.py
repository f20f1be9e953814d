"""Runs of every kind are killed at an event of a file, and resumed to the same files byte for byte."""

import copy
import json
import random
import shutil
import signal

import pytest
import yaml
from support.adapter_pool import save_adapter
from support.families import save_speaking_family
from support.processes import Strike, run

ADAM = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.02}}}
STEPS = {"trainer": {"max_steps": 4, "accelerator": "cpu"}, "watch": {"every": 2}}
WHOLE = {"data": {"batch_size": None, "rows": 8}, "feasible": "Simplex", "method": "adamerging"}
TEXT = {
    "default": {"method": "auto", "data": {"batch_size": 8, "rows": 16}},
    "Fisher": {"method": "fisher", "trainer": {"accelerator": "cpu"}, "watch": {}},
    "RegMean": {"method": "adamerging", "centre": "regmean", **ADAM},
    "Frank-Wolfe": {**WHOLE, "optimizer": "FrankWolfe"},
    "L-BFGS-B": {**WHOLE, "optimizer": "LBFGSB", "feasible": "Box"},
}
SPEAKING = {
    "answers": {"data": {"batch_size": 4, "positions": "completion", "pseudo_answers": {"max_new_tokens": 4}}},
    "adapters": {"method": "adamerging", "data": {"batch_size": 4}, **ADAM},
}
KINDS = (*TEXT, *SPEAKING)
EVENT = "adamerge.storage.atomic_files.os.fsync"
"""Called once for every file that is written."""


def pytest_generate_tests(metafunc):
    """All kinds and some events of each where everything was asked for, else an event of two kinds."""
    if "event" in metafunc.fixturenames:
        draw, full = random.Random(17), metafunc.config.getoption("--full")
        table = [(kind, event) for kind in KINDS for event in sorted(draw.sample(range(1, 48), 8))]
        metafunc.parametrize(("kind", "event"), table if full else [("default", 7), ("answers", 3)])


@pytest.fixture(scope="module")
def whole(text_family, tmp_path_factory):
    """A folder of each kind's models, rows and merge.yaml, with a run that nothing interrupted."""
    made = {}

    def of(kind):
        if kind not in made:
            place = tmp_path_factory.mktemp(kind.replace(" ", "_")) / "family"
            if kind in TEXT:
                _text(shutil.copytree(text_family, place), TEXT[kind])
            else:
                _speaking(place, kind)
            assert run(["fit", "--config", "merge.yaml"], place, place / "log.txt") == 0, (
                place / "log.txt"
            ).read_text()
            made[kind] = place
        return made[kind]

    return of


def _text(place, changes):
    config = yaml.safe_load((place / "merge.yaml").read_text())
    config = {key: value for key, value in config.items() if key not in ("optimizer", "data")}
    config["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    (place / "merge.yaml").write_text(yaml.safe_dump({**config, **copy.deepcopy(STEPS), **changes}))


def _speaking(place, kind):
    save_speaking_family(place, "LlamaForCausalLM", "llama")
    config = yaml.safe_load((place / "merge.yaml").read_text())
    for seed, model in enumerate(config["models"]):
        task = model["model"]
        model.pop("evaluation")
        model["calibration"] = {"path": f"{task}.jsonl"} if kind == "answers" else model["calibration"]
        if kind == "adapters":
            model["model"], model["task"] = str(save_adapter(None, place / f"adapters/{task}", {}, seed)), task
    (place / "merge.yaml").write_text(yaml.safe_dump({**config, **copy.deepcopy(STEPS), **SPEAKING[kind]}))


def learned(run_dir):
    """Coefficients and exported weights, byte by byte, and what was seen on the way to them."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    history = [{key: value for key, value in look.items() if key != "s/step"} for look in metrics["history"]]
    files = [run_dir / "coefficients.safetensors", *sorted((run_dir / "merged").rglob("*.safetensors"))]
    return metrics["best_step"], history, {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


def test_a_killed_run_is_resumed_to_the_same(whole, tmp_path, kind, event):
    place, run_dir, log = whole(kind), tmp_path / "run", tmp_path / "log.txt"
    first = ["fit", "--config", "merge.yaml", "--run_dir", str(run_dir)]
    ended = run(first, place, log, Strike(EVENT, signal.SIGKILL, call=event))
    assert ended in (0, -signal.SIGKILL), log.read_text()
    if ended:
        begun = (run_dir / "config.yaml").exists()
        again = ["fit", "--config", str(run_dir / "config.yaml"), "--ckpt_path", "last"] if begun else first
        assert run(again, place, log) == 0, log.read_text()
    assert learned(run_dir) == learned(place / "run")
    assert not list(run_dir.rglob("*.partial"))
