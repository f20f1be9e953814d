"""Where computation happens: the device of the task vectors, which models, batches and coefficients follow."""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

import torch

from adamerge.storage.memory import free_memory
from adamerge.types import ConfigError

BF16, FP32 = "bf16-mixed", "32-true"
"""Lightning's words for the precision of passes: matrices in bf16 by autocast, or everything in fp32."""

_GPU = ("gpu", "cuda")
_BF16_OF_CPU = ("avx512_bf16", "amx_bf16")
"""Instructions that multiply bf16; without them a CPU takes longer for bf16 than for fp32."""

_T = TypeVar("_T")


def check_accelerator(accelerator: str) -> None:
    """Check a word of `trainer.accelerator`, on whatever machine.

    Raises:
        ConfigError: The word is unknown, or names devices that cannot merge.
    """
    if accelerator == "mps":
        raise ConfigError(
            "trainer.accelerator: expected auto, cpu, gpu or cuda, found mps: Apple's GPUs have no fp64, which centres "
            "and starts in closed form need, and no step was ever taken on one. Set accelerator: cpu."
        )
    if accelerator not in ("auto", "cpu", *_GPU):
        raise ConfigError(
            f"trainer.accelerator: expected auto, cpu, gpu or cuda, found {accelerator!r}. Write one of these."
        )


def device_of(accelerator: str) -> torch.device:
    """Choose the device for a word of `trainer.accelerator`; `auto` takes a CUDA device if there is one.

    Args:
        accelerator: auto, cpu, gpu or cuda.

    Raises:
        ConfigError: The word is unknown, or there is no such device.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    check_accelerator(accelerator)
    found = torch.cuda.is_available()
    if is_missing(accelerator):
        raise ConfigError(
            f"trainer.accelerator: expected a CUDA device for {accelerator}, found none (torch {torch.__version__}). "
            "Set accelerator: cpu, or install a build of PyTorch for this machine's GPU."
        )
    return torch.device("cuda", torch.cuda.current_device()) if found and accelerator != "cpu" else torch.device("cpu")


def is_missing(accelerator: str) -> bool:
    """Return whether a word of `trainer.accelerator` names a device that this machine does not have.

    Example:
        >>> is_missing("auto"), is_missing("cpu")
        (False, False)
    """
    return accelerator in _GPU and not torch.cuda.is_available()


def devices_of(accelerator: str) -> tuple[int, str]:
    """Return how many devices this machine has for a word of `trainer.accelerator`, and what they are.

    Raises:
        ConfigError: The word is unknown, or there is no such device.
    """
    if device_of(accelerator).type == "cuda":
        return torch.cuda.device_count(), "CUDA devices"
    return os.cpu_count() or 1, "CPU cores"


def describe_device(device: torch.device) -> str:
    """Name a device and its free memory, as `check` and `fit` print it.

    Example:
        >>> describe_device(torch.device("cpu"))
        'cpu'
    """
    if device.type != "cuda":
        return str(device)
    free, total = torch.cuda.mem_get_info(device)
    return f"{device} ({torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free)"


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def trainer_on(device: torch.device, accelerator: object = "auto") -> dict[str, object]:
    """Return the arguments of Lightning's Trainer that place the coefficients where the task vectors are.

    Args:
        device: Device of the task vectors.
        accelerator: What the Trainer's options ask for.

    Raises:
        ConfigError: The options ask for another device.

    Example:
        >>> trainer_on(torch.device("cuda", 1))
        {'accelerator': 'cuda', 'devices': [1]}
    """
    wanted = "cuda" if accelerator in _GPU else accelerator
    if wanted not in ("auto", device.type):
        raise ConfigError(
            f"trainer.accelerator: expected auto or {device.type}, because the task vectors are on {device}, found "
            f"{accelerator}. Compute the task vectors there (task_vectors(…, device=…)), or set accelerator: auto."
        )
    return {"accelerator": device.type, "devices": [device.index] if device.type == "cuda" else 1}


def fastest_precision(device: torch.device) -> str:
    """Return the precision in which a device takes the least time for a model's passes.

    bf16-mixed where it multiplies bf16 itself (GPUs since NVIDIA's Ampere, CPUs with AVX512-BF16 or AMX), else 32-true.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = cast(Mapping[str, object], getattr(torch.cpu, "get_capabilities", dict)())  # absent in former versions
        native = any(known.get(name) for name in _BF16_OF_CPU)
    return BF16 if native else FP32


def each_in_bf16(items: Iterator[_T], device: torch.device, *, bf16: bool) -> Iterator[_T]:
    """Yield what passes return, each made under autocast to bf16; whoever takes it computes in its own precision.

    Args:
        items: Runs a pass, or several, whenever the next one is asked for.
        device: Device of the passes.
        bf16: Whether they compute in bf16; otherwise nothing changes.
    """
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@contextmanager
def full_precision(device: torch.device) -> Generator[None]:
    """Compute in the tensors' own dtype: without autocast and, on CUDA, without TF32.

    Mixed precision is for the models. What is summed over experts keeps its digits.
    """
    with torch.autocast(device.type, enabled=False), _without_tf32(device):
        yield


@contextmanager
def _without_tf32(device: torch.device) -> Generator[None]:
    if device.type != "cuda":
        yield
        return
    matmul, key, exact = torch.backends.cuda.matmul, "fp32_precision", "ieee"
    if not hasattr(matmul, key):  # PyTorch before 2.9
        key, exact = "allow_tf32", False
    former = getattr(matmul, key)
    setattr(matmul, key, exact)
    try:
        yield
    finally:
        setattr(matmul, key, former)


@contextmanager
def advice_where_full(device: torch.device) -> Generator[None]:
    """Say what to change where the memory of a GPU is exhausted.

    Raises:
        ConfigError: Something inside the block did not fit into the device's memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{describe_device(device)}: its memory is exhausted ({str(error).partition('. ')[0]}). Set memory: "
            "mapped, lower data.micro_batch, set trainer.precision: bf16-mixed, or set trainer.accelerator: cpu."
        ) from error
