"""Interrupted or killed at any moment and resumed: the same coefficients bit for bit."""

import csv
import json
import random
import signal
import time

import pytest
import torch
import yaml
from support.processes import Strike, run, start

from adamerge.cli import INTERRUPTED

STEPS = 8
ENOUGH = 20
"""Steps before which learning stops early."""
LOOK = "adamerge.calibration.agreement.HeldOut.measure"
"""Called once whenever the coefficients are measured on held-out rows."""


@pytest.fixture(scope="module")
def family(text_family):
    """The family with a configuration of more steps."""
    config = yaml.safe_load((text_family / "merge.yaml").read_text())
    config["trainer"]["max_steps"] = STEPS
    config["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    config["watch"] = {"every": 2, "patience": None}
    (text_family / "long.yaml").write_text(yaml.safe_dump(config))
    config["watch"], config["trainer"]["max_steps"] = {"every": 2, "patience": 2, "monitor": "objective"}, ENOUGH
    config["optimizer"] = {"class_path": "SGD", "init_args": {"lr": 40.0}}  # jumps about, and so gets worse soon
    (text_family / "early.yaml").write_text(yaml.safe_dump(config))
    config["method"], config["init"], config["centre"] = "expert_merging++", "closed_form", "regmean"
    config["watch"], config["optimizer"] = {"every": 2}, {"class_path": "Adam", "init_args": {"lr": 0.05}}
    config["chunks"], config["trainer"]["max_steps"] = {"budget": 4, "first_steps": 4}, 10
    (text_family / "staged.yaml").write_text(yaml.safe_dump(config))
    return text_family


@pytest.fixture(scope="module")
def whole(family, tmp_path_factory):
    """Run directories of uninterrupted runs by configuration, and how long the longer one took."""
    place = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    for name in ("early", "staged", "long"):
        began = time.monotonic()
        assert run(fit(name, place / name), family, place / f"{name}.txt") == 0, (place / f"{name}.txt").read_text()
    return place, time.monotonic() - began


def fit(config, run_dir, *more):
    return ["fit", "--config", f"{config}.yaml", "--run_dir", str(run_dir), *more]


def go_on(run_dir):
    return ["fit", "--config", str(run_dir / "config.yaml"), "--ckpt_path", "last"]


def learned(run_dir):
    """The coefficients' file, byte by byte, and what was seen on the way to them."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    history = [{key: value for key, value in look.items() if key != "s/step"} for look in metrics["history"]]
    return (run_dir / "coefficients.safetensors").read_bytes(), metrics["best_step"], history


def is_whole(run_dir):
    assert (run_dir / "recipe.json").exists()
    assert (run_dir / "merged/mood/model.safetensors").exists()
    return not list(run_dir.rglob("*.partial"))


def pytest_generate_tests(metafunc):
    """Many moments where everything was asked for, else some; the moments by name below are always tried."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(20 if metafunc.config.getoption("--full") else 2))


def test_killed_at_a_random_moment(family, whole, tmp_path, seed):
    place, seconds = whole
    process = start(fit("long", tmp_path / "run"), family, tmp_path / "log.txt")
    time.sleep(random.Random(seed).uniform(0.1, 0.9) * seconds)
    process.kill()
    process.join()
    begun = (tmp_path / "run/config.yaml").exists()
    again = go_on(tmp_path / "run") if begun else fit("long", tmp_path / "run")
    assert run(again, family, tmp_path / "log.txt") == 0, (tmp_path / "log.txt").read_text()
    assert learned(tmp_path / "run") == learned(place / "long")
    assert is_whole(tmp_path / "run")


def struck(strikes, config, family, run_dir):
    """Strike a run at one moment after another, resume it each time, and at last let it end; yields after each."""
    command = fit(config, run_dir)
    for number, strike in enumerate(strikes):
        log = run_dir.parent / f"{number}.txt"
        expected = -signal.SIGKILL if strike.number == signal.SIGKILL else INTERRUPTED
        assert run(command, family, log, strike) == expected, (strike, log.read_text())
        yield strike, log.read_text()
        command = go_on(run_dir)
    log = run_dir.parent / "log.txt"
    assert run(command, family, log) == 0, log.read_text()


STRIKES = [
    Strike("adamerge.runs.learn_merge.build_model"),  # config.yaml is written, and nothing else
    Strike(LOOK, call=1),  # the first look
    Strike("adamerge.learning.trainer.torch.save", call=2),  # of a checkpoint
    Strike(LOOK, call=2),
    Strike("adamerge.storage.atomic_files.os.fsync", call=3),
    Strike("adamerge.runs.fit.save_coefficients"),
    Strike("adamerge.runs.fit.compare"),
    Strike("adamerge.runs.fit.recipe"),
    Strike("adamerge.results.write_beside.write_text", call=3),
]


@pytest.mark.long
def test_killed_at_delicate_moments(family, whole, tmp_path):
    assert len(list(struck(STRIKES, "long", family, tmp_path / "run"))) == len(STRIKES)
    assert learned(tmp_path / "run") == learned(whole[0] / "long")
    assert is_whole(tmp_path / "run")
    assert "the export went on from one that was interrupted" in (tmp_path / "log.txt").read_text()


FIRST_STAGE = [
    Strike("adamerge.calibration.regmean.grams_of_experts"),
    Strike("adamerge.storage.kept.write_text"),  # the centre is there, its key is not
    Strike("adamerge.calibration.closed_form.closed_form"),
    Strike(LOOK, call=2),
    Strike(LOOK, signal.SIGINT, call=2),
    Strike("adamerge.learning.kept_stages.write_text", call=2),
]
SECOND_STAGE = [Strike(LOOK, call=2), Strike(LOOK, signal.SIGINT, call=2)]


@pytest.mark.long
def test_stopped_in_both_stages(family, whole, tmp_path):
    strikes = FIRST_STAGE + SECOND_STAGE
    second = ["second stage" in said for _, said in struck(strikes, "staged", family, tmp_path / "run")]
    assert second == [False] * len(FIRST_STAGE) + [True] * len(SECOND_STAGE)
    assert learned(tmp_path / "run") == learned(whole[0] / "staged")
    assert is_whole(tmp_path / "run")


def test_two_stages_use_the_budget_and_both_are_reported(whole):
    from adamerge.merging.coefficients import load_coefficients

    run_dir = whole[0] / "staged"
    first = load_coefficients(run_dir / "first_stage/coefficients.safetensors").grouping
    chunked = load_coefficients(run_dir / "coefficients.safetensors").grouping
    matrices = sum(len(rows.unique()) > 1 for rows in chunked.rows.values())
    assert len(chunked) == 4 * len(first)
    assert 0 < matrices < len(first)
    with (run_dir / "first_stage/importance.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["parameter"] for row in table} == set(first.groups)
    assert sum(float(row["importance"]) for row in table) == pytest.approx(1)
    history = json.loads((run_dir / "metrics.json").read_text())["history"]
    assert [look["step"] for look in history] == [0, 2, 4, 6, 8, 10]
    assert history[-1]["objective"] < history[0]["objective"]


INTERRUPTS = {
    "on the way": [
        Strike("adamerge.runs.learn_merge.divide", signal.SIGINT),  # before learning
        Strike(LOOK, signal.SIGINT, call=1),
        Strike("adamerge.learning.merge_module.surrogate", signal.SIGTERM, call=3),
        Strike(LOOK, signal.SIGINT, call=1),
        Strike("adamerge.results.write_beside.write_text", signal.SIGINT, call=3),
    ],
    "in the last step": [Strike("adamerge.learning.merge_module.surrogate", signal.SIGINT, call=STEPS)],
}


@pytest.mark.parametrize("when", INTERRUPTS)
def test_interrupted(family, whole, tmp_path, when):
    for strike, said in struck(INTERRUPTS[when], "long", family, tmp_path / "run"):
        assert f"interrupted. Resume with: adamerge fit --config {tmp_path}/run/config.yaml --ckpt_path last" in said
        assert "Traceback" not in said
        assert "weights_only" not in said
        assert len(list((tmp_path / "run").rglob("*.partial"))) == ("write_beside" in strike.function)  # the export's
    assert learned(tmp_path / "run") == learned(whole[0] / "long")
    assert is_whole(tmp_path / "run")


def test_a_second_interrupt_stops_at_once(family, whole, tmp_path):
    strike = Strike("adamerge.learning.merge_module.surrogate", signal.SIGINT, call=5, times=2)
    assert run(fit("long", tmp_path / "run"), family, tmp_path / "log.txt", strike) == INTERRUPTED
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    assert run(go_on(tmp_path / "run"), family, tmp_path / "log.txt") == 0
    assert learned(tmp_path / "run") == learned(whole[0] / "long")


def test_interrupted_before_anything_is_written(family, tmp_path):
    strike = Strike("adamerge.runs.learn_merge.load_data", signal.SIGINT)
    assert run(fit("long", tmp_path / "run"), family, tmp_path / "log.txt", strike) == INTERRUPTED
    assert "interrupted. Nothing was written." in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "run").exists()


def test_a_run_that_stopped_early_is_resumed_to_the_same(family, whole, tmp_path):
    expected = learned(whole[0] / "early")
    assert expected[1] < expected[2][-1]["step"] < ENOUGH  # it did stop early
    strikes = [Strike(LOOK, call=3), Strike("adamerge.runs.fit.compare")]
    assert len(list(struck(strikes, "early", family, tmp_path / "run"))) == len(strikes)
    assert learned(tmp_path / "run") == expected


def test_more_steps_go_on_from_the_end(family, whole, tmp_path):
    steps = ("--trainer.max_steps", "5")
    assert run(fit("long", tmp_path / "run", *steps), family, tmp_path / "log.txt") == 0
    more = [*go_on(tmp_path / "run"), "--trainer.max_steps", str(STEPS)]
    assert run(more, family, tmp_path / "log.txt") == 0, (tmp_path / "log.txt").read_text()
    assert learned(tmp_path / "run") == learned(whole[0] / "long")


def test_resuming_a_finished_run_changes_nothing(family, whole, tmp_path):
    before = learned(whole[0] / "early")
    assert run(go_on(whole[0] / "early"), family, tmp_path / "log.txt") == 0
    assert learned(whole[0] / "early") == before


def test_a_checkpoint_holds_coefficients_and_little_else(whole):
    kept = torch.load(whole[0] / "long/checkpoints/last.ckpt", weights_only=True)
    assert list(kept["state_dict"]) == ["coefficients"]
    assert kept["global_step"] <= STEPS
    assert set(kept["callbacks"]) >= {"KeepBest"}
    assert (whole[0] / "long/checkpoints/last.ckpt").stat().st_size < 50_000


def test_a_damaged_checkpoint_is_refused_by_name(family, tmp_path):
    strike = Strike("adamerge.runs.fit.save_coefficients")
    assert run(fit("long", tmp_path / "run"), family, tmp_path / "log.txt", strike) == -signal.SIGKILL
    for name, content in {"empty": b"", "torn": b"PK\x03\x04 and nothing more"}.items():
        (tmp_path / "run/checkpoints/last.ckpt").write_bytes(content)
        assert run(go_on(tmp_path / "run"), family, tmp_path / f"{name}.txt") == 2
        said = (tmp_path / f"{name}.txt").read_text()
        assert "run/checkpoints/last.ckpt: expected" in said
        assert "is damaged (" in said
        assert "Traceback" not in said
