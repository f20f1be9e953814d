import pytest
import torch

from adamerge.transforms.order_statistics import from_ordered_bits, order_statistics, ordered_bits
from adamerge.types import ConfigError


def blocks(seed, experts=3, widths=(5, 1000, 1, 37)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(experts, width, generator=generator) ** 3 for width in widths]


@pytest.mark.parametrize("seed", range(5))
def test_order_statistics_are_kthvalues_of_the_concatenation(seed):
    parts = blocks(seed)
    whole = torch.cat(parts, 1)
    length = whole.shape[1]
    wanted = (0, 1, length // 3, length - 2, length - 1)
    found = order_statistics(lambda: iter(parts), lambda d: wanted)
    expected = torch.stack([whole.kthvalue(position + 1, dim=1).values for position in wanted])
    assert torch.equal(found, expected)


def test_repeated_numbers_extremes_and_equal_upper_bits():
    row = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0 + 2**-23, 1.0 + 2**-22, 3.4e38, 1e-45, -1e-45, -3.4e38])
    expected = row.sort().values
    found = order_statistics(lambda: iter([row[None]]), lambda d: tuple(range(d)))
    assert torch.equal(found[:, 0], expected)


def test_bits_are_monotone_and_invertible():
    values = torch.cat(blocks(0), 1).flatten().sort().values
    assert (ordered_bits(values).diff() >= 0).all()
    assert torch.equal(from_ordered_bits(ordered_bits(values)), values)


def test_no_tensor_is_refused():
    with pytest.raises(ConfigError, match="no tensor"):
        order_statistics(lambda: iter([]), lambda d: (0,))
