"""The stored first stage: what is damaged in it is said, and made again to the same coefficients."""

from functools import partial

import pytest
import torch
from support.digits import digits_family
from torch.optim import Adam

from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration
from adamerge.learning.settings import Learning
from adamerge.learning.two_stages import LEARNED, TABLE, learn_in_stages
from adamerge.merging.chunks import Chunks
from adamerge.merging.coefficients import COEFFICIENTS
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import CrossEntropy
from adamerge.optim.feasible_sets import Unbounded
from adamerge.storage.kept import Keeper, key_file

DAMAGES = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "changed": lambda file: file.write_bytes(file.read_bytes().replace(b"0", b"1", 1)),
    "gone": lambda file: file.unlink(),
}
CASES = [*((LEARNED, damage) for damage in DAMAGES), (COEFFICIENTS, "changed"), (TABLE, "cut"), ("key", "gone")]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_first_stage_is_named_and_made_again(tmp_path, name, damage):
    experts, own = digits_family()
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=True), tensor_wise(experts.shared))
    learning = Learning(
        partial(Adam, lr=0.05),
        feasible=Unbounded(),
        init=0.3,
        batching=Batching(batch_size=None),
        watching=Watching("last", every=100, patience=None),
        task_weights=dict.fromkeys(own, 1.0),
        trainer={"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False},
    )
    said: list[str] = []

    def learned():
        staged = learn_in_stages(
            model, CrossEntropy(), Calibration(own, {}), learning, Chunks(first_steps=2), tmp_path / "first_stage",
            made_of={"rows": "a"}, keeper=Keeper(said.append),
        )  # fmt: skip
        return staged.learned.coefficients

    whole = learned()
    assert torch.equal(learned(), whole)
    assert said == []
    folder = tmp_path / "first_stage"
    DAMAGES[damage](key_file(folder) if name == "key" else folder / name)
    again = learned()
    problem = "has no key" if (name, damage) == ("key", "gone") else "is damaged"
    assert said == [f"{folder}: {problem}; computed again"]
    assert torch.equal(again, whole)
    assert torch.equal(learned(), whole)
    assert len(said) == 1
