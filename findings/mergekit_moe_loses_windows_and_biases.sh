#!/usr/bin/env bash
# mergekit: mergekit-moe sets `sliding_window` of a Mistral to null and leaves the biases of a Llama (`attention_bias`, `mlp_bias`) out: a mixture of one such model with itself has logits that are up to 100 % off the model's, without an error or a warning; a Llama without biases and with rotary scaling is kept, and one expects the model, or an error, as for classes that it does not take.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 mergekit==0.1.5
cd "$folder"
export OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import json
import logging
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.moe.config import MoEMergeConfig
from mergekit.options import MergeOptions
from mergekit.scripts.moe import build
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import PreTrainedTokenizerFast

SIZE = dict(vocab_size=32, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
SCALED = dict(rope_type="llama3", rope_theta=50.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
MODELS = {
    "Llama with rotary scaling": LlamaConfig(**SIZE, rope_parameters=SCALED | {"original_max_position_embeddings": 8}),
    "Mistral without window": MistralConfig(**SIZE, sliding_window=None),
    "Mistral with a window of 4": MistralConfig(**SIZE, sliding_window=4),
    "Llama with attention_bias": LlamaConfig(**SIZE, attention_bias=True),
    "Llama with mlp_bias": LlamaConfig(**SIZE, mlp_bias=True),
}
KINDS = {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM}
said = []
note = logging.Handler(logging.WARNING)
note.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(note)


def mixture_of_itself(config):
    """Make a model of random weights and biases, mix it with itself, and give how far the logits are off."""
    torch.manual_seed(0)
    model = KINDS[config.model_type](config).eval()
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, float(weight.ndim == 1 and "bias" not in name), 0.15 if weight.ndim > 1 else 0.3)
    model.save_pretrained("one")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]").save_pretrained("one")
    expert = {"source_model": "./one", "positive_prompts": ["a"]}
    settings = {"base_model": "./one", "gate_mode": "random", "dtype": "float32", "experts": [expert, expert]}
    build(MoEMergeConfig.model_validate(settings), "out", MergeOptions(copy_tokenizer=False, quiet=True), verbose=False)
    mixture = AutoModelForCausalLM.from_pretrained("out").eval()
    rows = torch.arange(1, 25)[None]
    with torch.no_grad():
        right, mixed = model(rows).logits, mixture(rows).logits
    names = [name for path in Path("out").glob("*.safetensors") for name in safe_open(path, "pt").keys()]
    return ((mixed - right).norm() / right.norm()).item(), sum(name.endswith("bias") for name in names)


print("mergekit", version("mergekit"), "transformers", version("transformers"), "torch", torch.__version__)
found = {}
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for name, config in MODELS.items():
        found[name], biases = mixture_of_itself(config)
        kept = json.loads(Path("out/config.json").read_text())
        print(f"{name}: the mixture's logits are {found[name]:.2%} off; sliding_window {kept['sliding_window']}, biases in its file: {biases}")
print("warnings that name windows or biases:", [text for text in said if "window" in text or "bias" in text])
for name, off in found.items():
    assert off < 1e-5 if name in ("Llama with rotary scaling", "Mistral without window") else off > 0.3, found
assert not any("window" in text or "bias" in text for text in [*said, *(str(one.message) for one in warned)]), said
PYTHON
