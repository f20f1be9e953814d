"""Divergences of labels and numbers are those of torch's distributions; what is scaled alike weighs alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from adamerge.batch import NEVER, Batch, Outputs
from adamerge.objectives import LogitAlignment
from adamerge.objectives.divergences import bernoulli_divergence, gaussian_divergence, spread_of
from adamerge.objectives.entropy import bernoulli_entropy


def drawn(seed, *shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_labels_diverge_as_independent_bernoulli_distributions(temperature):
    merged, expert = drawn(0, 5, 4), drawn(1, 5, 4)
    p, q = (Independent(Bernoulli(logits=one / temperature), 1) for one in (expert, merged))
    torch.testing.assert_close(bernoulli_divergence(merged, expert, temperature), temperature**2 * kl_divergence(p, q))
    torch.testing.assert_close(bernoulli_entropy(merged), Independent(Bernoulli(logits=merged), 1).entropy())


def test_numbers_diverge_as_normal_distributions_with_the_experts_spread():
    merged, expert = drawn(0, 6, 2), drawn(1, 6, 2)
    spread = spread_of(expert, total=False)
    torch.testing.assert_close(spread.double(), expert.var(0, correction=0), rtol=1e-6, atol=0)
    p, q = (Independent(Normal(one, spread.double().sqrt()), 1) for one in (expert, merged))
    torch.testing.assert_close(gaussian_divergence(merged, expert, spread), kl_divergence(p, q))


def test_the_divergence_of_unit_vectors_is_their_cosine_by_the_total_variance():
    merged, expert = (torch.nn.functional.normalize(drawn(seed, 6, 3), dim=-1) for seed in (0, 1))
    spread = spread_of(expert, total=True)
    total = 1 - expert.mean(0).square().sum()  # of vectors of length 1
    found = gaussian_divergence(merged, expert, spread)
    torch.testing.assert_close(found, (1 - torch.cosine_similarity(merged, expert)) / total, rtol=1e-6, atol=1e-7)


@given(st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_the_unit_of_a_number_does_not_matter(scale, shift):
    merged, expert = drawn(0, 8, 1), drawn(1, 8, 1)
    one = gaussian_divergence(merged, expert, spread_of(expert, total=False))
    changed = scale * expert + shift
    other = gaussian_divergence(scale * merged + shift, changed, spread_of(changed, total=False))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_constant_expert_has_the_spread_one():
    assert spread_of(torch.full((4, 2), 7.0), total=False).tolist() == [1, 1]
    assert spread_of(torch.full((1, 3), 7.0), total=True).tolist() == [1]


def test_padding_of_spans_does_not_count():
    batch = Batch({}, torch.arange(2))
    merged, expert = drawn(0, 2, 2, 3).float(), drawn(1, 2, 2, 3).float()
    for form in ("kl", "mse"):
        short = LogitAlignment(form=form)(Outputs(merged, form="spans"), batch, Outputs(expert, form="spans"))
        padded = [Outputs(torch.nn.functional.pad(one, (0, 4), value=NEVER), form="spans") for one in (merged, expert)]
        torch.testing.assert_close(short, LogitAlignment(form=form)(padded[0], batch, padded[1]))
