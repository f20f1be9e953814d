"""Which folders hold an adapter, of which program, and in which file."""

from pathlib import Path

from adamerge.experts.weight_files import open_files
from adamerge.storage.file_names import is_there
from adamerge.storage.open_safetensors import open_safetensors
from adamerge.storage.pickled_names import pickled_names
from adamerge.storage.regular_files import problem_of, settings_of
from adamerge.storage.weights import Weights
from adamerge.types import ConfigError

CONFIG = "adapter_config.json"
PEFT, MLX = "adapter_model.safetensors", "adapters.safetensors"
PICKLED = "adapter_model.bin"
_MLX_OLD = "adapters.npz"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Endings of files that hold pickled tensors."""
_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_KOHYA = ("lora_unet_", "lora_te", "lora_transformer_", "lora_prior_", "lycoris_", "oft_unet_", "oft_te", "bundle_emb.")
"""How names of tensors begin in adapters of Kohya's scripts, and of those that write the same files."""
_PIPELINE = (
    "unet.",
    "diffusion_model.",
    "transformer.single_",
    "transformer.transformer_blocks",
    "text_encoder.",
    "text_encoder_2.",
)
"""How names of tensors begin in adapters of diffusers: with a part of a pipeline."""
_OLD_DIFFUSERS = ("lora.down.", "lora.up.")
_ADAPTERHUB = ("adapter.safetensors", "pytorch_adapter.bin", "head_config.json", "adapter_fusion_config.json")


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no complete checkpoint."""
    if (folder / "config.json").exists() and _has_weights(folder):
        return False
    names = (CONFIG, PEFT, PICKLED, MLX, *_DIFFUSERS, *_ADAPTERHUB)
    return any((folder / name).exists() for name in names) or bool(_of_images(folder) or inside(folder))


def _has_weights(folder: Path) -> bool:
    """Return whether a folder holds a complete checkpoint; trainers leave config.json alone beside an adapter."""
    weights = any(file.name.startswith(("model", "pytorch_model")) for file in [*folder.iterdir()])
    return weights or not (folder / CONFIG).exists()


def inside(folder: Path) -> list[str]:
    """List the subfolders that hold an adapter, as PEFT saves those that have a name."""
    return sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}"))


def format_problem(source: str, folder: Path) -> str | None:
    """Say why a folder's adapter is not one of PEFT or mlx-lm, by the name of its program; None if it is one."""
    options = settings_of(folder / CONFIG)
    if _is_adapterhub(options) or any((folder / name).exists() for name in _ADAPTERHUB):
        return (
            f"{source}: expected an adapter of PEFT or mlx-lm, found one of AdapterHub, whose layers are not changes "
            "of the base's weights. A LoRA of it can be merged: load it with `adapters`, model.merge_adapter(name), "
            "save the complete model, and give that."
        )
    of_images = _of_images(folder)
    if of_images:
        return f"{source}: expected an adapter of PEFT or mlx-lm, found {of_images}."
    if (folder / CONFIG).exists():
        return None
    if inside(folder):
        return (
            f"{source}: expected {CONFIG}, found adapters in subfolders ({', '.join(inside(folder))}). Give one of "
            f"them: {_below(source, inside(folder)[0])}."
        )
    return (
        f"{source}: expected {CONFIG} beside the adapter's tensors, found none, so their scale is unknown. Copy the "
        "whole folder again."
    )


def _below(source: str, name: str) -> str:
    """Name a folder inside what the user gave: a folder, or a hub id whose revision stays at its end."""
    if is_there(source):
        return str(Path(source) / name)
    repository, at, revision = source.partition("@")
    return f"{repository}/{name}{at}{revision}"


