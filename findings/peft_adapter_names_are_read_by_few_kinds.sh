#!/usr/bin/env bash
# peft: adapter_names=[…], one adapter for each row, is dropped without a word by all kinds but LoRA, RoAd and GLoRA: every row is answered by the active adapter; one expects an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
import torch
from peft import get_peft_model
from torch import nn

torch.manual_seed(0)
x = torch.randn(1, 8).expand(3, 8)  # one row three times
names = ["one", "two", "__base__"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x)


def answers(kind, options):
    """Answers of each adapter alone, and of one call that names an adapter for each row."""
    config = getattr(peft, kind)(target_modules=["layer"], **options)
    model = get_peft_model(Net(), config, adapter_name="one")
    model.add_adapter("two", config)
    for name, parameter in model.named_parameters():
        if "layer.base_layer" not in name and parameter.is_floating_point():
            nn.init.normal_(parameter, std=0.5)
    model.eval()
    alone = []
    with torch.no_grad():
        for name in names[:2]:
            model.set_adapter(name)
            alone.append(model(x)[0])
        with model.disable_adapter():
            alone.append(model(x)[0])
        model.set_adapter("one")
        return torch.stack(alone), model(x, adapter_names=names)


print("peft", peft.__version__)
followed = {}
kinds = {
    "LoraConfig": {"r": 2},
    "RoadConfig": {"group_size": 4},
    "IA3Config": {"feedforward_modules": []},
    "LoHaConfig": {"r": 2},
    "LoKrConfig": {"r": 2},
    "OFTConfig": {"oft_block_size": 4},
    "HRAConfig": {"r": 2},
    "VeraConfig": {"r": 2, "init_weights": False},
    "MissConfig": {"r": 2},
    "FourierFTConfig": {"n_frequency": 8},
    "VBLoRAConfig": {"r": 2, "num_vectors": 8, "vector_length": 4},
}
for kind, options in kinds.items():
    alone, mixed = answers(kind, options)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3) and not torch.allclose(alone[0], alone[2], atol=1e-3), kind
    followed[kind] = torch.allclose(mixed, alone, atol=1e-5)
    ignored = torch.allclose(mixed, alone[0].expand(3, 8), atol=1e-5)
    assert followed[kind] != ignored, kind
    print(f"{kind}: rows for {names} are answered by {'these' if followed[kind] else 'the active adapter, one'}")
assert [kind for kind, value in followed.items() if value] == ["LoraConfig", "RoadConfig"], followed
PYTHON
