#!/usr/bin/env bash
# scikit-learn: CalibratedClassifierCV(method="temperature") takes probabilities for logits where one row of a call does not sum to 1 within 1e-5 (float16, three decimals), so that an answer depends on the other rows; one expects predict_proba to be read as probabilities.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator


class Stored(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities were computed before: a row holds them."""

    classes_ = np.arange(3)

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(1)


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


rng = np.random.default_rng(0)
logits = 2 * rng.normal(size=(2000, 3))
true = softmax(logits)
labels = np.array([rng.choice(3, p=row) for row in true])
confident = softmax(3 * logits)  # the right inverse temperature is 1/3
print("scikit-learn", sklearn.__version__)
found = {}
given = {"float64": confident, "three decimals": confident.round(3), "float16": confident.astype(np.float16)}
for kind, rows in given.items():
    model = CalibratedClassifierCV(FrozenEstimator(Stored()), method="temperature").fit(rows, labels)
    inverse = float(model.calibrated_classifiers_[0].calibrators[0].beta_)
    together = model.predict_proba(rows)
    alone = np.concatenate([model.predict_proba(row[None]) for row in rows])
    found[kind] = inverse, np.abs(together - true).mean(), np.abs(together - alone).max()
    print(f"{kind}: inverse temperature {inverse:.3f}, mean error {found[kind][1]:.4f}, ", end="")
    print(f"largest change of a row that is asked for alone {found[kind][2]:.3f}")
assert abs(found["float64"][0] - 1 / 3) < 0.01 and found["float64"][2] < 1e-9, found
for kind in ("three decimals", "float16"):
    assert found[kind][0] > 2 and found[kind][1] > 0.05 and found[kind][2] > 0.2, found
PYTHON
