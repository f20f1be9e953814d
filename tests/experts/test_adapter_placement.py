"""Factors of parts laid into factors of the whole, against transformers' rule applied to the parts' products."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    Interleave,
    MergeModulelist,
    PermuteForRope,
    Transpose,
    WeightConverter,
)

from adamerge.experts.adapter_placement import placed, placements
from adamerge.experts.conversion import Conversion
from adamerge.experts.low_rank import LowRank

GATE, UP, BOTH = "experts.*.gate.weight", "experts.*.up.weight", "experts.gate_up"
RULES = {
    "stacked": ([GATE, UP], [MergeModulelist(0), Concatenate(1)]),
    "transposed": ([GATE, UP], [MergeModulelist(0), Concatenate(1), Transpose(1, 2)]),
    "interleaved": ([GATE, UP], [MergeModulelist(0), Concatenate(1), Interleave(1, inverse=True)]),
    "transposed and interleaved": (
        [GATE, UP],
        [MergeModulelist(0), Concatenate(1), Interleave(1, inverse=True), Transpose(1, 2)],
    ),
    "one matrix each": ([GATE], [MergeModulelist(0)]),
    "side by side in one matrix": ([GATE, UP], [Concatenate(0)]),
}
QKV = ["q.weight", "k.weight"]


def one_of(targets):
    return targets if isinstance(targets, str) else targets[0]


class Rule:
    """A conversion of three experts' matrices (4, 5), and factors of some."""

    ranks: ClassVar = {"experts.0.gate.weight": 1, "experts.0.up.weight": 2, "experts.2.gate.weight": 3}

    def __init__(self, patterns, operations, count=3, targets=BOTH):
        self.parts = {one.replace("*", str(e)): torch.Size([4, 5]) for e in range(count) for one in patterns}
        module = SimpleNamespace(config=SimpleNamespace(num_attention_heads=2))
        self.conversion = Conversion(WeightConverter(patterns, targets, operations), one_of(targets), module)
        for pattern in patterns:
            names = [pattern.replace("*", str(expert)) for expert in range(count)]
            self.conversion.sources[pattern] = names
        draw = torch.Generator().manual_seed(0)
        self.factors = {
            name: LowRank(torch.randn(4, rank, generator=draw), torch.randn(rank, 5, generator=draw), rank + 0.5)
            for name, rank in self.ranks.items()
            if name in self.parts
        }

    def dense(self):
        zero = torch.zeros(4, 5)
        return self.conversion.apply(lambda n: self.factors[n].dense(zero.shape) if n in self.factors else zero)


@pytest.mark.parametrize("kind", RULES)
def test_factors_of_parts_are_factors_of_the_whole(kind):
    patterns, operations = RULES[kind]
    rule = Rule(patterns, operations, 1 if "one matrix" in kind and len(patterns) > 1 else 3)
    ((name, expected),) = rule.dense().items()
    found = placements(rule.conversion, rule.parts, {name: expected.shape})[name].of(rule.factors)
    whole = placed(found, rule.factors)
    torch.testing.assert_close(whole.dense(expected.shape), expected)
    assert whole.left.ndim == expected.ndim
    assert whole.left.shape[-1] <= sum(rule.ranks.values())  # each expert's parts side by side, and not all experts'


def test_factors_of_a_matrix_that_is_divided():
    rule = Rule(["qk.weight"], [Chunk(0)], 1, targets=QKV)
    rule.factors = {"qk.weight": LowRank(torch.randn(4, 2), torch.randn(2, 5), 0.5)}
    expected = rule.dense()
    found = placements(rule.conversion, rule.parts, {name: one.shape for name, one in expected.items()})
    assert found.keys() == {*QKV}
    for name, value in expected.items():
        torch.testing.assert_close(placed(found[name], rule.factors).dense(value.shape), value)


@pytest.mark.parametrize("operation", [PermuteForRope(), Transpose(0, 1, check_dims=True)])
def test_rules_that_depend_on_sizes_or_move_more_than_rows_are_computed_whole(operation):
    rule = Rule(["q.weight"], [operation], 1)
    assert placements(rule.conversion, rule.parts, {BOTH: torch.Size([4, 5])}) == {}


def test_columns_that_are_divided_are_computed_whole():
    rule = Rule(["q.weight"], [Chunk(1)], 1, targets=QKV)
    assert placements(rule.conversion, rule.parts, dict.fromkeys(QKV, torch.Size([4, 2]))) == {}
