"""Losses of the passes of a streamed step; of a large vocabulary, the head with its loss for some positions at a time.

The logits of all positions then never exist at once, nor does their gradient: V numbers per position, several times.
"""

# pyright: standard

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adamerge.batch import Batch
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import trial
from adamerge.merging.calls import Block, begin
from adamerge.merging.forward_pass import Layers, outputs_of
from adamerge.merging.frame import Call
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.recomputation import backward
from adamerge.merging.rounds import Pass
from adamerge.merging.work import Work
from adamerge.storage.memory import SLACK, give_back
from adamerge.types import Parameters

CHUNK = 2**23
"""Largest number of logits at once: 32 MiB in fp32."""


class StepLosses:
    """Takes the losses of passes, and runs their backward passes down to the last block.

    Args:
        model: Experts.
        every: Task and work of each pass.
        batches: The batch of each pass, on the device.
        layers: Hidden states that the losses need.
        heads: Paths of heads by task, as `head_of` finds them; filled here.

    Attributes:
        losses: Loss by pass, once it is known.
    """

    def __init__(
        self,
        model: MergedModel,
        every: Sequence[tuple[str, Work]],
        batches: Sequence[Batch],
        layers: Layers,
        heads: dict[str, str | None],
    ) -> None:
        self._model, self._every, self._batches, self._layers, self._heads = model, every, batches, layers, heads
        self.losses: dict[int, Tensor] = {}

    def end(self, number: int, output: object) -> None:
        """Take the loss of a pass that has ended."""
        (task, work), batch = self._every[number], self._batches[number]
        expert = self._model.experts.models[task]
        loss = work.loss(outputs_of(output, expert, batch.inputs, self._layers), batch)
        backward(loss, retain_graph=True)
        self.losses[number] = loss.detach()

    def in_chunks(self, one: Pass, parameters: Parameters) -> bool:
        """Run the head and the rest of a pass, if the pass waits for a head whose logits are too many.

        Args:
            one: The pass.
            parameters: Of the block that it waits for.

        Returns:
            Whether it was run.
        """
        (task, work), batch, call = self._every[one.number], self._batches[one.number], one.call
        states = call.args[0] if len(call.args) == 1 and not call.kwargs else None
        if work.chunks is None or not isinstance(states, Tensor) or states.ndim != 3 or "weight" not in parameters:
            return False
        rows, length, width = *states.shape[:2], len(parameters["weight"])
        if rows * length * width <= CHUNK or self._head(task, batch) != call.path:
            return False
        block = one.block()
        one.go_on(states.detach().new_zeros(()).expand(rows, length, width))  # in place of the logits
        expert = self._model.experts.models[task]
        outputs = outputs_of(one.turns.take(), expert, batch.inputs, self._layers)
        rest, chunks = work.chunks(outputs, batch, max(1, CHUNK // (rows * width)))
        losses = [] if rest is None else [rest]
        for loss in losses:
            backward(loss, retain_graph=True)
        for positions, loss_of in chunks:
            part = call._replace(args=(states[:, positions],))
            losses.append(_backward_of(part, block, parameters, loss_of))  # what it made is gone before the next one
        self.losses[one.number] = torch.stack([loss.detach() for loss in losses]).sum()
        return True

    def _head(self, task: str, batch: Batch) -> str | None:
        if task not in self._heads:
            self._heads[task] = head_of(self._model.experts.models[task], batch.inputs)
        return self._heads[task]


def _backward_of(call: Call, head: Block, parameters: Parameters, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Run the head for some positions, and the backward pass of their loss; returns the loss."""
    give_back(SLACK // 4)  # logits are most of what a step holds
    logits, tape = begin(call, head, parameters, graph=True)
    assert isinstance(logits, Tensor)
    loss = loss_of(logits)
    del logits
    backward(loss)
    tape.backward(parameters)
    return loss.detach()


def head_of(expert: Expert, inputs: Mapping[str, Tensor]) -> str | None:
    """Find the linear layer that a model runs last, and whose output it returns as its logits; None if there is none.

    Args:
        expert: The model.
        inputs: A batch.
    """
    ran: list[tuple[str, nn.Module, object]] = []
    leaves = [(path, part) for path, part in expert.module.named_modules() if part._parameters]
    handles = [
        part.register_forward_hook(lambda module, given, output, path=path: ran.append((path, module, output)))
        for path, part in leaves
    ]
    try:
        one = {name: tensor[:1].cpu() for name, tensor in inputs.items()}
        logits = outputs_of(trial(expert.module, one), expert, one, ()).logits
    finally:
        for handle in handles:
            handle.remove()
    path, module, last = ran[-1]
    return path if isinstance(module, nn.Linear) and last is logits else None
