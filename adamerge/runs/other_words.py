"""Keys that other programs have, with what to write here."""

from typing import Final

_READ: Final = "adamerge init --from_mergekit FILE reads a configuration of mergekit."

OTHER_WORDS: Final = {
    "device": "Write trainer: {accelerator: cpu} (or gpu); CUDA_VISIBLE_DEVICES chooses among several.",
    "logger": "Write trainer: {logger: CSVLogger}, or another of Lightning's; metrics.json and the report need none.",
    "gpu": "Write trainer: {accelerator: gpu}; CUDA_VISIBLE_DEVICES chooses among several.",
    "gpus": "Write trainer: {accelerator: gpu, devices: 2}.",
    "cuda": "Write trainer: {accelerator: gpu}; CUDA_VISIBLE_DEVICES chooses among several.",
    "seed": "Write seed_everything.",
    "steps": "Write trainer: {max_steps: 60}.",
    "epochs": "Write trainer: {max_steps: 60}; a step takes data.batch_size rows of each task.",
    "out": "Write run_dir.",
    "output": "Write run_dir.",
    "output_dir": "Write run_dir.",
    "experts": "Write models: a list of {model: …}.",
    "dry_run": "adamerge check merge.yaml lists every problem and writes nothing.",
    "push_to_hub": "Write adamerge export RUN OUT --push_to_hub ORG/NAME, when the run is finished.",
    "resume": "Write --ckpt_path last after fit.",
    "merge_method": f"Write method. {_READ}",
    "slices": f"Write models: a list of {{model: …}}; base and experts have the same layers here. {_READ}",
    "modules": f"Write models: a list of {{model: …}}. {_READ}",
    "sources": f"Write models: a list of {{model: …}}. {_READ}",
    "layer_range": "Remove it: all layers are merged here.",
    "normalize": "Remove it: method: average divides weights by their sum, other methods do not.",
    "int8_mask": "Remove it: it saves memory in mergekit alone; here memory says how much may be used.",
    "lambda": "Write init: a number, the coefficient of every expert at the start.",
    "tokenizer_source": "Write tokenizer: base, union, or a task or model.",
}
"""Message by key; it follows: there is no such key."""
