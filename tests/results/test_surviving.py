"""The surviving share against its definition, and what rounding does to merges of 16-bit experts."""

from functools import partial

import pytest
import torch
from torch import nn

from adamerge.experts.from_modules import from_modules
from adamerge.merging import exact
from adamerge.merging.execution import execution_of
from adamerge.merging.grouping import row_blocks, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.rounding import Rounding, rounding_of
from adamerge.results import surviving
from adamerge.results.backbone import exact_parameters
from adamerge.results.surviving import Surviving, SurvivingShare

SIZE = 256


def layers(seed, dtype=torch.bfloat16):
    """Two linear layers with weights of the size that transformers have."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(SIZE, SIZE, bias=False), nn.Linear(SIZE, 8))
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.02)
    return module.to(dtype)


def moved(module, seed, steps):
    """The module with every number moved by that many representable ones, up or down: a short fine-tuning in bf16."""
    expert = layers(0)
    generator = torch.Generator().manual_seed(seed)
    for own, parameter in zip(expert.parameters(), module.parameters(), strict=True):
        sizes = steps[torch.randint(len(steps), own.shape, generator=generator)]
        sign = 1 - 2 * torch.randint(2, own.shape, generator=generator)
        own.data = (parameter.data.view(torch.int16) + (sizes * sign).short()).view(torch.bfloat16)
    return expert


def model_of(base, experts, mode="nearest", dtype=None, grouping=tensor_wise):
    found = from_modules(base, experts)
    vectors = task_vectors(found, found.shared, resident=False)
    return MergedModel(found, vectors, grouping(vectors.shapes), rounding_of(found, dtype, mode))


def survived(model, coefficients):
    share = SurvivingShare(model, coefficients)
    written = dict(exact_parameters(model, coefficients, share))
    return share.found(), written


@pytest.mark.parametrize("mode", ["nearest", "stochastic"])
@pytest.mark.parametrize("resident", [False, True])
def test_rows_by_rows_is_at_once_bit_for_bit(mode, resident, monkeypatch):
    torch.manual_seed(0)
    base, experts = nn.Conv2d(3, 10, 3), {name: nn.Conv2d(3, 10, 3) for name in "ab"}
    found = from_modules(base, experts)
    vectors = task_vectors(found, found.shared, resident=resident)
    grouping = row_blocks(vectors.shapes, 4)
    model = MergedModel(found, vectors, grouping, rounding_of(found, torch.bfloat16, mode))
    coefficients = torch.rand(len(grouping), 2)
    share, written = survived(model, coefficients)
    for most in (5, 5 * 27 * 3, 5 * (27 * 4 + 1)):  # one number, and three or four rows of 27, of five matrices at once
        monkeypatch.setattr(exact, "_ROOM", most)
        again, parts = survived(model, coefficients)
        assert all(torch.equal(parts[name], value) for name, value in written.items())
        torch.testing.assert_close(again.written, share.written, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(again.merged, share.merged, rtol=1e-5, atol=1e-9)


def test_shares_are_those_of_the_definition():
    base, experts = layers(0, torch.float32), {"a": layers(1, torch.float32), "b": layers(2, torch.float32)}
    model = model_of(base, experts, dtype=torch.bfloat16)
    coefficients = torch.tensor([[0.3, 0.01], [0.2, 0.4], [0.0, 0.0]])
    found, written = survived(model, coefficients)
    above, below = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for g, (name, centre) in enumerate(base.named_parameters()):
        centre = centre.detach().double()
        terms = [
            c * (e.get_parameter(name).detach().double() - centre)
            for c, e in zip(coefficients[g].double(), experts.values(), strict=True)
        ]
        merged = centre + sum(terms)
        for k, term in enumerate(terms):
            above[g, k] = ((written[name].double() - centre) * term).sum()
            below[g, k] = ((merged - centre) * term).sum()
    torch.testing.assert_close(found.written, above, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found.merged, below, rtol=1e-4, atol=1e-8)
    assert found.share == pytest.approx((above.sum() / below.sum()).item(), rel=1e-4)
    assert found.by_expert()["b"] == pytest.approx((above[:, 1].sum() / below[:, 1].sum()).item(), rel=1e-4)
    assert found.by_group()["1.bias"] is None


@pytest.mark.parametrize("grouping", [tensor_wise, partial(row_blocks, blocks=4)])
def test_large_parameters_with_one_coefficient_are_measured_on_a_part_that_counts_for_all(grouping, monkeypatch):
    base = layers(0)
    experts = {"a": moved(base, 1, torch.tensor([0, 1, 2])), "b": moved(base, 2, torch.tensor([1, 3, 4]))}
    model = model_of(base, experts, grouping=grouping)
    coefficients = torch.full((len(model.grouping), 2), 0.45)
    whole, _ = survived(model, coefficients)
    monkeypatch.setattr(surviving, "MEASURED", SIZE**2 // 8)
    monkeypatch.setattr(exact, "_ROOM", 5 * SIZE)  # a row at once
    part, _ = survived(model, coefficients)
    assert torch.equal(part.merged[0], whole.merged[0]) == (grouping is not tensor_wise)
    torch.testing.assert_close(part.merged, whole.merged, rtol=0.1, atol=1e-12)
    assert part.by_expert() == pytest.approx(whole.by_expert(), rel=0.02)


@pytest.mark.parametrize(("coefficient", "low", "high"), [(0.3, 0.0, 0.15), (0.45, 0.0, 0.2), (0.55, 0.8, 1.0)])
def test_coefficients_of_16_bit_experts_act_as_a_switch(coefficient, low, high):
    base = layers(0)
    expert = moved(base, 1, torch.tensor([1] * 19 + [2]))
    model = model_of(base, {"a": expert})
    found, _ = survived(model, torch.full((3, 1), coefficient))
    part_of_task_vector = found.share * coefficient
    assert low <= part_of_task_vector <= high
    assert (found.share < 0.9) == any("warning" in line for line in found.lines("nearest"))


@pytest.mark.parametrize("coefficient", [0.1, 0.3, 0.45, 0.55])
def test_random_rounding_keeps_the_change(coefficient):
    base = layers(0)
    experts = {"a": moved(base, 1, torch.tensor([0, 1, 1, 2])), "b": moved(base, 2, torch.tensor([0, 1, 3]))}
    found, written = survived(model_of(base, experts, "stochastic"), torch.full((3, 2), coefficient))
    assert 0.98 <= found.share <= 1.02
    again = survived(model_of(base, experts, "stochastic"), torch.full((3, 2), coefficient))[1]
    assert all(torch.equal(written[name], again[name]) for name in written)


def test_nothing_is_said_where_nothing_is_rounded():
    model = model_of(layers(0, torch.float32), {"a": layers(1, torch.float32)})
    found, _ = survived(model, torch.full((3, 1), 0.3))
    assert found.share is None
    assert list(found.lines("nearest")) == []
    assert found.as_json() == {"all": None}


def test_a_run_without_gradient_is_of_the_model_as_written():
    base = layers(0)
    model = model_of(base, {"a": moved(base, 1, torch.tensor([1]))})
    coefficients = torch.full((3, 1), 0.3)
    with execution_of(model).at(coefficients) as merged:
        for name, parameter in base.named_parameters():
            assert torch.equal(merged.parameter(name), parameter.float())
    free = MergedModel(model.experts, model.vectors, model.grouping, Rounding())
    with execution_of(free).at(coefficients) as merged:
        assert not torch.equal(merged.parameter("0.weight"), base[0].weight.float())


def test_the_share_of_every_expert_is_said():
    base = layers(0)
    experts = {"a": moved(base, 1, torch.tensor([1])), "b": moved(base, 2, torch.tensor([4]))}
    found, _ = survived(model_of(base, experts), torch.full((3, 2), 0.3))
    shares = sorted((share, name) for name, share in found.by_expert().items())
    (line, *_) = found.lines("nearest")
    assert "; by expert: " + ", ".join(f"{name} {share:.3f}" for share, name in shares) in line
    low = sum(share < 0.9 for share in found.by_group().values() if share is not None)
    assert (f"; {low} of 3 groups below 0.9" in line) == (low > 0)


GROUPS = [  # share and size of each group, and whether they are warned about
    ([0.95, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0], False),
    ([0.5, 1.0, 1.0, 1.0, 1.0], [1e-6, 1.0, 1.0, 1.0, 1.0], False),
    ([0.0, 1.0, 1.0, 1.0, 1.0], [1e-6, 1.0, 1.0, 1.0, 1.0], True),
    ([0.5, 0.5, 1.0, 1.0, 1.0], [1e-6, 1e-6, 1.0, 1.0, 1.0], True),
    ([0.5, 1.0, 1.0, 1.0, 1.0], [0.5, 1.0, 1.0, 1.0, 1.0], True),
    ([0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0], False),
]


@pytest.mark.parametrize(("shares", "sizes", "warned"), GROUPS)
@pytest.mark.parametrize("mode", ["nearest", "stochastic"])
def test_groups_that_are_lost_are_counted_though_the_whole_is_left(shares, sizes, warned, mode):
    merged = torch.tensor(sizes, dtype=torch.float64)[:, None]
    written = merged * torch.tensor(shares, dtype=torch.float64)[:, None]
    names = tuple("abcde")
    found = Surviving(written, merged, names, ("mood",), (torch.bfloat16,))
    assert found.share is not None
    assert found.share > 0.9
    warning = found.warning(mode)
    assert (warning is not None) == warned
    if warning:
        low = sum(share < 0.9 for share, size in zip(shares, sizes, strict=True) if size)
        assert f"{low} of 5 groups below 0.9 (least a: {shares[0]:.3f})" in warning
        assert warning.endswith("out_dtype: float32.")
        assert ("stochastic" in warning) == (mode == "nearest")
    assert found.as_json()["groups"] == {
        name: pytest.approx(share) if size else None for name, share, size in zip(names, shares, sizes, strict=True)
    }


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_share_of_a_module_is_printed_and_recorded(share):
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    found = Surviving(nothing, nothing, ("all",), ("mood",), (), {"2_Dense/model.safetensors": share})
    first, *warning = found.lines("nearest")
    assert first.startswith("2_Dense/model.safetensors: rounded to 16 bits (nearest): ")
    assert first.endswith(f" {share:.3f} of what was merged in is left")
    assert [line.startswith("warning: rounding to 16 bits removed") for line in warning] == [True] * (share < 0.9)
    assert found.as_json() == {"all": None, "modules": {"2_Dense/model.safetensors": share}}
