"""`keep`: the base is a teacher without a coefficient, on rows of its own."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from support.families import configuration, save_rows, write
from support.networks import BASE, INPUTS, NETS, merge

from adamerge.data.rows import TensorRows
from adamerge.experts.experts import KEEP
from adamerge.learning.learn import FROM_BASE
from adamerge.objectives import Entropy, LogitAlignment, Sum
from adamerge.runs.read_config import read_config

GENERAL = torch.randn(40, 4, generator=torch.Generator().manual_seed(9))
ONE_STEP = {"optimizer": {"class_path": "SGD", "init_args": {"lr": 1.0}}, "trainer": {"max_steps": 1}}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def kept(weight, **settings):
    usual = {"data": {"held_out": 0.0, "batch_size": None}, "watch": {}, "grouping": "task", "init": 0.3}
    keep = {"calibration": TensorRows({"input": GENERAL}), "weight": weight}
    return merge(keep=keep, **{**usual, **settings}).learn()


def loss(coefficients, weight, of_task):
    """Mean over the tasks plus the weighted divergence from the base, of plain modules; times the number of tasks."""
    pairs = list(zip(coefficients, [net.state_dict() for net in NETS.values()], strict=True))
    state = {n: value + sum(c * (net[n] - value) for c, net in pairs) for n, value in BASE.state_dict().items()}
    answers = lambda rows: torch.func.functional_call(BASE, state, (rows,)).log_softmax(-1)  # noqa: E731
    divergence = lambda net, rows: torch.nn.functional.kl_div(  # noqa: E731
        answers(rows), net(rows).log_softmax(-1).detach(), log_target=True, reduction="batchmean"
    )
    tasks = torch.stack([of_task(divergence(net, INPUTS[task]), answers(INPUTS[task])) for task, net in NETS.items()])
    return len(NETS) * (tasks.mean() + weight * divergence(BASE, GENERAL))


OBJECTIVES = {
    "alignment": (LogitAlignment(), lambda divergence, answers: divergence),
    "entropy": (Entropy(), lambda divergence, answers: -(answers.exp() * answers).sum(-1).mean()),
    "sum": (Sum([LogitAlignment(), Entropy()], [1.0, 0.5]), lambda d, a: d - 0.5 * (a.exp() * a).sum(-1).mean()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_follows_the_mean_of_tasks_plus_the_weighted_divergence_from_the_base(name):
    objective, of_task = OBJECTIVES[name]
    start = torch.full((len(NETS),), 0.3, requires_grad=True)
    loss(start, 0.7, of_task).backward()
    found = kept(0.7, objective=objective, feasible="Unbounded", **ONE_STEP).coefficients
    torch.testing.assert_close(found[0], (start - start.grad).detach(), rtol=1e-4, atol=1e-5)


def test_a_large_weight_leads_back_to_the_base_and_none_measures_alone():
    adam = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.06}}, "trainer": {"max_steps": 12}}
    held_out = {"data": {"held_out": 0.5, "batch_size": None}, "watch": {"every": 12, "monitor": "last"}}
    found = {weight: kept(weight, **adam, **held_out) for weight in (0.0, 0.2, 1e4)}
    plain = merge(**{"grouping": "task", "init": 0.3, **adam, **held_out}).learn()
    sizes = {weight: own.coefficients.abs().max().item() for weight, own in found.items()}
    assert torch.equal(found[0.0].coefficients, plain.coefficients)
    assert 0.2 < sizes[0.2] < sizes[0.0]
    assert sizes[1e4] < 0.15
    last = {weight: own.history[-1][FROM_BASE] for weight, own in found.items()}
    assert last[1e4] < 0.5 * last[0.2] < 0.5 * last[0.0]


def test_what_is_watched_is_the_mean_over_tasks_and_the_weighted_base():
    held_out = {"data": {"held_out": 0.5, "batch_size": None}, "watch": {"every": 1, "monitor": "divergence"}}
    learned = kept(0.7, **ONE_STEP, **held_out)
    rows = {task: own.batch(range(len(own))).inputs["input"] for task, own in learned._held_out.rows.items()}
    expected = {}
    for task, own in rows.items():
        state = learned.model.experts.base
        merged = {
            name: state[name] + 0.3 * sum(net.state_dict()[name] - state[name] for net in NETS.values())
            for name in state.headers
        }
        teacher = BASE if task == KEEP else NETS[task]
        with torch.no_grad():
            p, q = teacher(own).log_softmax(-1), torch.func.functional_call(BASE, merged, (own,)).log_softmax(-1)
        expected[task] = (p.exp() * (p - q)).sum(-1).mean().item()
    tasks = sum(expected[task] for task in NETS) / len(NETS)
    first = learned.history[0]
    assert first[FROM_BASE] == pytest.approx(expected[KEEP], rel=1e-4)
    assert first["divergence"] == pytest.approx((tasks + 0.7 * expected[KEEP]) / 1.7, rel=1e-4)
    assert first["objective"] == pytest.approx(tasks + 0.7 * expected[KEEP], rel=1e-4)


@pytest.fixture
def with_keep(family):
    """The family with rows for the base, as the current directory, and a configuration that learns from them."""
    save_rows(family / "general.jsonl", 20, 77)
    config = configuration(method="expert_merging", keep={"calibration": "general.jsonl", "weight": 0.5})
    config["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    config |= {"watch": {"every": 3, "guard": True}, "trainer": {"max_steps": 3, "accelerator": "cpu"}}
    write(config, "keep.yaml")
    return family


@pytest.mark.reports
def test_a_run_shows_how_far_it_is_from_the_base_everywhere(with_keep, main):
    code, said, complaint = main("check", "--config", "keep.yaml")
    assert (code, complaint) == (0, "")
    assert "rows of keep: 15 to learn from, 5 held out, 0 to measure on" in said
    assert "keep: the base has no head, and teaches by its last hidden states" in said
    code, said, complaint = main("fit", "--config", "keep.yaml", "--run_dir", "run")
    assert code == 0, complaint
    metrics = json.loads(Path("run/metrics.json").read_text())
    far = metrics["divergence"]["learned"]
    assert set(far) == {"mood", "topic", KEEP, "mean"}
    assert far["mean"] == pytest.approx((far["mood"] + far["topic"]) / 2)
    counts = {"calibration": 20, "held out of them": 5, "evaluation": 0}
    assert metrics["run"]["rows"][KEEP].items() >= counts.items()
    assert [FROM_BASE in seen for seen in metrics["history"]] == [True, True]
    sentence = f"From the base the exported merge diverges by {far[KEEP]:.4g} nats on the base's held-out rows (keep)"
    flat = " ".join(said.split())
    assert "on held-out rows with the base's (keep.weight)" in flat  # guard and verdict
    assert sentence in flat
    for file in ("run/report.md", "run/report.html", "run/merged/README.md"):
        text = Path(file).read_text()
        assert f"{far[KEEP]:.4g} nats" in text, file
        assert KEEP in text
    assert "mood 8, topic 8, keep 5" in Path("run/merged/README.md").read_text()
    assert f"{far[KEEP]:.4f}" in Path("run/report.md").read_text()
    saved = read_config(Path("run/config.yaml"), lambda note: None)
    assert saved.keep.calibration == str(with_keep / "general.jsonl")
    assert (saved.keep.weight, saved.task_weights[KEEP]) == (0.5, 1.0)
    shutil.copytree("run", "same")
    assert KEEP in main("compare", "run", "same")[1]
    code, said, complaint = main("reproduce", "run")
    assert (code, complaint) == (0, "")
    assert "identical" in said
    save_rows(with_keep / "general.jsonl", 20, 78)
    code, _, complaint = main("reproduce", "run")
    assert code != 0
    assert "rows of keep" in complaint
