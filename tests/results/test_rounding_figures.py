"""What rounding to bf16 leaves of what experts learned, by learning rate: the figures of the design, rebuilt small."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import build, near, save_family
from torch import Tensor, nn

from adamerge import Expert, Merge
from adamerge.experts.from_modules import from_modules
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.rounding import rounding_of
from adamerge.results.backbone import exact_parameters
from adamerge.results.surviving import SurvivingShare

SIZE, STEPS, NOISE, COEFFICIENT = 128, 20, 0.2, 0.3


def layer(weight):
    module = nn.Linear(*weight.shape, bias=False)
    module.weight.data = weight.detach().clone()
    return module


def trained(base, target, rate, seed):
    """Train a linear layer with Adam towards a target, by noisy regression."""
    module, draw = layer(base), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    for _ in range(STEPS):
        x, noise = (torch.randn(SIZE // 2, SIZE, generator=draw) for _ in range(2))
        optimiser.zero_grad()
        (module(x) - x @ target.T + NOISE * noise).square().mean().backward()
        optimiser.step()
    return module


class Pool:
    """A base whose numbers bf16 holds, two experts trained from it in fp32, and what each should have learned."""

    def __init__(self, rate):
        draw = torch.Generator().manual_seed(0)
        self.base = torch.randn(SIZE, SIZE, generator=draw).mul(0.02).bfloat16().float()
        self.targets = [self.base + 0.02 * torch.randn(SIZE, SIZE, generator=draw) for _ in range(2)]
        self.experts = [trained(self.base, target, rate, seed) for seed, target in enumerate(self.targets)]

    def gain(self, weight: Tensor) -> float:
        """Loss gained over the base; for inputs that are white, the expected error of a layer has this closed form."""
        return sum(self.base.sub(t).square().sum().item() - (weight - t).square().sum().item() for t in self.double)

    @property
    def double(self):
        return [target.double() for target in self.targets]


def written(base, experts, coefficient, dtype, mode="nearest"):
    """Merge and round one layer; returns its weight as written, and the surviving share."""
    found = from_modules(base, {f"task {number}": one for number, one in enumerate(experts)})
    vectors = task_vectors(found, found.shared, resident=False)
    model = MergedModel(found, vectors, task_wise(found.shared), rounding_of(found, dtype, mode))
    coefficients = torch.full((1, len(experts)), coefficient)
    share = SurvivingShare(model, coefficients)
    return dict(exact_parameters(model, coefficients, share))["weight"], share.found().share


@pytest.fixture(scope="module", params=[(1e-6, 0.09), (1e-5, 0.82), (1e-4, 1.0)], ids=lambda pair: f"rate {pair[0]:g}")
def pool(request):
    return Pool(request.param[0]), request.param[1]


def test_nearest_keeps_what_the_learning_rate_allows(pool):
    pool, figure = pool
    exact, _ = written(layer(pool.base), pool.experts, COEFFICIENT, torch.float32)
    rounded, share = written(layer(pool.base), pool.experts, COEFFICIENT, torch.bfloat16)
    assert share == pytest.approx(figure, abs=0.04)
    assert pool.gain(rounded) / pool.gain(exact) == pytest.approx(figure, abs=0.04)


def test_stochastic_keeps_the_change_and_what_is_gained(pool):
    pool, _ = pool
    base, *experts = [layer(one.repeat(4, 4)) for one in (pool.base, *(one.weight for one in pool.experts))]
    exact, _ = written(base, experts, COEFFICIENT, torch.float32)
    drawn, share = written(base, experts, COEFFICIENT, torch.bfloat16, "stochastic")
    change, kept = ((one.double() - base.weight.detach().double()).flatten() for one in (exact, drawn))
    assert 0.98 <= share <= 1.02
    assert 0.98 <= (kept @ change / change.square().sum()).item() <= 1.02
    again, _ = written(base, experts, COEFFICIENT, torch.bfloat16, "stochastic")
    assert torch.equal(drawn, again)


@pytest.mark.parametrize(("coefficient", "figure"), [(0.3, 0.10), (0.45, 0.12), (0.55, 0.88)])
def test_coefficients_of_bf16_experts_are_a_switch(coefficient, figure):
    pool = Pool(1e-6)
    base, expert = layer(pool.base).bfloat16(), pool.experts[0].bfloat16()
    rounded, _ = written(base, [expert], coefficient, torch.bfloat16)
    moved, learned = (one.detach().double() - pool.base.double() for one in (rounded, expert.weight))
    part = ((moved * learned).sum() / learned.square().sum()).item()
    assert part == pytest.approx(figure, abs=0.02)


def test_moved_numbers_of_bf16_experts_are_rounded_once():
    """Just above 0.5 every number is nearer to the expert's; through fp32 half of them become the base's again."""
    base = layer(Pool(1e-6).base).bfloat16()
    expert = layer((base.weight.data.view(torch.int16) + 1).view(torch.bfloat16)).bfloat16()
    merged = base.weight.double() + (0.5 + 2**-24) * (expert.weight.double() - base.weight.double())
    once, _ = written(base, [expert], 0.5 + 2**-24, torch.bfloat16)
    assert torch.equal(once, expert.weight)
    twice = merged.bfloat16() == expert.weight
    assert 0.4 < twice.double().mean() < 0.6


def test_files_are_the_same_bytes_whatever_the_order_of_tensors(tmp_path):
    small = {"num_hidden_layers": 1, "vocab_size": 8}
    base = build("LlamaForCausalLM", "llama", 0, **small)
    save_family(tmp_path, base, {"a": near("LlamaForCausalLM", "llama", base, 1, **small)})
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "config.json").write_text((tmp_path / "base/config.json").read_text())
    tensors = load_file(tmp_path / "base/model.safetensors")
    parts = {f"model-0000{n}-of-00002.safetensors": list(tensors)[n - 1 :: 2] for n in (2, 1)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, torn / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, names in parts.items() for name in reversed(names)}}
    (torn / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = {"method": "task_arithmetic", "out_dtype": "bfloat16", "rounding": "stochastic"}
    whole, other = (
        Merge(str(tmp_path / place), [Expert(str(tmp_path / "a"))], **settings).learn() for place in ("base", "torn")
    )
    places = [result.export(tmp_path / out).folder for out, result in (("1", whole), ("2", whole), ("3", other))]
    one, two, three = ((place / "model.safetensors").read_bytes() for place in places)
    assert one == two == three
