"""Alignment of the merged model with each task's expert: logits and hidden states."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import NEVER, Batch, Outputs, mean_where, present_at, widened
from adamerge.objectives.divergences import distance
from adamerge.objectives.objective import Objective
from adamerge.types import SMALLEST_TEMPERATURE, ConfigError, check_types


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the Kullback-Leibler divergence T²·KL(softmax(z*/T) ‖ softmax(z/T)), in nats.

    The same gradient as T²·soft cross-entropy, of which it lacks only the expert's own entropy, so that 0 means equal.

    Args:
        logits: z of the merged model, (…, C).
        targets: z* of the expert, (…, C).
        temperature: T > 0.

    Returns:
        (…), at least 0.

    Reference:
        Zhang et al., Expert Merging: Model Merging with Unsupervised Expert Alignment and Importance-Guided Layer
        Chunking, 2025; Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.

    Example:
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> soft_cross_entropy(z, z + 5.0).item()
        0.0
    """
    merged = (logits / temperature).log_softmax(-1)
    expert = (targets.to(logits.device, logits.dtype) / temperature).log_softmax(-1)
    return temperature**2 * (expert.exp() * (expert - merged)).sum(-1)


def partial_cross_entropy(logits: Tensor, top: Tensor, log_probabilities: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the same where only the expert's k likeliest words, and the probability of all the rest, are known.

    KL between the distributions over k + 1 outcomes, the last being "any other word": a lower bound of the whole KL
    that is exact where the rest is spread alike.

    Args:
        logits: z of the merged model, (…, C).
        top: Indices of the expert's likeliest words, int64, (…, k).
        log_probabilities: Their log-probabilities under the expert and the log of the rest's, (…, k + 1); −inf stands
            for what must not count.
        temperature: Must be that with which the log-probabilities were made.

    Returns:
        (…), at least 0.
    """
    merged = (logits / temperature).log_softmax(-1)
    known = merged.gather(-1, top)  # (…, k)
    rest = merged.scatter(-1, top, NEVER).logsumexp(-1, keepdim=True)
    both = torch.cat([known, rest], -1)  # (…, k + 1)
    expert = log_probabilities.exp()
    return temperature**2 * torch.where(expert > 0, expert * (log_probabilities - both), 0.0).sum(-1)


SOFT = 2.0
"""Temperature of classes by `temperature: auto`: what the expert thinks of the other classes counts too."""


@dataclass(frozen=True)
class LogitAlignment(Objective):
    """Mean divergence of the merged model's predictions from the expert's.

    Of classes and of spans it is that of softmax distributions, of labels that of independent Bernoulli distributions,
    of numbers and vectors that of normal distributions with the expert's own variance over its rows (`divergences.py`).

    Args:
        form: kl (the temperature's square times the Kullback-Leibler divergence) or mse (of the logits).
        temperature: T > 0 divides both logits; kl only. auto: 1 where only the likeliest words of a large vocabulary
            are kept, and SOFT elsewhere.
        tail: Of a large vocabulary only the expert's likeliest words are kept, and the probability of all the rest
            together: as many words as leave out this probability on average; kl only.

    Raises:
        ConfigError: The temperature is not above 0.

    Example:
        >>> batch, expert = Batch({}, torch.arange(1)), Outputs(torch.tensor([[0.0, 1.0]]))
        >>> LogitAlignment(form="mse")(Outputs(torch.tensor([[0.0, 3.0]])), batch, expert).item()
        2.0
    """

    form: Literal["kl", "mse"] = "kl"
    temperature: float | Literal["auto"] = 1.0
    tail: float = 1e-3

    @property
    @override
    def uses_targets(self) -> bool:
        return True

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if not SMALLEST_TEMPERATURE <= self.of_words < math.inf:
            raise ConfigError(f"objective.temperature: expected a finite number above 0, found {self.temperature}.")
        if not 0 < self.tail < 1:
            raise ConfigError(f"objective.tail: expected a probability between 0 and 1, found {self.tail}.")

    @property
    def of_words(self) -> float:
        """T where only the likeliest words are kept."""
        return 1.0 if self.temperature == "auto" else self.temperature

    @property
    def of_classes(self) -> float:
        """T where all logits are kept."""
        return SOFT if self.temperature == "auto" else self.temperature

    @property
    @override
    def by_position(self) -> Objective:
        return self

    @override
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        assert targets is not None  # uses_targets
        logits = widened(outputs.logits)
        if targets.top is not None:
            return mean_where(
                partial_cross_entropy(logits, targets.top, targets.logits, self.of_words), batch.positions
            )
        if self.form == "mse":
            return mean_where(_squares(logits, targets.logits.to(logits)), batch.positions)
        if outputs.form in ("labels", "numbers", "vectors"):
            return mean_where(distance(outputs._replace(logits=logits), targets, self.of_classes), batch.positions)
        return mean_where(soft_cross_entropy(logits, targets.logits, self.of_classes), batch.positions)


def _squares(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean squared difference over the last dimension, without what is left out, (…)."""
    counted = (targets > NEVER / 2).to(logits.dtype)
    return ((logits - targets).square() * counted).sum(-1) / counted.sum(-1).clamp_min(1)


def hidden_distance(hidden: Tensor, targets: Tensor, form: str, present: Tensor) -> Tensor:
    """Compute the distance of two hidden states, mean over the positions that are present.

    mse: mean over channels of (h − h*)². cosine: 1 − cos(h, h*). scaled: mse divided by the variance of h* over its
    row's positions and channels, so that layers weigh alike.

    Args:
        hidden: h of the merged model, (B, S, D).
        targets: h* of the expert, (B, S, D).
        form: mse, cosine or scaled.
        present: What is not padding, bool, (B, S).

    Returns:
        A scalar, at least 0.

    Reference:
        Zhang et al., Expert Merging, 2025 (mse of hidden states beside the logits).

    Example:
        >>> h = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])
        >>> hidden_distance(h, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), "cosine", torch.tensor([[True, False]])).item()
        1.0
    """
    targets = targets.to(hidden.device, hidden.dtype)
    if form == "cosine":
        return mean_where(1 - torch.cosine_similarity(hidden, targets, dim=-1), present)
    distance = (hidden - targets).square().mean(-1)  # (B, S)
    if form == "scaled":
        distance = distance / _variances(targets, present)[:, None]
    return mean_where(distance, present)


def _variances(targets: Tensor, present: Tensor) -> Tensor:
    """Compute the variance of each row of (B, S, D) over its present positions and all channels, above 0, (B,)."""
    here = present.unsqueeze(-1).to(targets.dtype)  # (B, S, 1)
    numbers = (here.sum((1, 2)) * targets.shape[-1]).clamp_min(1)  # (B,)
    means = (targets * here).sum((1, 2)) / numbers
    return ((targets - means[:, None, None]).square() * here).sum((1, 2)).div(numbers).clamp_min(1e-12)


@dataclass(frozen=True)
class HiddenAlignment(Objective):
    """Mean distance of the merged model's hidden states from the expert's, over chosen layers.

    The positions that count are those that count for the logits, and of an encoder all that are not padding.

    Args:
        chosen: Indices of hidden states, 0 being the embeddings' output and negative ones counting from the end; auto
            takes the middle and the last. Of encoder-decoders the encoder's come first, and its last is the middle.
        form: mse, cosine, or scaled (mse by the expert's own variance).

    Example:
        >>> batch = Batch({}, torch.arange(1))
        >>> merged, expert = (Outputs(torch.zeros(1, 2), (torch.full((1, 3, 4), x),)) for x in (1.0, 3.0))
        >>> HiddenAlignment(chosen=[-1], form="mse")(merged, batch, expert).item()
        4.0
    """

    chosen: Literal["auto"] | list[int] = "auto"
    form: Literal["mse", "cosine", "scaled"] = "scaled"

    def __post_init__(self) -> None:
        """Check the layers."""
        check_types(self)
        if not self.chosen:
            raise ConfigError("objective.chosen: expected auto or at least one layer, found none.")

    @property
    @override
    def uses_targets(self) -> bool:
        return True

    @property
    @override
    def layers(self) -> tuple[int | str, ...]:
        return ("middle", -1) if self.chosen == "auto" else tuple(self.chosen)

    @override
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        assert targets is not None  # uses_targets
        encoded = outputs.encoded or (False,) * len(outputs.hidden)
        distances = [
            hidden_distance(h, t, self.form, present_at(batch, h, of_encoder))
            for h, t, of_encoder in zip(outputs.hidden, targets.hidden, encoded, strict=True)
        ]
        return torch.stack(distances).mean()


def objective_of_teacher(objective: Objective) -> Objective:
    """Return what of an objective compares with a teacher without a task of its own; its logits if nothing does.

    Example:
        >>> from adamerge.objectives import Entropy, Sum
        >>> objective_of_teacher(Entropy())
        LogitAlignment(form='kl', temperature=1.0, tail=0.001)
        >>> objective_of_teacher(Sum([Entropy(), HiddenAlignment()], [1.0, 0.5]))
        Sum(terms=[HiddenAlignment(chosen='auto', form='scaled')], weights=[0.5])
    """
    return objective.compared or LogitAlignment()
