"""Diagonal Fisher information, against autograd row by row and label by label."""

import pytest
import torch
from support.families import Tiny, build
from torch.nn.functional import log_softmax

from adamerge.calibration.fisher_information import fisher_information, log_likelihoods
from adamerge.data.rows import TensorRows
from adamerge.experts.from_modules import from_modules
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.storage.kept import Keeper
from adamerge.transforms import Fisher
from adamerge.transforms.transform import FisherSettings


@pytest.fixture
def model():
    together = from_modules(Tiny(0, torch.float64), {"a": Tiny(1, torch.float64), "b": Tiny(2, torch.float64)})
    vectors = task_vectors(together, together.shared, resident=False, dtype=torch.float64)
    return MergedModel(together, vectors, task_wise(together.shared))


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(0)
    return {task: TensorRows({"x": torch.randn(5, 6, generator=draw, dtype=torch.float64)}) for task in "ab"}


def squares(module, x, label):
    """Squared gradients of one row's log-likelihood of one label, and the label's probability."""
    module.zero_grad()
    logs = log_softmax(module(x[None])[0], -1)
    logs[label].backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.square() for n, p in module.named_parameters()}
    return logs[label].exp().item(), found


def test_expected_information_is_its_definition(model, rows, tmp_path):
    found = fisher_information(model, rows, FisherSettings("expected", 4, 0), tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == ["a.safetensors", "b.safetensors"]
    for k, (task, seed) in enumerate((("a", 1), ("b", 2))):
        module = Tiny(seed, torch.float64)
        total = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
        for x in rows[task].batch(range(4)).inputs["x"]:
            for label in range(6):
                probability, square = squares(module, x, label)
                for name in total:
                    total[name] += probability * square[name] / 4
        for name in found.shapes:
            torch.testing.assert_close(found.stack(name)[k], total[name], rtol=1e-10, atol=1e-14)


def test_the_likeliest_label_is_the_prediction(model, rows, tmp_path):
    found = fisher_information(model, rows, FisherSettings("likeliest", 1, 0), tmp_path)
    module = Tiny(2, torch.float64)
    x = rows["b"].batch([0]).inputs["x"][0]
    _, square = squares(module, x, int(module(x[None]).argmax()))
    torch.testing.assert_close(found.stack("first.weight")[1], square["first.weight"], rtol=1e-10, atol=1e-14)


def test_sampled_information_has_the_expected_mean(model, rows, tmp_path):
    expected = fisher_information(model, rows, FisherSettings("expected", 1, 0), tmp_path / "all").stack("scale")[0]
    drawn = torch.stack(
        [
            fisher_information(model, rows, FisherSettings("sampled", 1, seed), tmp_path / str(seed)).stack("scale")[0]
            for seed in range(200)
        ]
    )
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / 200**0.5
    again = fisher_information(model, rows, FisherSettings("sampled", 1, 7), tmp_path / "again").stack("scale")[0]
    assert torch.equal(again, drawn[7])


def test_stored_information_is_used(model, rows, tmp_path):
    first = fisher_information(model, rows, FisherSettings("sampled", None, 0), tmp_path)
    second = fisher_information(model, {}, FisherSettings("sampled", None, 0), tmp_path)
    for name, stack in first.stacks():
        assert torch.equal(stack, second.stack(name))


def test_stored_information_of_other_rows_is_computed_again(model, rows, tmp_path):
    said = []
    settings = FisherSettings("sampled", None, 0)
    fisher_information(model, rows, settings, tmp_path / "kept")
    changed = {**rows, "b": rows["a"]}
    found = fisher_information(model, changed, settings, tmp_path / "kept", keeper=Keeper(said.append))
    fresh = fisher_information(model, changed, settings, tmp_path / "fresh")
    assert said == [f"{tmp_path / 'kept/b.safetensors'}: is made of other rows; computed again"]
    for name, stack in found.stacks():
        assert torch.equal(stack, fresh.stack(name))


def test_positions_are_sampled_independently_and_summed():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    ((weight, value),) = log_likelihoods(logits, "sampled", torch.Generator().manual_seed(1))
    drawn = torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    assert weight == 1.0
    torch.testing.assert_close(value, logits.log_softmax(-1)[torch.arange(7), drawn].sum())


@pytest.mark.parametrize("normalise", [False, True])
def test_merged_numbers_minimise_the_weighted_distances(model, rows, tmp_path, normalise):
    information = fisher_information(model, rows, FisherSettings("expected", None, 0), tmp_path)
    apply = Fisher(normalise=normalise).plan(model.vectors.stacks, information)
    whole = torch.cat([stack.reshape(2, -1) for _, stack in information.stacks()], 1)
    scale = whole.norm(dim=1) if normalise else torch.ones(2, dtype=torch.float64)
    for name, stack in model.vectors.stacks():
        fisher = information.stack(name) / scale.reshape(-1, *[1] * (stack.ndim - 1))
        merged = apply(name, stack).sum(0)
        gradient = (fisher * (merged - stack)).sum(0)
        assert gradient.abs().max() <= 1e-12 * fisher.max()


def test_only_counted_positions_of_a_language_model_are_used(tmp_path):
    together = from_modules(build("LlamaForCausalLM", "llama", 0), {"a": build("LlamaForCausalLM", "llama", 1)})
    model = MergedModel(together, task_vectors(together, together.shared, resident=False), task_wise(together.shared))
    ids = torch.tensor([[4, 7, 9, 12, 5], [6, 8, 2, 2, 2]])
    counted = torch.tensor([[False, True, True, True, True], [True, True, False, False, False]])
    rows = {"a": TensorRows({"input_ids": ids, "attention_mask": (ids != 2).long()}, positions=counted)}
    found = fisher_information(model, rows, FisherSettings("likeliest", None, 0), tmp_path)
    module = build("LlamaForCausalLM", "llama", 1)
    total = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    for row, positions in zip(ids, counted, strict=True):
        module.zero_grad()
        logs = module(row[None][:, row != 2]).logits[0].log_softmax(-1)
        logs[positions[row != 2]].amax(-1).sum().backward()
        for name, parameter in module.named_parameters():
            total[name] += parameter.grad.square() / 2
    for name in found.shapes:
        torch.testing.assert_close(found.stack(name)[0], total[name], rtol=1e-3, atol=1e-9)
