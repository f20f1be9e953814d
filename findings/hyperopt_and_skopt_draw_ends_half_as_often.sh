#!/usr/bin/env bash
# hyperopt and scikit-optimize: `hp.uniformint("x", 0, 3)` draws 0 and 3 half as often as 1 and 2, as do all initial samplers of scikit-optimize and its `Integer(0, 3, transform="normalize")`, as gp_minimize makes it of every integer; `hp.randint`, optuna and the same Integer without transform draw all alike, and one expects that of a uniform integer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 setuptools==84.2.1 hyperopt==0.3.0 scikit-optimize==0.10.2 optuna==5.0.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import numpy as np
import optuna
from hyperopt import hp
from hyperopt.pyll.stochastic import sample
from skopt import gp_minimize
from skopt.sampler import Halton, Lhs, Sobol
from skopt.space import Integer, Space

DRAWS = 1024


def hyperopt_draws(space):
    """Draw from a space of hyperopt."""
    random = np.random.default_rng(0)
    return [sample(space, rng=random) for _ in range(DRAWS)]


def first_points():
    """Give the first points of short searches that are all initial points."""
    searches = [gp_minimize(lambda x: 0.0, [(0, 3)], n_calls=64, n_initial_points=64, random_state=seed) for seed in range(16)]
    return [x for search in searches for (x,) in search.x_iters]


def optuna_draws():
    """Draw by optuna's random sampler."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_int("x", 0, 3), n_trials=DRAWS)
    return [trial.params["x"] for trial in study.trials]


def sampled(sampler):
    """Draw by an initial sampler of scikit-optimize."""
    return [x for (x,) in sampler.generate(Space([Integer(0, 3)]).dimensions, DRAWS, random_state=0)]


print("hyperopt", version("hyperopt"), "scikit-optimize", version("scikit-optimize"), "optuna", version("optuna"))
ALIKE = {
    "hyperopt, hp.randint('x', 0, 4)": hyperopt_draws(hp.randint("x", 0, 4)),
    "scikit-optimize, Integer(0, 3)": Integer(0, 3).rvs(DRAWS, random_state=0),
    "optuna, suggest_int('x', 0, 3)": optuna_draws(),
}
HALF = {
    "hyperopt, hp.uniformint('x', 0, 3)": hyperopt_draws(hp.uniformint("x", 0, 3)),
    "scikit-optimize, Integer(0, 3, transform='normalize')": Integer(0, 3, transform="normalize").rvs(DRAWS, random_state=0),
    "scikit-optimize, gp_minimize over (0, 3)": first_points(),
    "scikit-optimize, Lhs": sampled(Lhs()),
    "scikit-optimize, Sobol": sampled(Sobol()),
    "scikit-optimize, Halton": sampled(Halton()),
}
for name, draws in (ALIKE | HALF).items():
    counts = np.bincount(np.asarray(draws).astype(int), minlength=4)
    print(f"{name}: 0 to 3 were drawn", *counts, "times")
    ends = (counts[0] + counts[3]) / counts.sum()
    assert abs(ends - (1 / 2 if name in ALIKE else 1 / 3)) < 0.06, (name, counts)
PYTHON
