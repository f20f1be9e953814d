#!/usr/bin/env bash
# fusion-bench: Fisher merging squares the sum over classes and rows, not each gradient, so that the Fisher information is nearly 0 where a model is unsure, where it is largest; one expects the weighted mean of the paper.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 fusion-bench==0.2.33
cd "$folder"
export HF_HOME="$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import torch
from fusion_bench.method.fisher_merging.fisher_merging import fisher_merging
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

ROWS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


class Classifier(nn.Module):
    def __init__(self, first_row):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        self.linear.weight.data = torch.tensor([first_row, [0.0, 0.0]])

    def forward(self, x, labels=None):
        return SequenceClassifierOutput(logits=self.linear(x))


def information(model):
    """The diagonal of the Fisher information: each class's squared gradient, by its probability."""
    total = torch.zeros(2, 2)
    for x in ROWS:
        logs = model.linear(x).log_softmax(-1)
        for log in logs:
            (gradient,) = torch.autograd.grad(log, model.linear.weight, retain_graph=True)
            total += log.detach().exp() * gradient**2
    return total / len(ROWS)


def merged(models, batch):
    settings = TrainingArguments("out", per_device_train_batch_size=batch, report_to=[], use_cpu=True)
    data = [{"x": x, "labels": 0} for x in ROWS]
    trainers = [Trainer(model, settings, train_dataset=data) for model in models]
    number = [len(ROWS)] * len(models)
    options = dict(normalize_fisher_weight=False, minimal_fisher_weight=1e-12)
    return fisher_merging(models, trainers, [], number, **options)["linear.weight"][0].tolist()


print("fusion-bench", version("fusion-bench"), "transformers", version("transformers"))
models = [Classifier([0.1, 4.0]), Classifier([4.0, 0.1])]  # each is unsure of one feature, sure of the other
fisher = [information(model) for model in models]
right = sum(f * m.linear.weight for f, m in zip(fisher, models)) / sum(fisher)
right = right[0].tolist()
print("Fisher information of the weight 0.1 (unsure): %.4f, of the weight 4 (sure): %.4f" % tuple(fisher[0][0]))
print("weights of the two models:", [model.linear.weight[0].tolist() for model in models])
print("merged by these:           ", [round(value, 3) for value in right])
for batch in (1, 4):
    found = merged(models, batch)
    print(f"fisher_merging, batch {batch}:  ", [round(value, 3) for value in found])
    assert min(found) > 3.8, found
assert max(right) < 0.5, right

# Rows of one batch are added up before they are squared, so that they cancel: batches of another size, another merge.
ROWS = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
models = [Classifier([2.0, 0.0]), Classifier([2.0, 1.0])]
alone, together = merged(models, 1)[1], merged(models, 2)[1]
print(f"weights 0 and 1, other rows: merged {alone:.3f} in batches of 1, {together:.3f} in batches of 2")
assert alone < 0.8 and together > 0.99, (alone, together)
PYTHON
