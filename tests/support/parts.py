"""Task vectors of some rows against the rows of the whole ones."""

import torch


def assert_parts(vectors, grouping):
    """Cut every parameter into two parts, one of which may be empty: their rows are the whole's, inner is their sum."""
    draw = torch.Generator().manual_seed(0)
    coefficients = torch.rand(len(grouping), len(vectors.experts), generator=draw)
    gradients = {name: torch.randn(shape, generator=draw) for name, shape in vectors.shapes.items()}
    merged, inner = vectors.combine(coefficients, grouping), torch.zeros(len(grouping), len(vectors.experts))
    for first in (True, False):
        rows = {name: own for name, shape in vectors.shapes.items() if (own := rows_of(shape, first)) is not None}
        part = vectors.part(rows)
        groups = grouping if vectors.per == "component" else grouping.part(rows)
        found = part.combine(coefficients, groups)
        assert found.keys() == rows.keys()
        for name, own in rows.items():
            torch.testing.assert_close(found[name], cut(merged[name], own), rtol=1e-5, atol=1e-6)
        inner += part.inner({name: cut(gradients[name], own) for name, own in rows.items()}, groups)
    expected = vectors.inner(gradients, grouping)
    torch.testing.assert_close(inner, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def rows_of(shape, first):
    """Rows of one of two parts; the first one has scalars, and the only row. None if there are none."""
    half = -(-shape[0] // 2) if shape else 1
    if not first and half == (shape[0] if shape else 1):
        return None
    return slice(0, half) if first else slice(half, None)


def cut(tensor, rows):
    return tensor[rows] if tensor.ndim else tensor
