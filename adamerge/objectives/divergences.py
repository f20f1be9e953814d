"""How far the merged model's predictions are from the expert's, in nats, whatever is predicted."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from adamerge.batch import Outputs

_CONSTANT = 1e-10
"""Variance, relative to the mean square, below which the expert's numbers count as one number."""


def bernoulli_divergence(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the divergence of independent labels: T²·Σ_c KL(Bernoulli σ(z*_c/T) ‖ Bernoulli σ(z_c/T)), in nats.

    It is the divergence of the joint distributions, because the labels are independent:
    KL_c = σ(z*)·(log σ(z*) − log σ(z)) + σ(−z*)·(log σ(−z*) − log σ(−z)).

    Args:
        logits: z of the merged model, (…, C).
        targets: z* of the expert, (…, C).
        temperature: T > 0.

    Returns:
        (…), at least 0.

    Example:
        >>> z = torch.tensor([[1.0, -2.0]])
        >>> bernoulli_divergence(z, z).item()
        0.0
    """
    merged, expert = logits / temperature, targets.to(logits.device, logits.dtype) / temperature
    yes = expert.sigmoid() * (logsigmoid(expert) - logsigmoid(merged))
    no = (-expert).sigmoid() * (logsigmoid(-expert) - logsigmoid(-merged))
    return temperature**2 * (yes + no).sum(-1)


def gaussian_divergence(values: Tensor, targets: Tensor, spread: Tensor) -> Tensor:
    """Compute the divergence of normal distributions around two predictions: Σ_d (y_d − y*_d)² / 2σ_d², in nats.

    The variance σ² of both is that of the expert's own predictions over its rows, so that a task whose numbers are
    large or many weighs no more than another: where the merge predicts the expert's mean, the mean divergence is 1/2
    for each number. Of vectors, σ² is their total variance, the same for all channels: the mean divergence is then 1/2
    for the whole vector. Vectors have length 1, so that ‖v − v*‖²/2 = 1 − cos(v, v*).

    Args:
        values: y of the merged model, (…, D).
        targets: y* of the expert, (…, D).
        spread: σ², (D,) or (1,), above 0.

    Returns:
        (…), at least 0.

    Reference:
        Kullback, Information Theory and Statistics, 1959, chapter 9 (normal distributions of one variance).

    Example:
        >>> gaussian_divergence(torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([2.0])).item()
        1.0
    """
    return ((values - targets.to(values.device, values.dtype)).square() / (2 * spread.to(values))).sum(-1)


def spread_of(values: Tensor, *, total: bool) -> Tensor:
    """Compute the variance of an expert's numbers or vectors over its rows; 1 where they are all one number.

    Args:
        values: (N, D).
        total: Whether to add up the variances of the channels, as for vectors.

    Returns:
        σ², (D,), or (1,) in total.

    Example:
        >>> spread_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), total=False).tolist()
        [1.0, 1.0]
    """
    values = values.double()
    variance, size = values.var(0, correction=0), values.square().mean(0)
    if total:
        variance, size = variance.sum(0, keepdim=True), size.sum(0, keepdim=True)
    return torch.where(variance > _CONSTANT * size, variance, 1.0).float()


def distance(outputs: Outputs, targets: Outputs, temperature: float) -> Tensor:
    """Compute the divergence of labels, numbers or vectors, (…), by their form.

    Args:
        outputs: The merged model's, in fp32.
        targets: The expert's, with the spread of numbers and vectors.
        temperature: Of labels.
    """
    if outputs.form == "labels":
        return bernoulli_divergence(outputs.logits, targets.logits, temperature)
    assert targets.spread is not None  # stored beside numbers and vectors
    return gaussian_divergence(outputs.logits, targets.logits, targets.spread)
