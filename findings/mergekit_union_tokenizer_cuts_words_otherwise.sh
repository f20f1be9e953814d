#!/usr/bin/env bash
# mergekit: the tokenizer of tokenizer source union adds the other models' tokens as whole words, which are cut out of a text first: it reads the texts of both models otherwise than they do; one expects the base's texts to keep their tokens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 mergekit==0.1.5
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

size = dict(hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1)
texts = {"base": "the singing ringing thing is there", "other": "in an inn one ran again in the rain"}


def make(name):
    """A model with a byte-level BPE of its own text, as GPT-2, Llama 3 and Qwen have one of many texts."""
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = bytewise
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=bytewise.alphabet(), special_tokens=["</s>"])
    tokenizer.train_from_iterator(5 * [texts[name]], trainer)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    whole.save_pretrained(name)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(whole), **size)).save_pretrained(name)
    return whole


tokenizers = {name: make(name) for name in texts}
for source in ("base", "union"):
    config = {"merge_method": "linear", "dtype": "float32", "base_model": "./base", "tokenizer": {"source": source}}
    config["models"] = [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in texts]
    run_merge(MergeConfiguration.model_validate(config), f"out_{source}", MergeOptions(copy_tokenizer=False, quiet=True))
    tokenizers[source if source == "union" else "base of the merge"] = AutoTokenizer.from_pretrained(f"out_{source}")
print("mergekit", version("mergekit"))
for owner, text in texts.items():
    print(f"a text of {owner}: {text!r}")
    for name, tokenizer in tokenizers.items():
        print(f"  {name}: {tokenizer.tokenize(text)}")
tokens = {name: {owner: tokenizer.tokenize(text) for owner, text in texts.items()} for name, tokenizer in tokenizers.items()}
assert tokens["base of the merge"] == tokens["base"], tokens
assert tokens["union"]["base"] != tokens["base"]["base"] and tokens["union"]["other"] != tokens["other"]["other"], tokens
assert tokens["base"]["base"][0] == "the" and tokens["union"]["base"][:2] == ["t", "he"], tokens
# Most of what was added is no text, but bytes as BPE writes them ("Ġ" is a blank): no text has it.
added = [token for token in tokenizers["union"].get_added_vocab() if "Ġ" in token]
print("added, and in no text:", sorted(added))
assert len(added) > 5 and not any(token in tokens["union"]["other"] for token in added), added
PYTHON
