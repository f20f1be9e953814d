#!/usr/bin/env bash
# ctranslate2: its converter passes over settings of config.json that change what a model computes (Gemma's scale of attention and rotary scaling, GPT-2's epsilon, windows of Qwen), and says nothing; one expects a refusal, as it gives for what it does not know.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==4.57.6 ctranslate2==4.8.5
cd "$folder"
venv/bin/python - <<'PYTHON'
from itertools import count

import ctranslate2
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import BloomConfig, FalconConfig, Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config

transformers.logging.set_verbosity_error()
WORDS = [f"w{index}" for index in range(64)]
folders = (f"model{number}" for number in count())
ids = torch.randint(3, 64, (1, 24), generator=torch.Generator().manual_seed(1))


def difference(config):
    """Largest difference of a logit from transformers', as a share of the largest logit."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1), 0.3 if parameter.ndim > 1 else 0.1)
    folder = next(folders)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="w0"))
    special = dict(unk_token="w0", pad_token="w0", bos_token="w1", eos_token="w2")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    ctranslate2.converters.TransformersConverter(folder).convert(f"{folder}/converted")
    generator = ctranslate2.Generator(f"{folder}/converted", compute_type="float32")
    found = np.array(generator.forward_batch([[WORDS[index] for index in ids[0]]]))[0]
    with torch.no_grad():
        right = model(ids).logits[0].numpy()
    return float(np.abs(found - right).max() / np.abs(right).max())


few = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
size = dict(**few, intermediate_size=32, num_key_value_heads=2)
gpt2 = dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
gemma = dict(**size, head_dim=8, query_pre_attn_scalar=8, sliding_window=64)
gemma2 = dict(**gemma, attn_logit_softcapping=None, final_logit_softcapping=None)
linear = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
kinds = {"layer_types": ["sliding_attention", "full_attention"]}
windows = dict(use_sliding_window=True, sliding_window=8, max_window_layers=0)
cases = {  # a configuration that is converted rightly, and settings that are passed over
    "Gemma 2": (Gemma2Config, gemma2, {"query_pre_attn_scalar": 9}),  # as Gemma 2 27B: 144, where a head has 128
    "Gemma 2, capped": (Gemma2Config, gemma2, {"final_logit_softcapping": 30.0}),
    "Gemma 3": (Gemma3TextConfig, gemma | kinds, linear),  # as Gemma 3 4B
    "Qwen2": (Qwen2Config, size, windows),
    "GPT-2": (GPT2Config, gpt2, {"layer_norm_epsilon": 0.1}),
    "Llama": (LlamaConfig, size, {"hidden_act": "gelu"}),
    "Falcon": (FalconConfig, few | {"alibi": False}, {"rope_theta": 500.0}),
    "BLOOM": (BloomConfig, gpt2 | {"hidden_size": 32}, {"apply_residual_connection_post_layernorm": True}),
}
print("ctranslate2", ctranslate2.__version__, "transformers", transformers.__version__)
found = {}
for name, (kind, usual, other) in cases.items():
    found[name] = difference(kind(**usual)), difference(kind(**usual | other))
    print(f"{name}: a logit is off by {found[name][0]:.1e}; with {other} by {found[name][1]:.3f}")
assert all(usual < 1e-4 for usual, _ in found.values()), found
assert all(other > 0.01 for _, other in found.values()), found
PYTHON
