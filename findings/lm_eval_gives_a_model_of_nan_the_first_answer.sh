#!/usr/bin/env bash
# lm-eval: a model whose logits are NaN, such as a merge gone wrong, is given the first answer of every question without a word, and so the accuracy of 1 in TruthfulQA MC1, whose first answer is the right one; one expects no accuracy, or a warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0 peft==0.21.2 lm_eval==0.4.13
cd "$folder"
export HF_HOME="$folder" HF_HUB_OFFLINE=1
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import json
import logging
import random
from importlib.metadata import version
from pathlib import Path

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnop"
words = ["[UNK]", "[BOS]", *LETTERS]
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
special = dict(unk_token="[UNK]", bos_token="[BOS]", eos_token="[BOS]", pad_token="[BOS]")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=512, **sizes)).eval()

# Rows as those of TruthfulQA, whose first answer is the right one, for the task that lm_eval has for it;
# and rows whose right answer is any of four, for a task of our own.
draw = random.Random(0)
with open("rows.jsonl", "w") as file:
    for _ in range(100):
        answers = {"choices": draw.sample(LETTERS, 4), "labels": [1, 0, 0, 0]}
        row = {"question": " ".join(draw.sample(LETTERS, 3)), "mc1_targets": answers, "right": draw.randrange(4)}
        file.write(json.dumps(row) + "\n")
data = dict(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": {"validation": "rows.jsonl"}})
shipped = Path(lm_eval.__file__).parent / "tasks/truthfulqa/truthfulqa_mc1.yaml"
first = {"include": str(shipped), "task": "first_is_right", "tag": None, **data}
any_of_four = {**first, "task": "any_is_right", "doc_to_target": "right"}
Path("tasks").mkdir()
for task in (first, any_of_four):
    Path("tasks", task["task"] + ".yaml").write_text(yaml.safe_dump(task))
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(handler)


def accuracies():
    names = ["first_is_right", "any_is_right"]
    manager = TaskManager(include_path="tasks", include_defaults=False)
    lm = HFLM(model, tokenizer=tokenizer, batch_size=16)
    found = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0)
    return [found["results"][name]["acc,none"] for name in names]


print("lm_eval", version("lm_eval"), "transformers", version("transformers"))
print("accuracy where the first answer is the right one, as in TruthfulQA, and where any of four is")
found = {"random weights": accuracies()}
with torch.no_grad():
    model.lm_head.weight[0, 0] = float("nan")
found["one weight is NaN"] = accuracies()
for name, values in found.items():
    print(f"{name}:", *(f"{value:.2f}" for value in values))
print("what was logged about NaN:", [line for line in said if "nan" in line.lower().split()])
assert all(0.1 < value < 0.45 for value in found["random weights"]), found
first, other = found["one weight is NaN"]
rows = [json.loads(line) for line in open("rows.jsonl")]
assert first == 1.0 and other == sum(row["right"] == 0 for row in rows) / len(rows), found
assert not any("nan" in line.lower().split() for line in said), said
PYTHON
