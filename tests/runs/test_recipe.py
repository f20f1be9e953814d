"""What a run is made from is noted, and a change is refused by name when the run goes on."""

import json

import pytest
import torch
from support.families import Tiny

from adamerge.experts.from_modules import from_modules
from adamerge.merging.merged_model import task_vectors
from adamerge.runs.inputs import remember
from adamerge.storage.kept import Keeper
from adamerge.transforms import Magnitude, Ties
from adamerge.transforms.stored import transformed
from adamerge.types import ConfigError

NOTE = {
    "base": {"source": "zoo/base", "sha256": {"model.safetensors": "1"}},
    "experts": {"a": {"source": "zoo/a", "sha256": {"model.safetensors": "2"}}, "b": {"source": "zoo/b", "sha256": {}}},
    "data": {"a": {"calibration": "3"}, "b": {"calibration": "4"}},
    "packages": {"adamerge": "0.1.0"},
}


def test_the_same_may_go_on(tmp_path):
    remember(NOTE, tmp_path / "inputs.json")
    remember(NOTE, tmp_path / "inputs.json")
    assert json.loads((tmp_path / "inputs.json").read_text()) == NOTE


def test_a_damaged_note_is_refused(tmp_path):
    remember(NOTE, tmp_path / "inputs.json")
    whole = (tmp_path / "inputs.json").read_text()
    (tmp_path / "inputs.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"inputs\.json: .*damaged.*another run_dir"):
        remember(NOTE, tmp_path / "inputs.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": {"source": "zoo/base", "sha256": {}}}, r"base \(zoo/base\): model\.safetensors is gone"),
        (
            {"experts": NOTE["experts"] | {"a": {"source": "x", "sha256": {"model.safetensors": "9"}}}},
            r"expert a \(x\): model\.safetensors has other content",
        ),
        ({"data": {"a": {"calibration": "3"}, "b": {"calibration": "5"}}}, "rows of b"),
    ],
)
def test_a_change_is_named(tmp_path, monkeypatch, change, named):
    monkeypatch.chdir(tmp_path)  # where no zoo was unpacked
    remember(NOTE, tmp_path / "inputs.json")
    with pytest.raises(ConfigError, match=named):
        remember(NOTE | change, tmp_path / "inputs.json")


def test_stored_task_vectors_of_something_else_are_made_anew(tmp_path):
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    vectors = task_vectors(together, together.shared)
    stored = transformed(vectors, together.base, Ties(0.2), tmp_path / "kept")
    again = transformed(vectors, together.base, Ties(0.2), tmp_path / "kept")
    for name, stack in stored.stacks():
        assert torch.equal(stack, again.stack(name))
        assert (stack != 0).any() or name.endswith("bias") or stack.ndim == 1
    changed = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(3)})
    for number, (other, transform, word) in enumerate(
        (
            (vectors, Ties(0.9), "settings"),
            (vectors, Magnitude(), "settings"),
            (task_vectors(changed, changed.shared), Magnitude(), "experts"),
        )
    ):
        said = []
        found = transformed(other, together.base, transform, tmp_path / "kept", keeper=Keeper(said.append))
        fresh = transformed(other, together.base, transform, tmp_path / str(number))
        assert said == [f"{tmp_path / 'kept'}: is made of other {word}; computed again"]
        for name, stack in found.stacks():
            assert torch.equal(stack, fresh.stack(name))
