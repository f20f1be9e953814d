"""Which outputs of the experts are stored, and how they are computed."""

from dataclasses import asdict, dataclass

from adamerge.merging.forward_pass import Layers
from adamerge.objectives import LogitAlignment, Objective


@dataclass(frozen=True)
class TargetSettings:
    """Which outputs of an expert are stored.

    For a large vocabulary, the most likely tokens are stored, plus the log of the total probability of all others. The
    divergence computed from these is smaller than the exact one by (probability of the others) × (divergence within the
    others). If the others have probability 0.001, the error is below 0.001 nat wherever the divergence within the
    others is below 1 nat.

    Attributes:
        layers: Hidden states to store, in half precision.
        whole: Store all classes, whatever the size of the vocabulary.
        tail: Otherwise: the largest probability that the tokens that are not stored may have together, averaged over
            the positions of a batch.
        temperature: Temperature of the log-probabilities of a large vocabulary.
        bf16: Whether experts compute them in bf16, by autocast.
    """

    layers: Layers = ()
    whole: bool = False
    tail: float = 1e-3
    temperature: float = 1.0
    bf16: bool = False

    @property
    def key(self) -> dict[str, object]:
        """What of it a cache key contains; of fp32 that is what it was before there was another precision."""
        return {name: value for name, value in asdict(self).items() if name != "bf16" or value}


def target_settings(objective: Objective, *, bf16: bool = False) -> TargetSettings:
    """Choose which outputs of the experts to store: all logits of a large vocabulary if the most likely are too few.

    Args:
        objective: What compares with them.
        bf16: Whether passes compute in bf16, by autocast.
    """
    aligned = [part for part in objective.parts if isinstance(part, LogitAlignment)]
    temperatures = {part.of_words for part in aligned} or {1.0}
    return TargetSettings(
        objective.layers,
        whole=len(temperatures) > 1 or any(part.form == "mse" for part in aligned),
        tail=min((part.tail for part in aligned), default=1e-3),
        temperature=min(temperatures),
        bf16=bf16,
    )
