"""Two processes, as torchrun starts them, learn the coefficients of one, and only the first of them writes."""

import json
from pathlib import Path

from safetensors.torch import load_file
from support.families import configuration, write
from support.processes import Strike, run_together

from adamerge.cli import BAD_INPUT

FULL_BATCH = {"data": {"batch_size": None, "held_out": 0.25}}
ADAM = {"class_path": "Adam", "init_args": {"lr": 0.02, "eps": 1e-3}}  # steps of 0.02 along the rounding of 0 differ
METHODS = {
    "adamerging": {"method": "adamerging", "optimizer": ADAM, "data": {"batch_size": 4}},
    "auto": {
        "method": "auto",
        "centre": {"class_path": "Auto", "init_args": {"merges": ["Isotropic"], "scales": [1.0]}},
        "optimizer": ADAM,
        "chunks": {"budget": 4, "first_steps": 2},
        "data": {"batch_size": 6, "micro_batch": 1},  # of an encoder's hidden states, rows weigh by length in a batch
    },
    "frank_wolfe": {"method": "frank_wolfe", "optimizer": {"class_path": "FrankWolfe"}, **FULL_BATCH},
    "lbfgsb": {"method": "adamerging", "optimizer": {"class_path": "LBFGSB"}, **FULL_BATCH},
}


def fit_of(method, devices=1):
    """A command that learns little; of the tasks, topic has fewer rows than there are processes."""
    config = configuration(**METHODS[method])
    for model in config["models"]:
        del model["evaluation"]
    config["models"][1]["calibration"] = {"path": "topic.jsonl", "rows": 1}
    config["watch"] = {"every": 2, "monitor": "objective"}
    config["trainer"] = {"max_steps": 4, "accelerator": "cpu", "devices": devices}
    return ["fit", "--config", write(config, f"{method}_{devices}.yaml"), "--run_dir", f"{method}_{devices}"]


def coefficients(method, devices):
    return load_file(f"{method}_{devices}/coefficients.safetensors")["coefficients"]


def test_two_processes_learn_what_one_learns(family, main):
    assert run_together([fit_of(method, 2) for method in METHODS], family) == [0, 0], Path("0.txt").read_text()
    assert Path("1.txt").read_text() == ""  # only the first one prints
    for method in METHODS:
        code, _, complaint = main(*fit_of(method))
        assert (code, complaint) == (0, "")
        start, *_, end = json.loads(Path(f"{method}_2/metrics.json").read_text())["history"]
        assert abs(end["objective"] - start["objective"]) > 1e-4  # it has learned
        gap = (coefficients(method, 2) - coefficients(method, 1)).abs().max()
        assert gap < 1e-5, method


def test_a_killed_process_ends_the_other_and_the_run_goes_on_alone(family, main):
    command = fit_of("adamerging", 2)
    strike = Strike("adamerge.learning.merge_module.surrogate", call=4)
    assert run_together([command], family, strikes={1: strike}) == [BAD_INPUT, -strike.number]
    assert "error: process 0 of 2: another process of this run has ended" in Path("0.txt").read_text()
    assert run_together([command], family) == [BAD_INPUT, 0]  # the second process hears that the first one has refused
    assert "already exists" in Path("0.txt").read_text()
    assert Path("1.txt").read_text() == ""
    assert main(*command, "--trainer.devices", 1, "--ckpt_path", "last")[0] == 0
    assert main(*fit_of("adamerging"))[0] == 0
    assert (coefficients("adamerging", 2) - coefficients("adamerging", 1)).abs().max() < 1e-5
