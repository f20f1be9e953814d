"""ESM against the steps of its definition, with principal components of the outputs' changes by NumPy."""

import numpy as np
import pytest
import torch
from support.block_nets import TASKS, Net, inputs, inside, model_of, nets, of_experts, rows_of

from adamerge.calibration.calibrated_merge import kept_merge
from adamerge.calibration.esm import Esm, essential_update, scales_of_kinds
from adamerge.types import ConfigError


def polar(matrix):
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    return sizes.mean() * left @ right


def by_hand(vectors, xs, power):
    """One layer: principal components of X τᵀ, scales, concatenation, orthogonal matrices."""
    most = max(1, len(vectors[0]) // len(vectors))
    sizes = [np.linalg.norm(vector) for vector in vectors]
    outputs, rows = [], []
    for vector, x, size in zip(vectors, xs, sizes, strict=True):
        _, singular, right = np.linalg.svd(x @ vector.T, full_matrices=False)
        values = (singular**2 / (len(x) - 1))[:most]
        flat = (values / values.mean()) ** 0.15
        flat /= flat.mean()
        outputs.append(right[:most].T * flat)
        rows.append(flat[:, None] * (right[:most] @ vector) * (size / np.mean(sizes)) ** power)
    columns = np.concatenate(rows)
    norms = np.linalg.norm(columns, axis=0)
    return polar(np.concatenate(outputs, 1)) @ polar(columns * (norms / norms.mean()) ** power)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("power", [0.0, 2.0])
@pytest.mark.parametrize("shape", [(2, 6, 9), (3, 9, 4), (3, 7, 7), (2, 2, 5)])
def test_a_layer_is_merged_by_its_definition(shape, power):
    vectors = draw(*shape) * np.array([1.0, 2.0, 0.5])[: shape[0], None, None]
    xs = [draw(30, shape[2], seed=k + 1) * np.logspace(0, -1, shape[2]) for k in range(shape[0])]
    found = essential_update(torch.tensor(vectors), [torch.tensor(x.T @ x / len(x)) for x in xs], power)
    np.testing.assert_allclose(found, by_hand(vectors, xs, power), rtol=1e-7, atol=1e-9)


def test_a_task_vector_that_moves_no_output_has_no_part():
    vectors = torch.tensor(draw(2, 4, 3))
    gram = torch.eye(3).double()
    found = essential_update(vectors * torch.tensor([1.0, 0.0])[:, None, None], [gram, gram], 0.0)
    assert found.isfinite().all()
    assert torch.linalg.matrix_rank(found) == 2  # the first two directions of the first task
    assert not essential_update(0 * vectors, [gram, gram], 2.0).any()
    assert not essential_update(vectors, [0 * gram, 0 * gram], 2.0).any()


def test_an_update_stays_in_the_span_of_the_task_vectors_columns():
    """So that a merge of adapters can be exported as an adapter."""
    factors = torch.tensor(draw(3, 20, 2))
    vectors = factors @ torch.tensor(draw(3, 2, 9, seed=1))
    grams = [torch.tensor(x.T @ x) for x in draw(3, 30, 9, seed=2)]
    found = essential_update(vectors, grams, 2.0)
    basis, _ = torch.linalg.qr(torch.cat([*factors], 1))
    torch.testing.assert_close(basis @ (basis.T @ found), found)
    assert Esm().keeps_span


def test_layers_are_scaled_among_their_kind():
    norms = {"h.0.up.weight": 1.0, "h.1.up.weight": 2.0, "h.12.up.weight": 6.0, "h.0.down.weight": 5.0, "z.weight": 0.0}
    found = scales_of_kinds(norms, 2.0)
    assert found == pytest.approx(dict(zip(norms, [1 / 9, 4 / 9, 4.0, 1.0, 1.0], strict=True)))


@torch.no_grad()
def whole(power):
    """The whole network, layer by layer, on the experts' own inputs."""
    base = dict(Net(0).named_parameters())
    changes = {name: [(own - base[name]).numpy() for own in of_experts(name)] for name in base}
    seen = {}
    for net, task in zip(nets().values(), TASKS, strict=True):
        x = inputs(task)
        seen.setdefault("embed.weight", []).append(x.numpy())
        x = net.embed(x)
        for number, block in enumerate(net.layers):
            for layer in ("up", "down"):
                seen.setdefault(f"layers.{number}.{layer}.weight", []).append(inside(block, x)[layer].numpy())
            x = block(x)
        seen.setdefault("out.weight", []).append(x.numpy())
    updates = {name: by_hand(changes[name], xs, power) for name, xs in seen.items()}
    for layer in ("up", "down"):
        pair = [f"layers.{number}.{layer}.weight" for number in (0, 1)]
        mean = np.mean([np.linalg.norm(updates[name]) for name in pair])
        updates |= {name: updates[name] * (np.linalg.norm(updates[name]) / mean) ** power for name in pair}
    return {name: base[name].numpy() + update for name, update in updates.items()}


@pytest.mark.parametrize("blocks", [None, ()], ids=["in memory", "one block at a time"])
def test_a_network_is_merged_layer_by_layer(tmp_path, blocks):
    found = kept_merge(model_of(blocks), rows_of(), Esm(rows=40), tmp_path / "centre.safetensors", 8)
    for name, expected in whole(2.0).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)
    for name in ("layers.0.norm.weight", "out.bias", "conv.bias"):
        torch.testing.assert_close(found[name], torch.stack(of_experts(name)).mean(0))
    vectors = [(own - dict(Net(0).named_parameters())["conv.weight"]).detach() for own in of_experts("conv.weight")]
    left, right = zip(*((u[:, :1], v[:1]) for u, _, v in map(svd, vectors)), strict=True)
    sizes = np.diag([svd(vector)[1][0] for vector in vectors])
    update = unit_polar(np.concatenate(left, 1)) @ sizes @ unit_polar(np.concatenate(right))  # TSV-M
    base = dict(Net(0).named_parameters())["conv.weight"].detach().flatten(1)
    np.testing.assert_allclose(found["conv.weight"].flatten(1), base.numpy() + update, rtol=1e-6, atol=1e-8)


def svd(vector):
    return np.linalg.svd(vector.flatten(1).numpy(), full_matrices=False)


def unit_polar(matrix):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("options", [{"rows": 0}, {"power": -1.0}, {"power": float("nan")}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError, match=f"centre.{next(iter(options))}"):
        Esm(**options)
