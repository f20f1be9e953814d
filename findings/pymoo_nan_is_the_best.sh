#!/usr/bin/env bash
# pymoo: a NaN of the objective beats every number in PSO, PatternSearch and NSGA2: where half of the range gives NaN, as a merge that diverges does, PSO and PatternSearch answer NaN for all of ten seeds without a word and forget points of 1e-4 and better that they had evaluated, NSGA2 a front of one row of NaN for some; GA and DE pass over NaN, inf in its place does no harm, and one expects both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 pymoo==0.6.2
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.algorithms.soo.nonconvex.pattern import PatternSearch
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

SEEDS = range(1, 11)


class Loss(Problem):
    """(x - 0.3)^2, of two objectives (x - 0.1)^2 too, and a value of its own for x above 0.5."""

    def __init__(self, objectives, broken):
        super().__init__(n_var=1, n_obj=objectives, xl=0.0, xu=1.0)
        self.broken, self.seen = broken, []

    def _evaluate(self, x, out, *args, **kwargs):
        values = np.hstack([(x - best) ** 2 for best in (0.3, 0.1)[: self.n_obj]])
        values[x[:, 0] > 0.5] = self.broken
        self.seen.append(values)
        out["F"] = values


def answered(kind, objectives, broken, seed):
    """Give the least first objective of the result (NaN where all of it is), and of what was evaluated."""
    problem = Loss(objectives, broken)
    result = minimize(problem, kind(), ("n_eval", 500), seed=seed)
    first = np.atleast_2d(result.F)[:, 0]
    return float("nan") if np.isnan(first).all() else np.nanmin(first), np.nanmin(np.vstack(problem.seen)[:, 0])


print("pymoo", version("pymoo"), "numpy", np.__version__)
found = {}
for kind, objectives in ((GA, 1), (DE, 1), (PSO, 1), (PatternSearch, 1), (NSGA2, 2)):
    for broken in (float("inf"), float("nan")):
        results = [answered(kind, objectives, broken, seed) for seed in SEEDS]
        answers, seen = np.array(results).T
        found[kind, broken != broken] = answers, seen
        print(f"{kind.__name__}, {broken} above 0.5: {np.isnan(answers).sum()} of {len(SEEDS)} results are NaN, the others at most "
              f"{np.max(answers[~np.isnan(answers)], initial=0):.1g}; at most {seen.max():.1g} was evaluated by each")
for (kind, broken), (answers, seen) in found.items():
    assert seen.max() < 1e-3, found
    if broken and kind in (PSO, PatternSearch):
        assert np.isnan(answers).all(), found
    elif broken and kind is NSGA2:
        assert 0 < np.isnan(answers).sum(), found
    else:
        assert answers.max() < 1e-3, found
PYTHON
