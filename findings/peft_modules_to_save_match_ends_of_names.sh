#!/usr/bin/env bash
# peft: modules_to_save=["norm"] trains and saves every module whose name ends with these letters, so all layers' input_layernorm; one expects whole names, as target_modules has them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2 transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)


def trained(options):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **size)), LoraConfig(r=1, **options))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return sorted({name.removeprefix("base_model.model.").split(".lora")[0].split(".modules_to_save")[0] for name in names})


print("peft", peft.__version__)
targets = trained({"target_modules": ["proj", "q_proj"]})
saved = trained({"target_modules": ["q_proj"], "modules_to_save": ["norm"]})
print("target_modules [proj, q_proj]:", targets)
print("target_modules [q_proj], modules_to_save [norm]:", saved)
queries = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
norms = [f"model.layers.{layer}.{name}_layernorm" for layer in range(2) for name in ("input", "post_attention")]
assert targets == queries, targets
assert saved == sorted([*queries, *norms, "model.norm"]), saved
PYTHON
