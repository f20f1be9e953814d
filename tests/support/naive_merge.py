"""The merge as its formula says, one autograd operation after the other; and one grouping of each kind."""

from adamerge.merging.grouping import block_wise, row_blocks, task_wise, tensor_wise

GROUPINGS = {
    "task": lambda shapes: task_wise(list(shapes)),
    "block": lambda shapes: block_wise(list(shapes)),
    "tensor": lambda shapes: tensor_wise(list(shapes)),
    "two row blocks": lambda shapes: row_blocks(shapes, 2),
    "every row": lambda shapes: row_blocks(shapes, 10**6),
}


def naive(base, experts, coefficients, grouping):
    """The merge as its formula says, one autograd operation after the other."""
    merged = {}
    for name, value in base.named_parameters():
        rows = grouping.rows[name]
        total = value.detach().clone()
        for k, expert in enumerate(experts):
            vector = dict(expert.named_parameters())[name].detach() - value.detach()
            weight = coefficients[rows, k]
            total = total + (weight.reshape(-1, *[1] * (value.ndim - 1)) if len(rows) > 1 else weight) * vector
        merged[name] = total.reshape(value.shape)
    return merged
