#!/usr/bin/env bash
# huggingface_hub: of two results of one dataset, a model card gives the second the dataset_args and the source of the first; one expects a result to be read back as it was written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q huggingface_hub==2.4.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import huggingface_hub
from huggingface_hub import EvalResult, ModelCard, ModelCardData

dataset = dict(task_type="text-generation", dataset_type="quiz", dataset_name="Quiz", metric_type="accuracy")
written = [
    EvalResult(
        **dataset,
        metric_name=f"accuracy, {shots} examples",
        metric_value=value,
        dataset_args={"num_few_shot": shots},
        source_name=f"run with {shots}",
        source_url=f"https://example.org/{shots}",
    )
    for shots, value in ((0, 0.25), (5, 0.75))
]
data = ModelCardData(model_name="tiny", eval_results=written)
read = ModelCard(f"---\n{data.to_yaml()}\n---\n").data.eval_results
print("huggingface_hub", huggingface_hub.__version__)
for kind, results in (("written", written), ("read back", read)):
    for result in results:
        print(f"{kind}: {result.metric_value} with {result.dataset_args}, {result.source_url}")
assert [result.metric_value for result in read] == [0.25, 0.75]
assert [result.dataset_args["num_few_shot"] for result in read] == [0, 0], read
assert [result.source_url for result in read] == ["https://example.org/0"] * 2, read
PYTHON
