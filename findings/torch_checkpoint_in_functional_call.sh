#!/usr/bin/env bash
# torch: functional_call around a checkpointed block gives wrong gradients without a word; one expects those of the same call without checkpointing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)

    def block(self, x):
        return torch.tanh(self.layer(x))

    def forward(self, x, saving):
        return (checkpoint(self.block, x, use_reentrant=False) if saving else self.block(x)).sum()


net = Net()
net.layer.weight.data = torch.eye(3)
given = {"layer.weight": (2 * torch.eye(3)).requires_grad_()}
gradients, outputs = {}, {}
for saving in (False, True):
    x = torch.full((1, 3), 0.5, requires_grad=True)
    outputs[saving] = functional_call(net, given, (x, saving))
    gradients[saving] = torch.autograd.grad(outputs[saving], x)[0]
print("torch", torch.__version__)
# At x = 0.5 the given weights, 2 I, give 2 (1 - tanh(1)^2) = 0.840; the module's own, I, give 1 - tanh(0.5)^2 = 0.786.
print("output  :", outputs[False].item(), "with checkpoint:", outputs[True].item())
print("gradient:", gradients[False].tolist(), "with checkpoint:", gradients[True].tolist())
right, other = 2 / torch.cosh(torch.tensor(1.0)) ** 2, 1 / torch.cosh(torch.tensor(0.5)) ** 2
assert torch.equal(outputs[True], outputs[False])
assert torch.allclose(gradients[False], right.expand(1, 3))
assert torch.allclose(gradients[True], other.expand(1, 3)), gradients
PYTHON
