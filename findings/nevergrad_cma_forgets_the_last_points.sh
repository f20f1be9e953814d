#!/usr/bin/env bash
# nevergrad: CMA recommends from whole populations only, so that the last points of a budget that is no multiple of the population are evaluated and forgotten, even where one of them is the best by far; one expects a recommendation no worse than a point that was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 cma==4.5.0 nevergrad==1.0.12
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import nevergrad as ng


def searched(budget, seed):
    """Give the least loss seen, its index, and the loss of the recommendation."""
    losses = []

    def loss(weights):
        losses.append(float(((weights - 0.5) ** 2).sum()))
        return losses[-1]

    optimizer = ng.optimizers.CMA(parametrization=ng.p.Array(shape=(4,)), budget=budget)
    optimizer.parametrization.random_state.seed(seed)
    recommended = optimizer.minimize(loss).value
    least = min(losses)
    return least, losses.index(least), float(((recommended - 0.5) ** 2).sum())


print("nevergrad", version("nevergrad"), "cma", version("cma"))
print("four weights, the squared distance to 0.5, no noise; populations of 8; twenty seeds for each budget")
worse = {}
for budget in (56, 60, 64):
    found = [searched(budget, seed) for seed in range(20)]
    worse[budget] = [(index, answer / least) for least, index, answer in found if answer > least * 1.0001]
    print(f"budget {budget}: {len(worse[budget])} recommendations are worse than a point that was seen")
    for index, ratio in worse[budget]:
        print(f"  the best was point {index + 1} of {budget}; the recommended one's loss is {ratio:.2f} times as large")
assert not worse[56] and not worse[64] and len(worse[60]) >= 3, worse
assert all(index >= 56 for index, _ in worse[60]) and max(ratio for _, ratio in worse[60]) > 2, worse
PYTHON
