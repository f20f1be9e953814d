"""Keys that other programs have, with what to write here."""

from typing import Final

OTHER_WORDS: Final = {
    "device": "Write trainer: {accelerator: cpu} (or gpu); CUDA_VISIBLE_DEVICES chooses among several.",
    "logger": "Write trainer: {logger: CSVLogger}, or another of Lightning's; metrics.json and the report need none.",
    "seed": "Write seed_everything.",
    "lr": "Write it as an option of the optimiser: optimizer: {class_path: Adam, init_args: {lr: 0.01}}.",
    "output_dir": "Write run_dir.",
    "experts": "Write models: a list of {model: …}.",
    "resume": "Write --ckpt_path last after fit.",
}
"""Message by key; it follows: there is no such key."""
