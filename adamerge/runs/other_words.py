"""Keys that other programs have, with what to write here."""

from typing import Final

OTHER_WORDS: Final = {
    "device": "Write trainer: {accelerator: cpu} (or gpu); CUDA_VISIBLE_DEVICES chooses among several.",
    "logger": "Write trainer: {logger: CSVLogger}, or another of Lightning's; metrics.json and the report need none.",
    "gpu": "Write trainer: {accelerator: gpu}; CUDA_VISIBLE_DEVICES chooses among several.",
    "seed": "Write seed_everything.",
    "steps": "Write trainer: {max_steps: 60}.",
    "epochs": "Write trainer: {max_steps: 60}; a step takes data.batch_size rows of each task.",
    "output": "Write run_dir.",
    "output_dir": "Write run_dir.",
    "experts": "Write models: a list of {model: …}.",
    "resume": "Write --ckpt_path last after fit.",
}
"""Message by key; it follows: there is no such key."""
