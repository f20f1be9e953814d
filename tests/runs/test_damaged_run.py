"""Files that a run wrote, damaged in any way: named with the way on, or computed again, and never a traceback."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support.mutations import tried

from adamerge import cli
from adamerge.learning.kept_stages import read_stage
from adamerge.learning.trainer import WholeCheckpoints
from adamerge.merging.coefficients import load_coefficients
from adamerge.runs.begun_run import check_run_dir, check_unedited
from adamerge.runs.finished import RunFinishedError, check_unfinished
from adamerge.runs.inputs import changed_rows, check_coefficients, check_inputs
from adamerge.runs.open_run import read_metrics
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.kept import Keeper, key_file
from adamerge.storage.weights import MappedFiles
from adamerge.types import ConfigError


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of a finished run's small files."""
    place = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(finished / "run", place, ignore=shutil.ignore_patterns("merged", "*.png"))
    return RunDirectory(place)


@pytest.fixture
def examples(request):
    return 6000 if request.config.getoption("--full") else 40


def test_the_configuration(run, examples):
    resolved = run.config.read_text()

    def read(path):
        cli.parse_file(path)
        check_unedited(run)
        check_run_dir(run, resolved, resume=True)

    assert all(
        tried(
            run.config,
            read,
            examples // 4,
            "yaml",
            names=str(run.path),
            advice=r"config\.yaml(:\d+)?: |start a new run",
        )
    )


def test_the_hashes_of_inputs(run, examples):
    now = json.loads(run.inputs.read_bytes())
    data = SimpleNamespace(fingerprints={task: {"evaluation": "x"} for task in now["data"]})

    def read(path):
        changed_rows(path, data)
        check_inputs(now, path)

    assert all(tried(run.inputs, read, 3 * examples, "json"))


def test_the_recipe(run, examples):
    resolved, said = run.config.read_text(), []

    def read(path):
        try:
            check_unfinished(run, resolved, said.append)
        except RunFinishedError:
            said.append("")
        if path.exists():
            check_coefficients(run)

    accepted, refused = tried(run.recipe, read, examples, "json")
    assert accepted
    assert refused
    assert all(not line or ("recipe.json" in line and "writes it again" in line) for line in said)
    assert any(said)


def test_coefficients(run, examples):
    accepted, refused = tried(run.coefficients, load_coefficients, examples)
    assert refused > accepted / 2  # a digit of a finite number may differ


@pytest.mark.parametrize("key", ["groups", "experts", "parameters", "centre"])
def test_the_names_of_coefficients(run, tmp_path, key, examples):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(run.coefficients, framework="pt") as file:
        metadata = file.metadata()
    tensors, document = load_file(run.coefficients), tmp_path / "names.json"
    document.write_text(metadata[key])

    def read(path):
        if path.is_file():
            changed = {**metadata, key: path.read_bytes().decode(errors="replace")}
            save_file(tensors, tmp_path / "coefficients.safetensors", changed)
            load_coefficients(tmp_path / "coefficients.safetensors")

    _, refused = tried(document, read, examples // 2, "json" if key != "centre" else "", names="coefficients")
    assert refused


def test_coefficients_that_are_not_finite_are_refused(run, tmp_path):
    from adamerge.merging.coefficients import save_coefficients

    table = load_coefficients(run.coefficients)
    table.coefficients[0, 0] = torch.nan
    save_coefficients(tmp_path / "c.safetensors", table.coefficients, table.grouping, table.experts)
    with pytest.raises(ConfigError, match=r"c\.safetensors: .*not finite.*Restore"):
        load_coefficients(tmp_path / "c.safetensors")


def test_measurements(run, examples):
    assert all(tried(run.metrics, read_metrics, examples, "json"))


def test_a_checkpoint_of_learning(run, examples):
    file = next(run.checkpoints.rglob("last.ckpt"))
    accepted, refused = tried(file, WholeCheckpoints().load_checkpoint, examples)
    assert refused > accepted


def test_other_checkpoints_are_refused(tmp_path):
    for other in ({}, [], {"state_dict": {}}, torch.zeros(2)):
        torch.save(other, tmp_path / "last.ckpt")
        with pytest.raises(ConfigError, match=r"last\.ckpt: .*is damaged.*delete it"):
            WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt")


KEY = {"experts": "a", "rows": "b"}


@pytest.mark.parametrize("spoilt", ["result", "key"])
def test_stored_results_are_computed_again(tmp_path, spoilt, examples):
    result, whole = tmp_path / "result.txt", b"content of a result"

    def make(path):
        path.write_bytes(whole)

    Keeper().store(result, KEY, make)

    def read(path):
        assert Keeper(accept_unkeyed=True)(result, KEY, make, Path.read_bytes) == whole

    assert tried(result if spoilt == "result" else key_file(result), read, examples, "json" * (spoilt == "key"))[1] == 0


def test_stored_tensors_are_computed_again(run, tmp_path, examples):
    result, whole = tmp_path / "t.safetensors", run.coefficients.read_bytes()
    expected = load_file(run.coefficients)
    Keeper().store(result, KEY, lambda path: path.write_bytes(whole) and None)

    def read(path):
        found = Keeper()(result, KEY, lambda place: place.write_bytes(whole) and None, lambda p: MappedFiles([p]))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    assert tried(result, read, examples)[1] == 0


@pytest.mark.parametrize("name", ["learned.json", "coefficients.safetensors", "importance.csv"])
def test_the_first_stage_is_learned_again(tmp_path, name, examples):
    stage = tmp_path / "first_stage"
    shutil.copytree(Path(__file__).parents[1] / "fixtures/runs_0_1_0/finished/first_stage", stage)
    found = []

    def read(path):
        intact = {file: file.read_bytes() for file in stage.iterdir() if file.is_file()}
        found.append(Keeper(accept_unkeyed=True).find(stage, KEY, read_stage))
        stage.mkdir(exist_ok=True)
        for file, content in intact.items():
            file.write_bytes(content)

    assert tried(stage / name, read, examples // 2, "json" * name.endswith("json"))[1] == 0
    assert any(one is None for one in found)


def test_a_file_in_place_of_the_folder_of_results_is_named(tmp_path):
    (tmp_path / "targets").touch()
    with pytest.raises(ConfigError, match=r"targets: expected a folder.*Move the file away"):
        Keeper()(tmp_path / "targets/a.txt", KEY, lambda path: path.write_text("x"), Path.read_text)


@pytest.mark.parametrize("folder", ["checkpoints", "logs"])
def test_a_file_in_place_of_a_folder_is_named_before_the_run_goes_on(run, folder):
    place = run.path / folder
    aside = place.rename(place.with_suffix(".aside")) if place.exists() else None
    place.touch()
    with pytest.raises(ConfigError, match=f"{folder}: expected a folder.*Move the file away"):
        check_run_dir(run, run.config.read_text(), resume=True)
    place.unlink()
    if aside:
        aside.rename(place)


def test_a_configuration_of_zeros_has_a_way_on(tmp_path):
    (tmp_path / "config.yaml").write_bytes(bytes(64))
    with pytest.raises(ConfigError, match=r"config\.yaml: .*Restore it, or start a new run in another run_dir\."):
        check_run_dir(RunDirectory(tmp_path), "method: ties", resume=True)