def adapter_tensors(source: str, folder: Path, allow_pickle: bool) -> Weights:
    """Open the tensors of an adapter; only headers are read.

    Raises:
        ConfigError: There are none that may be read.
        IncompatibleExpertsError: The file is cut off or damaged.
    """
    for name in (PEFT, MLX, *([PICKLED] if allow_pickle else [])):
        found = open_files(folder, name)
        if found is not None:
            return found
    if (folder / PICKLED).exists():
        raise ConfigError(
            f"{folder / PICKLED}: expected safetensors, but the adapter is pickled, and unpickling can run code. Set "
            "allow_pickle: true to read it (with weights_only=True), or save it as safetensors."
        )
    if (folder / _MLX_OLD).exists():
        raise ConfigError(
            f"{folder / _MLX_OLD}: expected {MLX}, found the file of an old mlx-lm. Convert it: "
            f"mlx.core.save_safetensors({MLX!r}, dict(mlx.core.load({_MLX_OLD!r})))."
        )
    raise ConfigError(
        f"{source}: expected {PEFT} or {MLX}, found neither. Save the adapter again, or copy the whole folder."
    )


def _is_adapterhub(options: dict[str, object]) -> bool:
    versioned = str(options.get("version", "")).startswith("adapters.")
    known = versioned or "model_class" in options or {"config", "hidden_size"} <= options.keys()
    return options.get("peft_type") is None and known


def _of_images(folder: Path) -> str | None:
    """Name a file that adapts an image generator, and its program, by the names of its tensors."""
    alone = not (folder / CONFIG).exists()  # else a part may be named like one of a pipeline (MusicGen)
    pickles = [folder / _DIFFUSERS[1]] if not alone or (folder / "config.json").exists() else _pickles(folder)
    files = [file for file in (*sorted(folder.glob("*.safetensors")), *pickles) if file.name != "model.safetensors"]
    return next((found for file in files if (found := of_image_generator(file, alone=alone))), None)


def _pickles(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICKLES)


def of_image_generator(file: Path, *, alone: bool = True) -> str | None:
    """Say of which program a file is that adapts an image generator, or may, and what to do; None if it is of none.

    Args:
        file: A file that may hold tensors.
        alone: Whether no options of PEFT are beside it.
    """
    keys = _keys(file) if problem_of(file) is None else []
    if any(key.startswith(_KOHYA) or ".lora_down." in key for key in keys):
        return (
            f"{file.name} in Kohya's format (lora_down, lora_up, alpha), which adapts an image generator. Only "
            "models of transformers are merged; convert it to PEFT if it adapts one"
        )
    of_pipeline = any(
        (key.startswith(_PIPELINE) and "lora" in key) or any(part in key for part in _OLD_DIFFUSERS) for key in keys
    )
    if (file.name in _DIFFUSERS and file.exists()) or (alone and of_pipeline):
        return (
            f"{file.name} of diffusers, which adapts an image generator. Only models of transformers are merged; "
            "fuse it in diffusers (fuse_lora)"
        )
    pickled = file.suffix.lower() in PICKLES
    if alone and file.name not in (PEFT, PICKLED) and any(".lora_A." in key for key in keys):
        return (
            f"{file.name}, {'pickled ' if pickled else ''}factors without {CONFIG}, so that their scale is unknown. If "
            f"PEFT trained them, name it {PICKLED if pickled else PEFT} and put the {CONFIG} of its training beside it"
            f"{' (and set allow_pickle: true)' if pickled else ''}; if they adapt an image generator, they cannot be "
            "merged: only models of transformers are"
        )
    return None


def path_problem(source: str, path: Path) -> str:
    """Say that there is no folder at a path, or a file in its place, and of which program."""
    if problem_of(path) is not None:
        return (
            f"{source or repr(source)}: expected the folder of a checkpoint or a hub id, but there is no such folder. "
            "Correct the path."
        )
    program = of_image_generator(path)
    found = f": {program}." if program else ". Give the folder that it is in."
    return f"{source}: expected the folder of a checkpoint or adapter, found a file{found}"


def _keys(file: Path) -> list[str]:
    """List the names of a file's tensors; a damaged file has none, and whoever opens it reports it."""
    if file.suffix.lower() in PICKLES:
        return pickled_names(file)
    try:
        return list(open_safetensors(file).keys())
    except Exception:  # safetensors raises any exception on damaged bytes
        return []
