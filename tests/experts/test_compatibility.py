"""What is said of tensors that a module has no place for, or that cannot be merged."""

import pytest
import torch
from torch import nn

from adamerge.experts.compatibility import name_problems, quantised_problems
from adamerge.experts.match_names import Match
from adamerge.storage.weights import InMemory

OF_PEFT = """lora_A.default.weight lora_B.default.weight lora_embedding_A.default lora_magnitude_vector.default.weight
    base_layer.weight modules_to_save.default.weight trainable_tokens_delta.default hada_w1_a.default lokr_w2.default
    ia3_l.default oft_R.default.weight boft_s.default vera_lambda_b.default lora_E.default""".split()


@pytest.mark.parametrize("name", [*OF_PEFT, "bias2", "flora_A.weight", "floral_base.weight"])
def test_an_adapter_in_a_full_checkpoint_is_to_be_merged_not_removed(name):
    said = name_problems("mood", "the file", nn.Linear(2, 2), Match({}, (), (f"encoder.query.{name}",)))
    assert len(said) == 1
    assert ("Merge the adapter first: model.merge_and_unload()" in said[0]) == (name in OF_PEFT)
    assert ("remove tensors" in said[0]) == (name not in OF_PEFT)


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (torch.int8, "quantised (torch.int8); use the checkpoint from before"),
        (torch.bool, "of torch.bool; expected real floating-point numbers: save"),
        (torch.int64, "of torch.int64; expected real"),
        (torch.complex64, "of torch.complex64; expected real"),
    ],
)
def test_only_packed_numbers_are_called_quantised(dtype, said):
    (line,) = quantised_problems("mood", InMemory({"a": torch.ones(2), "b": torch.ones(2, dtype=dtype)}), ["a", "b"])
    assert line.startswith(f"mood: b is {said}")
