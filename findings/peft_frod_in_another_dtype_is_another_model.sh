#!/usr/bin/env bash
# peft: a FRoD adapter of a float32 model, loaded over the same model in bfloat16 or float16, changes its answers wholly, even an untrained one, for it takes one of its factors from a decomposition made anew of the rounded weights and the other from the file; one expects rounding alone, as of LoRA, and the documentation of save_projection guarantees that the adapter can be reloaded on all system configurations.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import logging
import warnings

import peft
import torch
from peft import FrodConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn

KINDS = {
    "LoRA": LoraConfig(r=4, target_modules=["0", "2"]),
    "FRoD": FrodConfig(target_modules=["0", "2"], progressbar=False),
}
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(handler)


def base():
    """Give the model that all adapters belong to."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 32))


@torch.no_grad()
def make(kind, size):
    """Save an adapter of the float32 model, moved by random numbers of a size; give the model with it."""
    model = get_peft_model(base(), KINDS[kind]).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += size * torch.randn_like(parameter)
    model.save_pretrained(kind)
    return model


def far(answers, right):
    return ((answers.float() - right).norm() / right.norm()).item()


torch.manual_seed(2)
x = torch.randn(100, 48)
plain = base()(x)
found = {}
print("peft", peft.__version__, "torch", torch.__version__)
with warnings.catch_warnings(record=True) as warned, torch.no_grad():
    warnings.simplefilter("always")
    for kind in KINDS:
        for size, name in ((0.0, "untrained"), (0.05, "trained")):
            right = make(kind, size)(x)
            print(f"{kind}, {name}: answers in float32 are {far(right, plain):.4f} from those of the base")
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                over = PeftModel.from_pretrained(base().to(dtype), kind).eval()
                cast = PeftModel.from_pretrained(base(), kind).eval().to(dtype)
                found[kind, name, dtype] = [far(model(x.to(dtype)), right) for model in (over, cast)]
                print("  loaded over the base in %s: %.4f from them; loaded in float32, then cast: %.4f" % (dtype, *found[kind, name, dtype]))
print("warnings:", *{str(one.message) for one in warned}, *said)
for (kind, name, dtype), (over, cast) in found.items():
    assert cast < 0.02, found
    assert over > 0.3 if kind == "FRoD" and dtype != torch.float32 else over < 0.02, found
PYTHON
