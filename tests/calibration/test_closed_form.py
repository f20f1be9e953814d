"""Gram matrices, the closed-form start and RegMean, against NumPy on the stacked problem."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.families import save_speaking_family
from support.two_layers import GROUPINGS, TASKS, Net, inputs, merged_model, rows_of, seen
from torch import nn
from torch.func import functional_call

from adamerge.calibration import gram_matrices
from adamerge.calibration.calibrated_merge import kept_merge
from adamerge.calibration.closed_form import ClosedForm, closed_form, kept_closed_form
from adamerge.calibration.gram_matrices import forward_order, grams_of_experts, grams_of_merged, linear_layers
from adamerge.calibration.regmean import RegMean, regression_mean
from adamerge.cli import parse_file
from adamerge.data.rows import first_rows
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.load_rows import load_data
from adamerge.storage.kept import Keeper
from adamerge.types import ConfigError


@pytest.mark.parametrize("room", [1, 60, 10**6])
@pytest.mark.parametrize("size", [1, 4, 6])
def test_grams_ignore_padding(room, size, monkeypatch):
    monkeypatch.setattr(gram_matrices, "ROOM", room)
    model, nets = merged_model()
    parts = list(grams_of_experts(model, rows_of(), size))
    assert len(parts) == {1: 3, 60: 3, 10**6: 1}[room]
    grams = {name: gram for part in parts for name, gram in part.items()}
    assert list(grams) == list(linear_layers(model)) == ["query.weight", "key.weight", "out.weight"]
    for name, own in grams.items():
        for gram, task in zip(own, TASKS, strict=True):
            x = seen(nets[task], task)[name]
            np.testing.assert_allclose(gram.numpy(), x.T @ x / len(x), rtol=1e-12)


def test_grams_of_the_merged_model_are_of_its_own_inputs():
    model, nets = merged_model()
    coefficients = torch.full((5, 3), 0.2)
    merged = model.vectors.combine(coefficients, model.grouping)
    (a, *_) = grams_of_merged(model, rows_of(), ["out.weight"], coefficients, 4)["out.weight"]
    x = seen(nets["a"], "a", merged)["out.weight"]
    np.testing.assert_allclose(a.numpy(), x.T @ x / len(x), rtol=1e-12)


def test_layers_run_in_this_order():
    assert forward_order(merged_model()[0], rows_of()) == [["query.weight", "key.weight"], ["out.weight"]]


def stacked(model: MergedModel, xs: dict[str, dict[str, np.ndarray]], ridge: float, towards: float) -> np.ndarray:
    """The whole least-squares problem of each group as one tall system, for numpy.linalg.lstsq."""
    solution = np.full((len(model.grouping), 3), np.nan)
    for group in range(len(model.grouping)):
        tall, right = [], []
        for name in linear_layers(model):
            rows = model.grouping.rows[name].expand(model.vectors.shapes[name][0]).numpy() == group
            stack = model.vectors.stack(name).numpy()
            for k, task in enumerate(TASKS):
                x = xs[task][name]
                every = np.stack([x @ vector.T for vector in stack], -1) / np.sqrt(len(x))  # (N, R, K)
                scale = np.sqrt(np.square(every[..., k]).sum())
                tall.append(every[:, rows].reshape(-1, 3) / scale)
                right.append(every[:, rows, k].reshape(-1) / scale)
        if not sum(len(part) for part in tall):
            continue
        system, goal = np.concatenate(tall), np.concatenate(right)
        pull = np.sqrt(ridge * np.trace(system.T @ system) / 3)
        system = np.concatenate([system, pull * np.eye(3)])
        solution[group] = np.linalg.lstsq(system, np.concatenate([goal, np.full(3, pull * towards)]), rcond=None)[0]
    missing = np.isnan(solution[:, 0])
    solution[missing] = solution[~missing].mean(0)
    return solution


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_closed_form_is_least_squares_on_the_stacked_problem(grouping, ridge):
    model, nets = merged_model(grouping)
    found = closed_form(model, rows_of(), ClosedForm(ridge=ridge, towards=0.4), 4)
    expected = stacked(model, {task: seen(net, task) for task, net in nets.items()}, ridge, 0.4)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_closed_form_in_forward_order_uses_outputs_of_solved_layers():
    model, nets = merged_model()
    found = closed_form(model, rows_of(), ClosedForm(ridge=0.1, inputs="merged"), 4)
    # the first two layers see the rows themselves; the third sees the merged layers before it
    xs = {task: seen(net, task) for task, net in nets.items()}
    first = torch.from_numpy(stacked(model, xs, 0.1, 0.3))
    groups = model.grouping.groups
    others = [i for i, group in enumerate(groups) if group.endswith("bias")]
    solved = [groups.index("query.weight"), groups.index("key.weight")]
    first[others] = first[solved].mean(0)
    merged = model.vectors.combine(first, model.grouping)
    xs = {task: seen(net, task, merged) for task, net in nets.items()}
    np.testing.assert_allclose(found.numpy(), stacked(model, xs, 0.1, 0.3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inputs_of", ["experts", "merged"])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_one_expert_gets_coefficient_one_at_once(grouping, inputs_of):
    model, nets = merged_model(grouping, tasks=("a",))
    found = closed_form(model, rows_of(("a",)), ClosedForm(ridge=0.0, inputs=inputs_of), 4)
    torch.testing.assert_close(found, torch.ones(len(model.grouping), 1), rtol=0, atol=1e-6)
    merged = model.vectors.combine(found, model.grouping)
    logits = model.forward("a", merged, {"x": inputs("a")}).logits.log_softmax(-1)
    own = functional_call(nets["a"], dict(nets["a"].named_parameters()), (inputs("a"),)).log_softmax(-1)
    assert nn.functional.kl_div(logits, own, log_target=True, reduction="batchmean").item() < 1e-10


def test_an_expert_without_rows_takes_part():
    model, _ = merged_model()
    found = closed_form(model, rows_of(("a", "c")), ClosedForm(ridge=0.0), 4)
    assert found.shape == (5, 3)
    assert found.isfinite().all()


def test_start_is_kept(tmp_path):
    model, _ = merged_model()
    first = kept_closed_form(model, rows_of(), ClosedForm(), tmp_path / "start.safetensors", 4)
    again = kept_closed_form(model, {}, ClosedForm(), tmp_path / "start.safetensors", 4)
    assert torch.equal(first, again)


@pytest.mark.parametrize("scale", [0.0, 0.9, 1.0])
def test_regression_mean_is_least_squares_on_the_stacked_problem(scale):
    draw = np.random.default_rng(0)
    xs, weights = draw.normal(size=(3, 20, 4)), draw.normal(size=(3, 2, 4))
    tall, right = [], []
    for x, weight in zip(xs, weights, strict=True):
        gram = x.T @ x
        root = np.linalg.cholesky(scale * gram + (1 - scale) * np.diag(np.diag(gram))).T
        tall.append(root)
        right.append(root @ weight.T)
    expected = np.linalg.lstsq(np.concatenate(tall), np.concatenate(right), rcond=None)[0].T
    grams = [torch.from_numpy(x.T @ x) for x in xs]
    found = regression_mean([torch.from_numpy(weight) for weight in weights], grams, scale)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7)


def test_regression_mean_of_inputs_that_are_always_zero_is_the_mean():
    gram = torch.diag(torch.tensor([1.0, 0.0]))
    found = regression_mean([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 6.0]])], [gram, gram], 1.0)
    torch.testing.assert_close(found, torch.tensor([[2.0, 4.0]], dtype=torch.float64))


def test_regmean_is_kept_and_merges_everything(tmp_path):
    model, nets = merged_model()
    centre = kept_merge(model, rows_of(), RegMean(scale=1.0), tmp_path / "centre.safetensors", 4)
    assert set(centre.headers) == set(model.vectors.shapes)
    xs = {task: seen(net, task)["out.weight"] for task, net in nets.items()}
    tall = np.concatenate([x / np.sqrt(len(x)) for x in xs.values()])
    right = np.concatenate([x @ nets[t].out.weight.detach().numpy().T / np.sqrt(len(x)) for t, x in xs.items()])
    expected = np.linalg.lstsq(tall, right, rcond=None)[0].T
    np.testing.assert_allclose(centre["out.weight"].numpy(), expected, rtol=1e-6)
    mean = torch.stack([net.query.bias for net in nets.values()]).mean(0)
    torch.testing.assert_close(centre["query.bias"], mean.detach())
    again = kept_merge(model, {}, RegMean(scale=1.0), tmp_path / "centre.safetensors", 4)
    assert torch.equal(again["out.weight"], centre["out.weight"])
    with pytest.raises(ConfigError, match="is made of other settings"):
        kept_merge(model, {}, RegMean(), tmp_path / "centre.safetensors", 4)


@pytest.mark.parametrize("keep", [kept_merge, kept_closed_form])
def test_results_of_other_experts_rows_or_settings_are_computed_again(tmp_path, keep):
    settings = RegMean if keep is kept_merge else ClosedForm
    model, _ = merged_model()
    others, _ = merged_model(shift=1)
    fewer = first_rows(rows_of(), 3)

    def made(model, rows, settings, file):
        said = []
        found = keep(model, rows, settings, file, 4, Keeper(said.append))
        content = found["out.weight"] if keep is kept_merge else found
        return content.clone(), said

    file = tmp_path / "kept.safetensors"
    made(model, rows_of(), settings(rows=5), file)
    for asked, word in (
        ((others, rows_of(), settings(rows=5)), "experts"),
        ((others, fewer, settings(rows=5)), "rows"),
        ((others, fewer, settings(rows=2)), "rows and settings"),
    ):
        found, said = made(*asked, file)
        assert len(said) == 1
        assert said[0].startswith(f"{file}: is made of other ")
        assert set(word.split(" and ")) == set(said[0].split("other ")[1].split(";")[0].split(" and "))
        fresh, silent = made(*asked, tmp_path / f"{word}.safetensors")
        assert torch.equal(found, fresh)
        assert silent == []
        assert made(*asked, file)[1] == []


def test_a_damaged_regmean_is_computed_again(tmp_path):
    file = tmp_path / "centre.safetensors"
    model, _ = merged_model()
    expected = kept_merge(model, rows_of(), RegMean(), file, 4)["out.weight"].clone()
    os.truncate(file, file.stat().st_size - 8)
    assert torch.equal(kept_merge(model, rows_of(), RegMean(), file, 4)["out.weight"], expected)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ClosedForm(ridge=-1), "init.ridge"),
        (lambda: ClosedForm(rows=0), "init.rows"),
        (lambda: RegMean(scale=1.5), "centre.scale"),
        (lambda: RegMean(rows=0), "centre.rows"),
    ],
)
def test_bad_options(make, word):
    with pytest.raises(ConfigError, match=word):
        make()


def opened(folder, monkeypatch, architecture, family):
    """A language model's family, and its rows with their completions."""
    monkeypatch.chdir(save_speaking_family(folder, architecture, family))
    config = parse_file(folder / "merge.yaml")
    config.data = replace(config.data, pseudo_answers=None)
    experts = open_experts(config)
    model = build_model(config, experts, inspect_weights(experts).changed, folder / "none")
    return model, dict(load_data(config, experts).calibration)


