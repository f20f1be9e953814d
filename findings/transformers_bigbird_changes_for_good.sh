#!/usr/bin/env bash
# transformers: after one short row, a BigBird model answers long rows with full attention for good; one expects that a row's answer does not depend on earlier ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON' 2>/dev/null
import torch
import transformers
from transformers import BigBirdConfig, BigBirdForSequenceClassification

torch.manual_seed(0)
size = dict(vocab_size=50, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2)
config = BigBirdConfig(block_size=4, num_random_blocks=1, max_position_embeddings=256, initializer_range=0.5, **size)
model = BigBirdForSequenceClassification(config).eval()
long, short = torch.randint(5, 50, (1, 128)), torch.randint(5, 50, (1, 8))
print("transformers", transformers.__version__)
with torch.no_grad():
    first, second = model(long).logits, model(long).logits
    print("long row:                 ", [round(x, 4) for x in first[0].tolist()], model.bert.attention_type)
    model(short)
    after = model(long).logits
    print("long row, after a short one:", [round(x, 4) for x in after[0].tolist()], model.bert.attention_type)
assert torch.equal(first, second)
assert (after - first).abs().max() > 1e-3, (first, after)
assert model.bert.attention_type == "original_full"
PYTHON
