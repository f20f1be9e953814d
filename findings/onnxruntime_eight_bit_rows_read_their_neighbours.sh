#!/usr/bin/env bash
# onnxruntime: a model of quantize_dynamic scales the inputs of a layer by the largest number of the whole batch, so that the answer of a row depends on the rows beside it: 99 % of 500 rows keep their class alone, 56 % beside one row that is 100 times as large; one expects the answer of a row to be its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import QuantType, quantize_dynamic

WIDTH, CLASSES, ROWS = 64, 10, 500


def answers(path, rows):
    """Give the logits of rows in one batch."""
    return InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


random = np.random.default_rng(0)
weight = random.normal(size=(WIDTH, CLASSES)).astype("float32")
sizes = {"x": WIDTH, "y": CLASSES}
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name, size in sizes.items()]
node = helper.make_node("MatMul", ["x", "w"], ["y"])
graph = helper.make_graph([node], "head", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "full.onnx")
# Weights of type uint8, so that no processor's kernel of signed weights adds an error of its own.
quantize_dynamic("full.onnx", "eighth.onnx", weight_type=QuantType.QUInt8)
print("onnxruntime", version("onnxruntime"), "onnx", version("onnx"))
print("nodes of the quantised file:", [node.op_type for node in onnx.load("eighth.onnx").graph.node])

rows = random.normal(size=(ROWS, WIDTH)).astype("float32")
other = random.normal(size=(1, WIDTH)).astype("float32")
full = answers("full.onnx", rows)
found = {"alone": np.concatenate([answers("eighth.onnx", row[None]) for row in rows])}
for size in (1, 10, 100):
    beside = np.concatenate([rows, size * other])
    found[f"beside a row {size} times as large"] = answers("eighth.onnx", beside)[:-1]
    assert np.abs(answers("full.onnx", beside)[:-1] - full).max() < 1e-4, "full precision"
shares = {}
for name, logits in found.items():
    error = np.linalg.norm(logits - full) / np.linalg.norm(full)
    shares[name] = (logits.argmax(1) == full.argmax(1)).mean()
    print(f"{name}: logits are {error:.1%} off, {shares[name]:.1%} of the {ROWS} rows keep their class")
alone, first, tenfold, hundredfold = shares.values()
assert min(alone, first) > 0.98 and first > tenfold > hundredfold and hundredfold < 0.7, shares
PYTHON
