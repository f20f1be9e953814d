"""Three small networks near a base, their rows, merges of them, and the divergence of a merge by plain modules."""

import warnings

import torch
from torch import nn

from adamerge import Expert, Merge
from adamerge.data.rows import TensorRows

ROWS = 240
FAR = {"class_path": "SGD", "init_args": {"lr": 1e4}}
"""Jumps to where the merge is bad."""


def network(seed=0, near=None, step=0.4):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    if near is not None:
        with torch.no_grad():
            for own, start in zip(net.parameters(), near.parameters(), strict=True):
                own.copy_(start + step * own)
    return net


BASE = network()
NETS = {f"task{seed}": network(seed, BASE) for seed in (1, 2, 3)}
INPUTS = {task: torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(i)) for i, task in enumerate(NETS)}


def merge(**settings):
    """A merge of the networks by expert merging that ends where its steps lead, with the guard."""
    rows = {task: TensorRows({"input": INPUTS[task]}) for task in NETS}
    experts = [Expert(net, task=task, calibration=rows[task]) for task, net in NETS.items()]
    usual = {"method": "expert_merging", "optimizer": FAR, "lr_scheduler": None, "trainer": {"max_steps": 2}}
    usual |= {"watch": {"every": 2, "monitor": "last", "guard": True}, "data": {"held_out": 0.5, "batch_size": None}}
    return Merge(BASE, experts, **{**usual, **settings})


def merged(**settings):
    """The same, learned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return merge(**settings).learn()


def divergence_of(weights, held_out):
    """Mean over tasks of the divergence from the expert, computed with plain modules."""
    net, found = network(), []
    net.load_state_dict(weights)
    for task, rows in held_out.rows.items():
        batch = rows.batch(range(len(rows))).inputs["input"]
        with torch.no_grad():
            p, q = NETS[task](batch).softmax(-1), net(batch).softmax(-1)
        found.append((p * (p / q).log()).sum(-1).mean().item())
    return sum(found) / len(found)


def summed(scale):
    own, states = BASE.state_dict(), [net.state_dict() for net in NETS.values()]
    return {name: own[name] + scale * sum(state[name] - own[name] for state in states) for name in own}
