"""A model that cannot be asked about its rows: the key of config.json that is to blame is named."""

import pytest
import torch
import transformers
from support.families import build, save_tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from adamerge.calibration.probe import settle
from adamerge.data.text_rows import Prompts
from adamerge.experts.from_modules import from_modules
from adamerge.runs.settle_rows import asked_of_copy


def generated(module):
    how = transformers.GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=2)
    return module.generate(torch.tensor([[4, 5]]), generation_config=how)


def test_a_key_that_only_generation_reads_is_named(tmp_path):
    assert generated(build("LlamaForCausalLM", "llama", 0)).shape == (1, 4)
    build("LlamaForCausalLM", "llama", 0, sliding_window=[1]).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    module = LlamaForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(TypeError):
        generated(module)
    prompts = Prompts(
        [[0, 4, 5]] * 2, ["a", "b"], AutoTokenizer.from_pretrained(tmp_path), start=None, completion_only=False
    )
    expert = from_modules(module, {"a": module}).tasks["a"]
    problem = settle(asked_of_copy(expert, prompts), prompts).problem
    assert f"If sliding_window in {tmp_path}/config.json is not that of training" in problem
