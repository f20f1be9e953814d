"""The stored first stage: what is damaged in it is reported, and made again to the same coefficients."""

from functools import partial

import pytest
import torch
from support.digits import digits_family
from torch.optim import Adam

from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.kept_stages import LEARNED, TABLE
from adamerge.learning.learn import Calibration
from adamerge.learning.settings import Learning
from adamerge.learning.stages import learn_in_stages
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


def in_stages(place, steps=3, every=100, **options):
    experts, own = digits_family()
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=True), tensor_wise(experts.shared))
    learning = Learning(
        partial(Adam, lr=0.05),
        feasible=Unbounded(),
        init=0.3,
        batching=Batching(batch_size=None),
        watching=Watching("last", every=every, patience=None),
        task_weights=dict.fromkeys(own, 1.0),
        trainer={"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False},
    )
    rows, chunks = Calibration(own, {}), Chunks(first_steps=2)
    return learn_in_stages(model, CrossEntropy(), rows, learning, chunks, place, made_of={"rows": "a"}, **options)


def test_stages_are_named_and_lines_count_the_steps_of_both_as_the_result_does(tmp_path):
    said: list[str] = []
    staged = in_stages(tmp_path / "first", steps=5, every=1, tell=said.append, announce=said.append)
    steps = [line.split()[1] for line in said if line.startswith("step ")]
    assert steps == ["0", "1", "2", "3", "4", "5"]
    assert [entry["step"] for entry in staged.learned.history] == [*map(int, steps)]
    assert said[0].startswith("first stage: ")
    assert said[0].endswith(", at most 2 steps")
    (second,) = (line for line in said if line.startswith("second stage, from the best iterate of the first: "))
    assert second.endswith(", at most 3 steps")
    assert said[said.index(second) + 1].startswith("step 3 ")
    assert str(staged.learned.best_step) in steps


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_first_stage_is_named_and_made_again(tmp_path, name, damage):
    said: list[str] = []

    def learned():
        staged = in_stages(tmp_path / "first_stage", keeper=Keeper(said.append))
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
