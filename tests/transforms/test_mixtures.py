"""Methods of matrices see the experts of a mixture one by one."""

import pytest
import torch

from adamerge.transforms.isotropic import Isotropic
from adamerge.transforms.task_singular_vectors import TaskSingularVectors
from adamerge.transforms.wudi import Wudi

METHODS = [Isotropic(), TaskSingularVectors(), Wudi()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_each_matrix_of_a_stack_is_transformed_as_if_it_were_alone(method):
    torch.manual_seed(0)
    stack = torch.randn(2, 4, 6, 5)  # (K, experts of the mixture, R, M)
    transform = method.plan(lambda: iter(()))
    found = transform("model.layers.0.mlp.experts.down_proj", stack)
    for number in range(4):
        alone = transform("model.layers.0.mlp.down_proj.weight", stack[:, number])
        torch.testing.assert_close(found[:, number], alone)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_convolution_is_one_matrix(method):
    torch.manual_seed(0)
    stack = torch.randn(2, 4, 6, 3)
    transform = method.plan(lambda: iter(()))
    flat = transform("mlp.weight", stack.flatten(2))
    torch.testing.assert_close(transform("conv.weight", stack), flat.reshape(-1, 4, 6, 3))
