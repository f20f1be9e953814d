"""What is said of tensors that a module has no place for."""

import pytest
from torch import nn

from adamerge.experts.compatibility import name_problems
from adamerge.experts.match_names import Match

OF_PEFT = """lora_A.default.weight lora_B.default.weight lora_embedding_A.default lora_magnitude_vector.default.weight
    base_layer.weight modules_to_save.default.weight trainable_tokens_delta.default hada_w1_a.default lokr_w2.default
    ia3_l.default oft_R.default.weight boft_s.default vera_lambda_b.default lora_E.default""".split()


@pytest.mark.parametrize("name", [*OF_PEFT, "bias2", "flora_A.weight", "floral_base.weight"])
def test_an_adapter_in_a_full_checkpoint_is_to_be_merged_not_removed(name):
    said = name_problems("mood", "the file", nn.Linear(2, 2), Match({}, (), (f"encoder.query.{name}",)))
    assert len(said) == 1
    assert ("Merge the adapter first: model.merge_and_unload()" in said[0]) == (name in OF_PEFT)
    assert ("remove tensors" in said[0]) == (name not in OF_PEFT)
