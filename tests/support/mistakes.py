"""Tables of mistakes: what spoils a family of checkpoints or its configuration, and the words that must answer it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

LINES = 6
"""Of the answer to one mistake at most."""


class Mistake(NamedTuple):
    """A mistake and its answer.

    Attributes:
        make: Takes the family's folder and its configuration, and spoils one of them.
        words: What must stand in the answer.
    """

    make: Callable[[Path, dict], object]
    words: tuple[str, ...]


def table() -> tuple[dict[str, Mistake], Callable]:
    """A table by the mistakes' names, empty at first, and the decorator that adds a row to it."""
    rows: dict[str, Mistake] = {}

    def mistake(*words):
        def add(make):
            assert make.__name__ not in rows
            rows[make.__name__] = Mistake(make, words)
            return make

        return add

    return rows, mistake


def assert_answers(answer: str, words: tuple[str, ...]) -> None:
    """The answer to one mistake has all its words, and does not bury them."""
    assert len(answer.splitlines()) <= LINES, answer
    for word in words:
        assert word in answer


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def pickle_weights(folder):
    """Weights as a pickle instead of safetensors."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def wrap_by_peft(model):
    """Names of tensors as of a model that PEFT wraps."""

    def wrap(tensors):
        for name in [name for name in tensors if "attention.self" in name]:
            path, _, leaf = name.rpartition(".")
            tensors[f"{path}.base_layer.{leaf}"] = tensors.pop(name)

    edit_tensors(model / "model.safetensors", wrap)
