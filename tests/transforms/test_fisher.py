import numpy as np
import torch

from adamerge.transforms.fisher import fisher_weights


def test_weights_are_the_minimiser_of_the_weighted_squared_distances():
    generator = torch.Generator().manual_seed(0)
    fisher = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)
    task_vectors = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    merged = (fisher_weights(fisher) * task_vectors).sum(0)
    gradient = (fisher * (merged - task_vectors)).sum(0)
    np.testing.assert_allclose(gradient.numpy(), 0, atol=1e-14)


def test_no_information_is_the_average_and_nothing_is_nan():
    fisher = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 1e-30]])
    weights = fisher_weights(fisher)
    assert weights.tolist() == [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]
