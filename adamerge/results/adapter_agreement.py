"""What the truncation of an adapter costs in agreement with the experts on held-out rows."""

from adamerge.calibration.agreement import HeldOut
from adamerge.experts.experts import KEEP
from adamerge.merging.merged_model import MergedModel
from adamerge.results.export import Exported
from adamerge.results.written import written_model
from adamerge.types import Coefficients


def agreement_lines(model: MergedModel, coefficients: Coefficients, held_out: HeldOut, exported: Exported) -> list[str]:
    """Compare the agreement of a truncated adapter with that of the merge at full rank.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        held_out: Held-out rows and the experts' predictions.
        exported: The written adapter.

    Returns:
        Nothing if nothing was truncated; a line that says so if there are no held-out rows.
    """
    if not exported.truncation:
        return []
    if not held_out:
        return ["agreement of the truncated adapter: not measured, there are no held-out rows"]
    full = held_out.agreement(model, coefficients)
    cut = held_out.agreement(*written_model(model, exported.folder))
    words = [f"{task} {100 * full[task]:.1f} % → {100 * cut[task]:.1f} %" for task in full]
    tasks = [task for task in full if task != KEEP] or [*full]
    mean = [100 * sum(one[task] for task in tasks) / len(tasks) for one in (full, cut)]
    return [
        f"agreement with the experts on held-out rows, full rank → truncated: {', '.join(words)}; mean "
        f"{mean[0]:.1f} % → {mean[1]:.1f} %"
    ]
