"""What a folder without a checkpoint holds instead, and which folder or command leads on."""

import re
from pathlib import Path

from adamerge.experts.adapter_formats import PICKLES
from adamerge.experts.name_patterns import several
from adamerge.storage.regular_files import settings_of


def way_on(folder: Path) -> str:
    """Say what else is in a folder, and what to do; empty if nothing is recognised.

    Args:
        folder: A folder without config.json, or without weights that can be read.
    """
    if to_convert := sharded_way(folder):
        return to_convert
    if any(any(folder.glob(pattern)) for pattern in _MEGATRON):
        return " It is a checkpoint of Megatron; convert it to the format of Hugging Face with its own tools."
    inside = models_in(folder)
    if inside:
        named = several([str(path) for path in inside])
        one = "give that folder" if len(inside) == 1 else "give one of them"
        return f" It has {named}: {one}{_without_modules(folder)}."
    if (folder / "modules.json").exists():
        return " It is a sentence encoder without a transformer (modules.json), which cannot be merged."
    foreign = sorted(file.name for pattern in _FOREIGN for file in folder.glob(pattern))
    if foreign:
        return f" It has {several(foreign)}, of another program; convert it to safetensors."
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix.lower() in PICKLES)
    if pickled:
        complete = (folder / "config.json").exists()
        more = "save the model with save_pretrained" if complete else "config.json of its model is not beside it"
        return (
            f" It has {several(pickled)}, pickled; {more}. If it is a LoRA of Kohya's scripts, it adapts an image "
            "generator, and only models of transformers are merged; if it is one of PEFT, copy adapter_config.json too."
        )
    return ""


def sharded_way(folder: Path) -> str:
    """Say how to convert the checkpoint of DeepSpeed or FSDP in a folder; empty if there is none."""
    states = _deepspeed(folder)
    if states is not None:
        own = states / "zero_to_fp32.py"
        script = str(own) if own.exists() else "-m deepspeed.utils.zero_to_fp32"
        return (
            f" It is a checkpoint of DeepSpeed; convert it: python {script} {states} {folder} --safe_serialization."
            f"{_without_config(folder)}"
        )
    sharded = next((file.parent for pattern in _SHARDS for file in folder.glob(pattern)), None)
    if sharded is not None:
        return (
            f" It is a sharded checkpoint of FSDP; convert it: accelerate merge-weights {sharded} {folder}."
            f"{_without_config(folder)}"
        )
    return ""


_SHARDS = ("*.distcp", "*/*.distcp", "*/*/*.distcp")
"""Files of FSDP, of torch's distributed checkpoints and of accelerate's, in folders of their own."""

_MEGATRON = ("mp_rank_*", "iter_*/mp_rank_*", "latest_checkpointed_iteration.txt")

_FOREIGN = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "consolidated*", "*.nemo", "*.tflite")
"""Files of other programs that may hold weights."""


def _deepspeed(folder: Path) -> Path | None:
    """Find the folder that holds DeepSpeed's steps: this one, or the one around a step's; None if there is none."""
    if (folder / "zero_to_fp32.py").exists() or any(folder.glob("global_step*")):
        return folder
    inside = any(any(folder.glob(pattern)) for pattern in ("*_optim_states.pt", "*_model_states.pt"))
    return folder.absolute().parent if inside else None


def _without_config(folder: Path) -> str:
    """Say what the converted weights still lack."""
    return "" if (folder / "config.json").exists() else " Copy config.json of its base there too."


def _without_modules(folder: Path) -> str:
    """Say what the transformer of a sentence encoder alone lacks, and how its modules come along."""
    if not (folder / "modules.json").exists():
        return ""
    return f"; pooling and other modules of the sentence encoder are then not merged. {to_keep_modules(folder)}"


def to_keep_modules(folder: Path) -> str:
    """Say how the modules of a sentence encoder come along whose transformer is in a folder of its own."""
    return (
        "To keep them, save it as sentence-transformers does today, the transformer beside modules.json, and give the "
        f"new folder: SentenceTransformer({str(folder)!r}).save(…)"
    )


def models_in(folder: Path) -> list[Path]:
    """List the folders below one that look like checkpoints, the newest first: checkpoint-1000, 0_Transformer.

    Those two levels below (snapshots/… of the hub's cache, for example) are looked at where none is directly below. A
    pooling or dense layer of sentence-transformers has a config.json too, but names no type of model in it.

    Example:
        >>> models_in(Path("/dev"))
        []
    """
    below = ("*/config.json", "*/*/config.json")
    levels = ([path.parent for path in folder.glob(p) if "model_type" in settings_of(path)] for p in below)
    found = next(filter(None, levels), [])
    return sorted(found, key=lambda path: [-int(number) for number in re.findall(r"\d+", path.name)])
