"""Two processes, as torchrun starts them, learn the coefficients of one, and only the first of them writes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import configuration, write
from support.processes import Strike, free_port, launched, start

from adamerge.data.schedule import Schedule
from adamerge.optim import processes
from adamerge.optim.processes import share_of

FULL_BATCH = {"data": {"batch_size": None, "held_out": 0.25}}
METHODS = {
    "adamerging": {"method": "adamerging", "data": {"batch_size": 4}},
    "expert_merging++": {
        "method": "expert_merging++",
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
    if method == "adamerging":
        config["optimizer"] = {"class_path": "Adam", "init_args": {"lr": 0.02}}
    elif method == "expert_merging++":
        del config["optimizer"]
    return ["fit", "--config", write(config, f"{method}_{devices}.yaml"), "--run_dir", f"{method}_{devices}"]


def both(command, more=(), strikes=(None, None)):
    """Run a command in two processes; return their exit codes."""
    port = free_port()
    pair = [
        start([*command, *more], Path.cwd(), f"log_{rank}.txt", strikes[rank], launched(rank, 2, port))
        for rank in (0, 1)
    ]
    for process in pair:
        process.join(60)
    return [process.exitcode for process in pair]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_learns(method, family, main):
    code, _, complaint = main(*fit_of(method))
    assert (code, complaint) == (0, "")
    assert both(fit_of(method, devices=2)) == [0, 0], Path("log_0.txt").read_text() + Path("log_1.txt").read_text()
    one, two = (load_file(f"{method}_{count}/coefficients.safetensors")["coefficients"] for count in (1, 2))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    start, *_, end = json.loads(Path(f"{method}_2/metrics.json").read_text())["history"]
    assert abs(end["objective"] - start["objective"]) > 1e-4  # it has learned
    assert Path("log_1.txt").read_text() == ""
