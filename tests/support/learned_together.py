"""Runs that one process or several learn, to the same coefficients."""

from safetensors.torch import load_file
from support.families import configuration, write
from support.processes import Strike

STRATEGIES = {
    "ddp": Strike("adamerge.learning.merge_module.surrogate"),
    "fsdp2": Strike("adamerge.merging.shards.Shards.run"),
}
"""What a process does in the middle of a step, where it can be struck."""

FULL_BATCH = {"data": {"batch_size": None, "held_out": 0.25}}
ADAM = {"class_path": "Adam", "init_args": {"lr": 0.02, "eps": 1e-3}}  # steps of 0.02 along the rounding of 0 differ
PRECISION = {"lbfgsb": "64-true"}
METHODS = {
    "adamerging": {"method": "adamerging", "optimizer": ADAM, "data": {"batch_size": 4}},
    "expert_merging++": {  # two stages, over the centre Isotropic
        "method": "expert_merging++",
        "optimizer": ADAM,
        "chunks": {"budget": 4, "first_steps": 2},
        "data": {"batch_size": 6, "micro_batch": 1},  # of an encoder's hidden states, rows weigh by length in a batch
    },
    "auto": {
        "keep": {"calibration": "speed.jsonl", "weight": 0.5},
        "method": "auto",
        "centre": {"class_path": "Auto", "init_args": {"merges": ["Isotropic"], "scales": [1.0]}},
        "optimizer": ADAM,
        "chunks": {"budget": "auto", "first_steps": 2},  # whose second stage is that of 4 times as many
        "data": {"batch_size": 6, "micro_batch": 1},
    },
    "frank_wolfe": {"method": "frank_wolfe", "optimizer": {"class_path": "FrankWolfe"}, **FULL_BATCH},
    # Curvature is a quotient of differences: rounding in fp32 grows to 1e-3 of a coefficient in 20 steps.
    "lbfgsb": {"method": "adamerging", "optimizer": {"class_path": "LBFGSB"}, "dtype": "float64", **FULL_BATCH},
}


def fit_of(method, devices=1, strategy="ddp", steps=4, **changes):
    """A command that learns little; of the tasks, topic has fewer rows than there are processes."""
    config = configuration(**{**METHODS[method], **changes})
    for model in config["models"]:
        del model["evaluation"]
    config["models"][1]["calibration"] = {"path": "topic.jsonl", "rows": 1}
    config["watch"] = {"every": 2, "monitor": "objective", "patience": None}
    config["trainer"] = {"max_steps": steps, "accelerator": "cpu", "devices": devices, "strategy": strategy}
    config["trainer"]["precision"] = PRECISION.get(method, "32-true")
    place = place_of(method, devices, strategy)
    return ["fit", "--config", write(config, f"{place}.yaml"), "--run_dir", place]


def place_of(method, devices=1, strategy="ddp"):
    return f"{method}_{devices}_{strategy}"


def coefficients(place):
    return load_file(f"{place}/coefficients.safetensors")["coefficients"]
