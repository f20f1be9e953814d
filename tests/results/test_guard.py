"""What is exported is not worse on held-out rows than a finished merge that could have been taken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import configuration, write
from support.networks import FAR, divergence_of, merge, merged, summed

from adamerge import load_coefficients
from adamerge.merging.coefficients import Table
from adamerge.merging.grouping import task_wise
from adamerge.results.candidates import IN_WORDS
from adamerge.runs.export_choice import as_exported
from adamerge.runs.read_config import merge_config

pytestmark = pytest.mark.all_scales
SCALES = [round(0.1 * step, 1) for step in range(1, 11)]


def test_the_best_finished_merge_takes_the_place_of_a_worse_learned_one():
    result = merged()
    values = {scale: divergence_of(summed(scale), result._held_out) for scale in [*SCALES, 1 / 3]}
    best = min(values, key=values.get)
    assert result.coefficients.unique().item() == pytest.approx(best)
    assert divergence_of(result.module("task1").state_dict(), result._held_out) == pytest.approx(values[best], rel=1e-5)
    guard = result._learned.guard
    assert guard["taken"] != "learned"
    assert guard["divergence"][guard["taken"]]["mean"] == pytest.approx(values[best], rel=1e-5)
    assert guard["divergence"]["average"]["mean"] == pytest.approx(values[1 / 3], rel=1e-5)
    assert result.coefficients.shape == (4, 3)  # of the tensors that were learned on
    assert result.history[-1]["step"] == 2


def test_a_better_learned_merge_stays():
    watch = {"every": 5, "patience": None, "guard": True}
    kept = merged(optimizer={"class_path": "Adam", "init_args": {"lr": 0.03}}, trainer={"max_steps": 40}, watch=watch)
    assert kept._learned.guard["taken"] == "learned"
    assert len(kept.coefficients.unique()) > 1
    worth = {key: own["mean"] for key, own in kept._learned.guard["divergence"].items()}
    assert min(worth, key=worth.get) == "learned"


def test_without_the_guard_the_worse_merge_stays():
    result = merged(watch={"every": 2, "monitor": "last", "guard": False})
    assert result.coefficients.abs().max() > 2
    assert result._learned.guard is None


def test_the_user_is_told_what_is_exported_and_how():
    with pytest.warns(UserWarning, match=r"guard: divergence .*exported: .* \(every coefficient 0\.\d+ over") as told:
        merge().learn()
    assert len([one for one in told if "guard:" in str(one.message)]) == 1


def test_a_merge_outside_the_feasible_set_is_not_taken():
    feasible = {"class_path": "Simplex", "init_args": {"includes_base": True}}
    result = merged(feasible=feasible, optimizer="SoftFrankWolfe")
    assert "average" in result._learned.guard["divergence"]
    for name in result._learned.guard["divergence"]:
        assert name in ("learned", "average", "task_arithmetic", "task_arithmetic_tuned")
    assert result.coefficients.sum(1).max() <= 1 + 1e-5


def test_over_a_centre_its_own_merge_is_a_candidate_and_what_is_taken_is_what_is_said(tmp_path):
    result = merged(centre="Wudi")
    guard = result._learned.guard
    worth = {key: own["mean"] for key, own in guard["divergence"].items()}
    assert set(worth) == {"learned", "centre", "average", "task_arithmetic", "task_arithmetic_tuned"}
    assert guard["taken"] == min(worth, key=worth.get)
    weights = result.module("task1").state_dict()
    assert divergence_of(weights, result._held_out) == pytest.approx(worth[guard["taken"]], rel=1e-4)
    result.save_coefficients(tmp_path / "c.safetensors")
    table = load_coefficients(tmp_path / "c.safetensors")
    assert table.plain == (guard["taken"] != "centre")
    assert table.centre == ("Wudi" if guard["taken"] == "centre" else "base")


def test_a_run_that_took_a_finished_merge_exports_and_measures_it_again(family, main):
    config = configuration(method="expert_merging", centre="Isotropic", optimizer=FAR, lr_scheduler=None)
    config["models"] = config["models"][:2]
    config |= {"watch": {"monitor": "last", "guard": True}, "trainer": {"max_steps": 1, "accelerator": "cpu"}}
    code, said, complaint = main("fit", "--config", write(config), "--run_dir", "run")
    assert code == 0, complaint
    assert "warning: guard: divergence on held-out rows: the learned merge " in said
    metrics, recipe = (json.loads(Path(f"run/{name}.json").read_text()) for name in ("metrics", "recipe"))
    assert metrics["guard"] == recipe["guard"]
    assert metrics["guard"]["taken"] != "learned"
    assert metrics["divergence"]["learned"]["mean"] == pytest.approx(
        metrics["guard"]["divergence"][metrics["guard"]["taken"]]["mean"], rel=1e-4
    )
    card = Path("run/merged/README.md").read_text()
    assert f"exported instead of what was learned: {IN_WORDS[metrics['guard']['taken']]}, which is better" in card
    assert main("export", "run", "again")[0] == 0
    for file in Path("run/merged").glob("*.safetensors"):
        written, again = load_file(file), load_file(Path("again") / file.name)
        assert all(torch.equal(tensor, again[name]) for name, tensor in written.items())
    assert main("evaluate", "run")[0] == 0
    assert json.loads(Path("run/metrics.json").read_text())["learned"] == pytest.approx(metrics["learned"])


def test_a_saved_merge_of_plain_task_vectors_has_columns_for_experts_alone():
    models = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    config = merge_config({"base_model": "base", "models": models, "centre": "Isotropic", "beside": ["base", "Wudi"]})
    table = Table(torch.full((1, 2), 0.3), task_wise(["w"]), ("mood", "topic"), "base", plain=True)
    found = as_exported(config, table)
    assert (found.columns, found.centre_name) == (table.experts, table.centre)
    assert as_exported(config, table._replace(plain=False)) is config
