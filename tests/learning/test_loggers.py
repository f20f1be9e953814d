"""Lightning's loggers by configuration: what is learned is logged step by step, in the run's folder or another."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.families import configuration, write

from adamerge import cli
from adamerge.runs.paths import anchored

SHORT = {"max_steps": 4, "accelerator": "cpu"}


def configured(logger, **more):
    return write(configuration(trainer={**SHORT, "logger": logger, **more}))


def logged(folder):
    (file,) = folder.rglob("metrics.csv")
    with file.open() as rows:
        return list(csv.DictReader(rows))


def test_csv_has_a_row_for_every_step_with_what_was_measured_there(family, main):
    """As metrics.json has it, where held-out rows were evaluated: at the start, every three steps and at the end."""
    code, _, complaint = main("fit", configured("CSVLogger"), "--run_dir", "run")
    assert (code, complaint) == (0, "")
    rows = {int(row["step"]): row for row in logged(family / "run" / "logs")}
    assert [*rows] == [0, 1, 2, 3, 4]
    assert [step for step, row in rows.items() if row["loss"]] == [1, 2, 3, 4]
    assert [step for step, row in rows.items() if row["agreement"]] == [0, 3, 4]
    history = json.loads(Path("run/metrics.json").read_text())["history"]
    for seen in history:
        for key, value in seen.items():
            assert float(rows[seen["step"]][key]) == pytest.approx(value)
    assert len({row["c_max"] for row in rows.values()}) == len(rows)  # of the iterate, which each step moves


def test_steps_of_later_stages_are_counted_on_and_logged_once(family, main):
    changes = {"method": "expert_merging++", "chunks": {"first_steps": 2, "budget": 2}}
    file = write(configuration(**changes, trainer={**SHORT, "logger": "CSVLogger"}))
    code, _, complaint = main("fit", file, "--run_dir", "run")
    assert (code, complaint) == (0, "")
    assert Path("run/first_stage").is_dir()
    assert [int(row["step"]) for row in logged(family / "run" / "logs")] == [0, 1, 2, 3, 4]
    former = (family / "run" / "config.yaml").read_text()
    assert "class_path: pytorch_lightning.loggers.CSVLogger" in former


def test_options_and_several_loggers(family, main):
    named = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "elsewhere", "name": "a"}}
    other = {"class_path": "CSVLogger", "init_args": {"save_dir": "elsewhere", "name": "b", "prefix": "my"}}
    assert main("fit", configured([named, other]), "--run_dir", "run")[0] == 0
    assert not (family / "run" / "logs").exists()
    assert len(logged(family / "elsewhere" / "a")) == len(logged(family / "elsewhere" / "b"))
    assert "my-loss" in logged(family / "elsewhere" / "b")[0]
    assert (family / "run" / "config.yaml").read_text().count(f"save_dir: {family / 'elsewhere'}") == 2 + 2  # and saved


@pytest.mark.parametrize(
    ("place", "saved"), [("logs", "{here}/logs"), ("/a/logs", "/a/logs"), ("s3://a/logs", "s3://a/logs"), (None, None)]
)
def test_a_saved_configuration_names_the_same_place_from_every_folder(place, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"name": "a"} if place is None else {"name": "a", "save_dir": place}
    logger = {"class_path": "CSVLogger", "init_args": given}
    wanted = None if saved is None else saved.format(here=tmp_path)
    for asked in (logger, [logger, None, {"class_path": "CSVLogger"}]):
        found = anchored({"base_model": "b", "models": [], "run_dir": "run", "trainer": {"logger": asked}})["trainer"]
        own = found["logger"][0] if isinstance(asked, list) else found["logger"]
        assert own["init_args"].get("save_dir") == wanted
    assert found["logger"][1:] == [None, {"class_path": "CSVLogger"}]


@pytest.mark.parametrize(
    ("logger", "complaint"),
    [
        ("CSVLoger", "Did you mean CSVLogger?"),
        ({"class_path": "CSVLogger", "init_args": {"folder": "a"}}, "there is no such key"),
        ("os.system", "outside torch, Lightning and adamerge"),
        *(
            ({"class_path": "CSVLogger", "init_args": options}, complaint)
            for options, complaint in (
                (
                    {"flush_logs_every_n_steps": 0},
                    "init_args.flush_logs_every_n_steps: expected a value that CSVLogger",
                ),
                ({"name": "a" * 256}, "init_args.name: expected a value that CSVLogger accepts"),
                ({"name": "a", "version": "../../x"}, "init_args.version: expected a folder inside save_dir, found"),
                ({"name": "/a"}, "init_args.name: expected a folder inside save_dir, found"),
                ({"save_dir": "lo\0gs"}, "gs': cannot be a folder (embedded null byte)"),
                ({"save_dir": "merge.yaml"}, "merge.yaml is no folder, so nothing can be written there"),
                ({"save_dir": "/proc/x"}, "trainer.logger: /proc/x"),
                ({"save_dir": "a" * 256}, "longer than 255 bytes). Choose another save_dir"),
            )
        ),
    ],
)
def test_mistakes_are_said(family, main, logger, complaint):
    code, said, error = main("check", configured(logger), "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert complaint in said + error


@pytest.mark.parametrize(
    ("name", "package"), [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")]
)
def test_what_is_not_installed_is_refused_before_anything_is_learned(family, main, name, package):
    """Or it is installed: then it is accepted, and nothing is written by `check`."""
    before = {path for path in Path().rglob("*") if path.is_file()}
    file = configured(name)
    code, said, error = main("check", file, "--run_dir", "run")
    if code:
        wanted = f": expected a logger whose package is installed, found {name}. Install it: pip install"
        assert f"{wanted} {package};" in said + error
    assert {path for path in Path().rglob("*") if path.is_file()} <= before | {Path(file)}


def test_tensorboard_writes_into_the_run(family, main):
    if not (find_spec("tensorboard") or find_spec("tensorboardX")):
        pytest.skip("TensorBoard is not installed")
    assert main("fit", configured("TensorBoardLogger"), "--run_dir", "run")[0] == 0
    assert list((family / "run" / "logs").rglob("events.out.tfevents.*"))