@pytest.mark.parametrize("architecture", ["T5ForConditionalGeneration", "LlamaForCausalLM"])
def test_gram_matrices_do_not_depend_on_how_rows_are_batched(tmp_path, monkeypatch, architecture):
    family = "t5" if architecture.startswith("T5") else "llama"
    model, rows = opened(tmp_path, monkeypatch, architecture, family)
    one, many = (next(grams_of_experts(model, rows, size)) for size in (1, 12))
    assert any("decoder" in name for name in one) is (family == "t5")
    for name, grams in one.items():
        for alone, together in zip(grams, many[name], strict=True):
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_model_without_linear_layers_is_refused(tmp_path, monkeypatch):
    model, rows = opened(tmp_path, monkeypatch, "GPT2LMHeadModel", "gpt2")
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel: expected a torch\.nn\.Linear among the parameters"):
        closed_form(model, rows, ClosedForm(), 4)


@pytest.mark.parametrize("towards", [0.3, 1.0])
def test_singular_directions_keep_what_the_solution_is_pulled_to(towards):
    """Without a ridge, two experts that are one are told apart by nothing, up to rounding."""
    nets = {"a": Net(1), "b": Net(1), "c": Net(3)}
    with torch.no_grad():
        for own in nets["b"].parameters():
            own.add_(1e-9 * torch.randn_like(own))
    experts = from_modules(Net(0), nets)
    vectors = task_vectors(experts, experts.shared, resident=False, dtype=torch.float64)
    model = MergedModel(experts, vectors, tensor_wise(vectors.shapes))
    found = closed_form(model, rows_of(), ClosedForm(ridge=0.0, towards=towards), 4)
    assert found.abs().max() < 3
    torch.testing.assert_close(found[:, 0], found[:, 1], rtol=0, atol=1e-4)


def test_gram_matrices_in_fp64_find_what_fp32_would_lose():
    """A direction of inputs a million times smaller than the others counts in the solution."""
    model, _ = merged_model()
    single = MergedModel(
        model.experts, task_vectors(model.experts, model.experts.shared, resident=False), model.grouping
    )
    rows = rows_of()
    exact, found = (next(iter(grams_of_experts(one, rows, 4))) for one in (model, single))
    for name, grams in found.items():
        assert all(gram.dtype == torch.float64 for gram in grams)
        for gram, other in zip(grams, exact[name], strict=True):
            torch.testing.assert_close(gram, other, rtol=1e-5, atol=1e-6)
