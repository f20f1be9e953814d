"""Read an exported checkpoint back as a user would, one tensor at a time, and compare it with what was merged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.conversion import Converted
from adamerge.experts.experts import Expert
from adamerge.experts.made_by_class import reported
from adamerge.experts.match_names import match
from adamerge.experts.own_class import of_base
from adamerge.experts.skeleton import skeleton
from adamerge.experts.tied import tied_names, untie
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import as_on_disk
from adamerge.results.write_checkpoint import checkpoints
from adamerge.storage.digest import Checksum, checksum_of
from adamerge.storage.weights import Renamed, Weights
from adamerge.types import IncompatibleExpertsError


def compare_with_files(model: MergedModel, checksums: Mapping[str, Checksum], folder: Path) -> None:
    """Open every checkpoint as its class would, and compare each tensor in it, bit by bit, with what was merged.

    Files are mapped. Where transformers computes a parameter from several tensors of the file, these are in memory.

    Args:
        model: Experts, and the dtype of what is not merged.
        checksums: Of the backbone's parameters and buffers as they were merged.
        folder: The exported checkpoints.

    Raises:
        RuntimeError: A parameter is missing, or another than was merged.
    """
    experts, places = model.experts, checkpoints(model.experts, folder)
    if folder not in places.values():
        assert experts.checkpoint is not None
        base, task = experts.checkpoint, next(iter(experts.tasks.values()))
        _open(type(of_base(base)).__name__, folder, base.trust_remote_code, without=experts.lacking)
        _compare(_open_task(task, folder, without=task.whole_head), checksums, folder)
    for place in dict.fromkeys(places.values()):
        tasks = [experts.tasks[task] for task in places if places[task] == place]
        heads = {name: task.weights[name] for task in tasks for name in task.whole_head}
        own = {name: checksum_of(tensor) for name, tensor in as_on_disk(heads, model.rounding.heads).items()}
        _compare(_open_task(tasks[0], place), {**checksums, **own}, place)


def _compare(opened: Weights, expected: Mapping[str, Checksum], place: Path) -> None:
    """Compare the tensors of an opened checkpoint with what they should be, one after the other.

    Raises:
        RuntimeError: One is missing, or another.
    """
    for name, checksum in expected.items():
        if name not in opened:
            raise RuntimeError(f"{place}: transformers does not find {name}. Please report this.")
        if (found := checksum_of(opened[name])) != checksum:
            raise RuntimeError(
                f"{place}: {name} is not what was written: expected {_words(checksum)}, found {_words(found)} when it "
                "was read back. Is the disk in order? If so, please report this."
            )


def _words(checksum: Checksum) -> str:
    dtype = str(checksum.dtype).removeprefix("torch.")
    return f"{dtype} {tuple(checksum.shape)} with CRC-32 {checksum.crc:08x}"


def _open_task(expert: Expert, place: Path, without: Sequence[str] = ()) -> Weights:
    """Open a task's checkpoint as its own class; a zero-shot task's as the base's."""
    assert expert.checkpoint is not None
    return _open(type(expert.own_module).__name__, place, expert.checkpoint.trust_remote_code, without)


def _open(architecture: str, place: Path, trust_remote_code: bool, without: Sequence[str] = ()) -> Weights:
    """Find the tensors of a checkpoint's class, under all their names, as transformers does; none is read.

    Args:
        architecture: Name of the class.
        place: Folder of the checkpoint.
        trust_remote_code: Whether Python code beside the weights may run.
        without: Parameters that the checkpoint lacks as the base did.

    Raises:
        RuntimeError: A parameter is missing, or has another shape than in the class.
    """
    try:
        checkpoint = open_checkpoint(str(place), trust_remote_code=trust_remote_code)
        module = skeleton(checkpoint.config, architecture, trust_remote_code=trust_remote_code)
        if apart := match(checkpoint, module).apart:  # transformers ties nothing that differs in the file
            untie(module, apart)
        found = match(checkpoint, module)
    except (ValueError, IncompatibleExpertsError) as error:
        raise RuntimeError(f"{place}: the exported checkpoint cannot be opened: {error}") from error
    tensors = Converted(checkpoint.tensors, found.names)
    missing = _reported(module, found.missing) - set(without)
    wanted = module.state_dict()
    mismatched = {name for name, (shape, _) in tensors.headers.items() if shape != wanted[name].shape}
    if missing or mismatched:
        raise RuntimeError(f"{place}: transformers does not find {sorted(missing | mismatched)}. Please report this.")
    return Renamed(tensors, _all_names(module, tensors))


def _reported(module: nn.Module, missing: Sequence[str]) -> set[str]:
    """Return those of the missing names that transformers would report."""
    return reported(module, missing) if isinstance(module, PreTrainedModel) else set(missing)


def _all_names(module: nn.Module, tensors: Weights) -> dict[str, str]:
    """Map all names of each tensor, those of tied ones too, to the one under which it was found."""
    found = {name: name for name in tensors.headers}
    return found | {a: aliases[0] for aliases in tied_names(module) if aliases[0] in found for a in aliases}
