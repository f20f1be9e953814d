"""One sentence that says how a merge did."""

from adamerge.results.candidates import HEADERS, IN_WORDS
from adamerge.results.evaluate import MEAN
from adamerge.results.kept_base import sentence
from adamerge.results.measures import score_text
from adamerge.results.seen_run import SeenRun

_NO_LABELS = "No labeled rows were given, so accuracy is unknown."
_NO_MEAN = "Scores on labeled rows are in the table; they have no mean, because metrics differ or a score is missing."
_NOTHING = "Nothing was measured: there are neither labeled rows nor held-out rows."

_RIVALS = ("average", "task_arithmetic", "task_arithmetic_tuned")


def verdict(run: SeenRun) -> str:
    """Say how the learned merge compares with the experts and with what needs no learning, and how far the base is."""
    return f"{_of_experts(run)} {sentence(run.from_base)}".rstrip()


def _of_experts(run: SeenRun) -> str:
    if "learned" in run.scores and run.scores["learned"].get(MEAN) is not None:
        return _of_scores(run)
    if run.metric == "mixed" and (whole := run.relative.get("learned", {}).get(MEAN)) is not None:
        return f"The merge has {whole:.1f} % of what the experts reach on their own tasks, each by its own metric."
    unknown = _NO_MEAN if "learned" in run.scores else _NO_LABELS
    if "learned" in run.agreement:
        return f"{_of_agreement(run)} {unknown}"
    return unknown if "learned" in run.scores else _NOTHING


def _of_scores(run: SeenRun) -> str:
    learned, relative = run.scores["learned"], run.relative.get("learned", {})
    rivals = {key: run.scores[key][MEAN] for key in _RIVALS if key in run.scores}
    mean = learned[MEAN]
    assert mean is not None
    kept = ""
    shares = {task: value for task in run.tasks if (value := relative.get(task)) is not None}
    if shares and (whole := relative.get(MEAN)) is not None:
        least = min(shares, key=lambda task: shares[task])
        kept = f", {whole:.1f} % of what the experts reach on their own tasks (least: {least}, {shares[least]:.1f} %)"
    unit = " %" if all(one.percent for one in run.measures.values()) else ""
    whole = f"{score_text(mean, percent=bool(unit))}{unit}"
    return f"The merge has a mean {_metric(run)} of {whole}{kept}{_against(run, mean, rivals)}."


def _against(run: SeenRun, mean: float, rivals: dict[str, float | None]) -> str:
    """Compare with the best of the merges without learning, and say if the difference may be chance."""
    known = {key: value for key, value in rivals.items() if value is not None}
    if not known:
        return ""
    higher = all(one.higher for one in run.measures.values())
    best = max(known, key=lambda key: known[key] if higher else -known[key])
    gain = (mean - known[best]) if higher else (known[best] - mean)
    interval = run.score_interval("learned", MEAN) if "learned" in run.scores else None
    chance = " (within the bootstrap interval)" if interval and interval[0] <= known[best] <= interval[1] else ""
    unit = " points" if all(one.percent for one in run.measures.values()) else ""
    most = ", the best merge without learning that was measured on these rows" if len(known) > 1 else ""
    size = score_text(abs(gain), percent=bool(unit))
    if size == "0.0" or (not unit and score_text(mean) == score_text(known[best])):
        return f"; that is as much as {IN_WORDS[best]} has{most}{_centre_alone(run)}"
    word = "above" if (gain >= 0) == higher else "below"
    return f"; that is {size}{unit} {word} {IN_WORDS[best]}{chance}{most}{_centre_alone(run)}"


def _centre_alone(run: SeenRun) -> str:
    """Say that the centre, which is a merge without learning too, was measured on held-out rows alone."""
    return f"; the centre ({run.centre}) was measured on held-out rows alone" if "centre" in run.agreement else ""


def _metric(run: SeenRun) -> str:
    return " and ".join(dict.fromkeys(one.words for one in run.measures.values())) or run.metric


def _of_agreement(run: SeenRun) -> str:
    learned = run.agreement["learned"]
    others = {key: run.agreement[key][MEAN] for key in (*_RIVALS, "centre") if key in run.agreement}
    best = max(others, key=lambda key: others[key]) if others else None
    name = f"the centre ({run.centre})" if best == "centre" else _name(best or "")
    beside = f"; {name}, the best merge without learning, agrees on {100 * others[best]:.1f} %" if best else ""
    return (
        f"On {100 * learned[MEAN]:.1f} % of the {run.held_out} (mean over tasks) the merge predicts what each task's "
        f"expert predicts{beside}."
    )


def _name(candidate: str) -> str:
    return " ".join(HEADERS.get(candidate, candidate).replace("arithm.", "arithmetic").split())
