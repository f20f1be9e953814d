"""A small real problem: three vision transformers of 13,000 numbers, fine-tuned on digits seen in three manners."""

import copy
from functools import cache

import torch
from sklearn.datasets import load_digits
from support.shared import PLACE, made_once
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

from adamerge.data.rows import TensorRows
from adamerge.experts.experts import Experts
from adamerge.experts.from_modules import from_modules

MANNERS = {
    "upright": lambda pictures: pictures,
    "rotated": lambda pictures: pictures.rot90(1, (2, 3)),
    "inverted": lambda pictures: 1 - pictures,
}
ROWS = 24


def train(model, pictures, labels, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(pictures[rows]).logits, labels[rows]).backward()
        optimizer.step()
    return model


def fresh():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=8, patch_size=2,
        num_channels=1, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return ViTForImageClassification(config)


def trained(seen, labels):
    """The parameters of the base and of each expert."""
    mixed = torch.cat([pictures[:100] for pictures in seen.values()])
    base = train(fresh(), mixed, labels[:100].repeat(3), 150)
    experts = {task: train(copy.deepcopy(base), own[:1000], labels[:1000], 150) for task, own in seen.items()}
    return {name: model.state_dict() for name, model in {"base": base, **experts}.items()}


def trained_once(seen, labels):
    """The same, from the process of the session that needed them first."""

    def make(folder):
        folder.mkdir()
        torch.save(trained(seen, labels), folder / "states.pt")

    return torch.load(made_once("digits", make) / "states.pt") if PLACE else trained(seen, labels)


def with_parameters(state):
    model = fresh()
    model.load_state_dict(state)
    return model


@cache
def digits_family() -> tuple[Experts, dict[str, TensorRows]]:
    """Experts of one base, and labeled rows of each that none was trained on."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(pictures, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels)
    seen = {task: manner(pictures) for task, manner in MANNERS.items()}
    models = {name: with_parameters(state) for name, state in trained_once(seen, labels).items()}
    base, experts = models["base"], {task: models[task] for task in seen}
    rows = {task: TensorRows({"pixel_values": own[-ROWS:]}, labels[-ROWS:]) for task, own in seen.items()}
    return from_modules(base, experts), rows
