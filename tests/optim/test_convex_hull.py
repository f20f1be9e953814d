import pytest
import torch

from adamerge.optim.convex_hull import Hull, away_move, pairwise_move, toward_move
from adamerge.optim.feasible_sets import Box, Simplex

SETS = [Simplex(), Simplex(2.4), Simplex(0.3, includes_base=True), Box(), Box(-0.2, 0.4)]


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("feasible", SETS, ids=str)
def test_weights_are_another_name_for_coefficients(feasible):
    hull = Hull(feasible, 4)
    coefficients = feasible.project(uniform(0, 50, 4))
    weights = hull.weights(coefficients)
    assert weights.shape[1] == hull.vertices
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights), dtype=torch.float64))
    torch.testing.assert_close(hull.coefficients(weights), coefficients)
    # Linear scores: the derivative in the weights of what is linear in the coefficients.
    gradient, other = uniform(1, 50, 4), feasible.project(uniform(2, 50, 4))
    change = (hull.scores(gradient) * (hull.weights(other) - weights)).sum()
    torch.testing.assert_close(change, (gradient * (other - coefficients)).sum())
    square = hull.squares(hull.weights(other) - weights).sum()
    torch.testing.assert_close(square, (other - coefficients).square().sum())


def test_rounding_leaves_no_weight_on_the_base():
    hull = Hull(Simplex(includes_base=True), 10)
    coefficients = torch.full((1, 10), 0.1)
    coefficients[0, 0] -= 3e-7
    assert coefficients.sum() < 1
    assert hull.weights(coefficients)[0, -1] == 0
    coefficients[0, 0] -= 1e-3
    assert hull.weights(coefficients)[0, -1] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("move_of", [toward_move, away_move, pairwise_move])
def test_a_move_ends_on_a_face(move_of):
    weights = uniform(3, 400, 5)
    weights[::2, 0] = 0.0
    weights = weights / weights.sum(dim=1, keepdim=True)
    scores = uniform(4, 400, 5)
    move = move_of(weights, scores)
    assert ((scores * move.direction).sum(dim=1) <= 0).all()  # descends
    torch.testing.assert_close(move.at(torch.zeros(1, 1, dtype=torch.float64)), weights)
    end = move.at(move.limit)
    torch.testing.assert_close(end, (weights + move.limit * move.direction).clamp(min=0.0), atol=1e-12, rtol=0.0)
    assert (end >= 0).all()
    assert (end[move.leaves] == 0).all()  # exactly: a residue would be active still
    assert (end > 0).sum() < (weights > 0).sum()
    assert torch.equal(move.at(2.0 * move.limit), end)
    if move_of is toward_move:
        assert torch.equal(end, move.selected.to(torch.float64))
    else:
        assert move.leaves.any(dim=1).sum() > 100


def test_a_row_on_its_best_vertex_stays():
    weights, scores = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    for move_of in (toward_move, away_move, pairwise_move):
        move = move_of(weights, scores)
        assert torch.equal(move.at(torch.ones(1, 1)), weights)
