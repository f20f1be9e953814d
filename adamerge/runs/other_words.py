"""Keys that other programs have, with what to write here."""

from typing import Final

OTHER_WORDS: Final = {
    "device": "Write trainer: {accelerator: cpu} (or gpu); CUDA_VISIBLE_DEVICES chooses among several.",
    "logger": "The history of learning is in metrics.json and in the report of the run; no logger is needed.",
    "seed": "Write seed_everything.",
    "output_dir": "Write run_dir.",
    "experts": "Write models: a list of {model: …}.",
    "resume": "Write --ckpt_path last after fit.",
}
"""Message by key; it follows: there is no such key."""
