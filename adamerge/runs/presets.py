"""Presets: the settings that each `method:` stands for, in YAML, on the command line and in Python."""

from typing import Final  # and no module with classes: `adamerge methods` prints these settings without torch

COMMON: Final[dict[str, object]] = {
    "task_vectors": None,
    "centre": None,
    "beside": [],
    "grouping": "tensor",
    "chunks": None,
    "init": "published",
    "feasible": "Box",
    "objective": "Entropy",
    "data.rows": 256,
    "data.most_held_out": None,
    "data.augmentation": None,
    "watch.patience": 10,
    "watch.average": 0.0,
    "watch.guard": False,
    "optimizer": None,
    "lr_scheduler": None,
    "trainer.max_steps": 0,
    "trainer.precision": "32-true",
}
"""Every key that presets set, with its value if a preset does not change it."""

NOTHING_LEARNED: Final = COMMON | {"grouping": "task", "feasible": "Unbounded"}
"""The start is the result: centre + init · Σ task vectors; init is the scale published with the transform."""

ADAMERGING: Final = COMMON | {
    "optimizer": {"class_path": "Adam", "init_args": {"lr": 1e-3}},
    "trainer.max_steps": 500,
}
EXPERT_MERGING: Final = ADAMERGING | {
    "feasible": "Unbounded",
    "objective": "LogitAlignment",
    "watch.patience": None,
    "optimizer": {"class_path": "Adam", "init_args": {"lr": 3e-2}},
    "lr_scheduler": "cosine",
    "trainer.max_steps": 100,
}

PRESETS: Final[dict[str, dict[str, object]]] = {
    "adamerging": ADAMERGING,
    "adamerging++": ADAMERGING | {"task_vectors": "Ties"},
    "expert_merging": EXPERT_MERGING,
    "expert_merging++": EXPERT_MERGING
    | {
        "centre": "Isotropic",  # our addition; centre: null is the published method
        "chunks": {"budget": 8},
        "watch.guard": True,  # ours too
        "trainer.max_steps": 60,
    },
    "auto": EXPERT_MERGING
    | {
        "centre": "auto",
        "beside": ["base", "Isotropic", "Wudi"],
        "data.rows": 768,
        "data.most_held_out": 128,
        "data.augmentation": {},
        "objective": {"class_path": "LogitAlignment", "init_args": {"temperature": "auto"}},
        "chunks": {"budget": 8},
        "watch.guard": True,
        "watch.average": 0.9,
        "lr_scheduler": "StableDecay",
        "trainer.max_steps": 200,
        "trainer.precision": "auto",
    },
    "frank_wolfe": ADAMERGING
    | {
        "init": 0.0,  # the base is a vertex: only selected experts get weight
        "feasible": {"class_path": "Simplex", "init_args": {"includes_base": True}},
        "objective": "LogitAlignment",
        "optimizer": "SoftFrankWolfe",
        "trainer.max_steps": 20,
    },
    "average": NOTHING_LEARNED | {"init": "average"},
    "task_arithmetic": NOTHING_LEARNED,
    "regmean": NOTHING_LEARNED | {"centre": "regmean"},
    "regmean++": NOTHING_LEARNED | {"centre": {"inputs": "merged"}},
    "esm": NOTHING_LEARNED | {"centre": "Esm"},
    "feat_cal": NOTHING_LEARNED | {"centre": "FeatCal"},
    "ties": NOTHING_LEARNED | {"task_vectors": {"class_path": "Ties", "init_args": {"reduce": "mean"}}},
    "dare": NOTHING_LEARNED | {"task_vectors": "Dare"},
    "magnitude": NOTHING_LEARNED | {"task_vectors": "Magnitude"},
    "lines": NOTHING_LEARNED | {"task_vectors": "Lines"},
    "consensus": NOTHING_LEARNED | {"task_vectors": "Consensus"},
    "pcb": NOTHING_LEARNED | {"task_vectors": "Pcb"},
    "wudi": NOTHING_LEARNED | {"task_vectors": "Wudi"},
    "swudi": NOTHING_LEARNED | {"task_vectors": "Swudi"},
    "aswudi": NOTHING_LEARNED | {"task_vectors": "Aswudi"},
    "act_mat": NOTHING_LEARNED | {"task_vectors": "ActMat"},
    "dc_merge": NOTHING_LEARNED | {"task_vectors": "DcMerge"},
    "isotropic": NOTHING_LEARNED | {"task_vectors": "Isotropic"},
    "task_singular_vectors": NOTHING_LEARNED | {"task_vectors": "TaskSingularVectors"},
    "doge": NOTHING_LEARNED | {"task_vectors": "Doge"},
    "fisher": NOTHING_LEARNED | {"task_vectors": "Fisher"},
}
"""Settings per method; keys that the user writes override them."""

DEFAULT: Final = "auto"
"""Method if none is named: the best on pools that it was not tuned on (tests/benchmarks/pools.py)."""
