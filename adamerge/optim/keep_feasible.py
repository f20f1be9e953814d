"""Any torch optimiser, kept feasible by projection after its step."""

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.types import ConfigError


def keep_feasible(optimizer: Optimizer, feasible: FeasibleSet) -> RemovableHandle:
    r"""Project every parameter of an optimiser in place after each of its steps.

    $$C \leftarrow \text{project}(\text{step}(C))$$

    A projection after the step has no dead zone, unlike a clamp inside the forward pass, whose gradient is zero
    outside. A hook is no part of `state_dict`: register it again on a new optimiser before resuming.

    Args:
        optimizer: over coefficients of shape (G, K) alone.
        feasible: the set of each row.

    Returns:
        A handle whose `remove()` ends the projection.

    Raises:
        ConfigError: if a parameter is no (G, K) table, or the set leaves nothing to learn for its K.

    Example:
        >>> from adamerge.optim.feasible_sets import Box
        >>> coefficients = torch.nn.Parameter(torch.tensor([[0.9, 0.1]]))
        >>> optimizer = torch.optim.SGD([coefficients], lr=1.0)
        >>> handle = keep_feasible(optimizer, Box())
        >>> coefficients.sum().backward()
        >>> optimizer.step()
        >>> coefficients.data
        tensor([[0., 0.]])
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.ndim != 2:
                raise ConfigError(f"expected coefficients of shape (G, K), found shape {tuple(parameter.shape)}.")
            feasible.check_experts(parameter.shape[1])

    def project(optimizer: Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.copy_(feasible.project(parameter))

    return optimizer.register_step_post_hook(project)
