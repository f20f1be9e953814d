"""The Python interface: the example runs as it stands, learns what the command learns, and accepts what users hold."""

import ast
import doctest
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from support.families import TASKS, configuration
from support.processes import run_script
from transformers import AutoModelForImageClassification

import adamerge
from adamerge import ConfigError, Expert, Merge, api, load_coefficients
from adamerge.merging.coefficients import Table
from adamerge.runs.presets import DEFAULT, PRESETS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLE, *_ = (code.strip() for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))


def experts():
    return [Expert(task, calibration=f"{task}.jsonl", evaluation=f"{task}_test.jsonl") for task in TASKS]


def settings():
    """merge.yaml of the current directory without base and experts."""
    return {key: value for key, value in configuration().items() if key not in ("base_model", "models")}


def same(table: Table, result):
    return torch.equal(table.coefficients, result.coefficients) and table.grouping.groups == result.groups


# The example


def test_example_learns_what_the_command_learns(demo_folder, main, tmp_path, monkeypatch):
    for key, value in {"trainer.max_steps": 5, "chunks": {"budget": 8, "first_steps": 3}}.items():
        monkeypatch.setitem(PRESETS[DEFAULT], key, value)
    (tmp_path / "demo").symlink_to(demo_folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(EXAMPLE, "README.md", "exec"), names)
    result = names["result"]
    assert result.coefficients.shape == (len(result.groups), 7)  # four experts, the base and two finished merges
    assert AutoModelForImageClassification.from_pretrained("merged/rotated").config.id2label[9] == "9"
    assert sorted(os.listdir()) == ["demo", "merged"]
    models = [{"model": f"demo/models/{t}", "calibration": f"demo/data/{t}/calibration"} for t in names["tasks"]]
    Path("merge.yaml").write_text(yaml.safe_dump({"base_model": "demo/models/base", "models": models}))
    code, _, _ = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == 0
    assert same(load_coefficients("run/coefficients.safetensors"), result)


def test_example_is_five_lines():
    _, _, body = EXAMPLE.partition("\ntasks = ")
    assert len(body.splitlines()) <= 5


def test_package_shows_the_same_example():
    assert textwrap.indent(EXAMPLE, "    ", lambda line: bool(line.strip())) in adamerge.__doc__


# Public names


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import adamerge; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names] == ["adamerge"]


def test_type_checkers_see_the_names_that_exist():
    tree = ast.parse(Path(adamerge.__file__).read_text(encoding="utf-8"))
    seen = {
        name.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adamerge")
        for name in node.names
    }
    assert set(seen) == set(adamerge.__all__)
    for name, module in seen.items():
        assert getattr(adamerge, name) is getattr(importlib.import_module(module), name)


def test_names_are_few_and_listed():
    assert len(adamerge.__all__) <= 20
    assert set(adamerge.__all__) < set(dir(adamerge))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", adamerge.__version__)
    with pytest.raises(AttributeError, match=r"no attribute 'Merged'.*Merge"):
        adamerge.Merged  # noqa: B018


@pytest.mark.parametrize("name", adamerge.__all__)
def test_every_name_is_documented_by_an_example_that_runs(name):
    public = getattr(adamerge, name)
    module = importlib.import_module(public.__module__)
    found = [test for test in doctest.DocTestFinder().find(public, name, module) if test.examples]
    assert found
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_old_names_resolve_and_say_where_they_went():
    for name in dir(api):
        with pytest.warns(FutureWarning, match=rf"adamerge\.api\.{name} has moved: from (\S+) import") as caught:
            found = getattr(api, name)
        (module,) = re.findall(r"from (\S+) import", str(caught[0].message))[:1]
        assert getattr(importlib.import_module(module), name) is found
        assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="Mergers"):
        api.Mergers  # noqa: B018


def test_the_old_interface_is_complete():
    """Names of version 0.1.0."""
    old = (
        "LBFGSB Batching Box Calibration ConfigError CrossEntropy DataSource Entropy FrankWolfe HiddenAlignment "
        "IncompatibleExpertsError Learned Learning LogitAlignment MergeConfig MergedModel ModelConfig "
        "ProjectedGradient PseudoAnswers Simplex SoftFrankWolfe Split TensorRows Unbounded Watching answer block_wise "
        "build_model compare curve describe divide export from_modules heat_map hold_out inspect_weights learn "
        "load_coefficients load_data open_experts row_blocks save_coefficients table task_vectors task_wise "
        "tensor_wise uniform"
    )
    assert dir(api) == sorted(old.split())


def test_experts_take_the_keys_of_the_yaml():
    from adamerge.runs.model_config import ModelConfig

    assert list(inspect.signature(Expert).parameters) == list(inspect.signature(ModelConfig).parameters)


# Learning


def test_learn_and_fit_and_the_command_agree(family, main):
    code, _, _ = main("fit", "--config", "merge.yaml", "--run_dir", "command")
    assert code == 0
    table = load_coefficients("command/coefficients.safetensors")
    merge = Merge("base", experts(), **settings())
    result = merge.learn()
    assert same(table, result)
    done = merge.fit(Path("python"), console=Console(quiet=True))
    assert torch.equal(done.learned.coefficients, table.coefficients)
    assert {file.name for file in Path("python").iterdir()} == {file.name for file in Path("command").iterdir()}
    comparison = result.compare()
    assert comparison.scores == done.comparison.scores
    assert result.scores() == comparison.scores["learned"]
    assert result.agreement()["mood"] == comparison.agreement["learned"]["mood"]


def test_a_run_is_resumed(family):
    short = Merge("base", experts(), **{**settings(), "trainer": {"max_steps": 4, "accelerator": "cpu"}})
    short.fit("run", console=Console(quiet=True))
    done = Merge("base", experts(), **settings()).fit("run", resume=True, console=Console(quiet=True))
    whole = Merge("base", experts(), **settings()).learn()
    assert torch.equal(done.learned.coefficients, whole.coefficients)
    assert done.learned.history[-1]["step"] == 6


def test_experts_may_be_written_in_several_ways(family):
    rows = {task: Path(f"{task}.jsonl") for task in TASKS}
    ways = [
        [Expert(Path(task), calibration=path) for task, path in rows.items()],
        [{"model": task, "calibration": {"path": str(path), "text": "text"}} for task, path in rows.items()],
        {task: Expert(task, calibration=str(path)) for task, path in rows.items()},
    ]
    quick = {"method": "adamerging", "trainer": {"max_steps": 2}}
    first, *others = (Merge(Path("base"), way, **quick).learn() for way in ways)
    for other in others:
        assert other.experts == first.experts
        assert torch.equal(other.coefficients, first.coefficients)
    assert Merge("base", list(TASKS), method="ties").learn().experts == TASKS


@pytest.mark.parametrize("steps", [0, 3])
def test_max_steps_is_what_runs(family, steps):
    result = Merge("base", experts(), method="expert_merging", trainer={"max_steps": steps}, watch={"every": 1}).learn()
    assert [look["step"] for look in result.history] == list(range(steps + 1) if steps else [])


def test_mistakes_are_reported_at_once(family):
    with pytest.raises(ConfigError) as refused:
        Merge("base", experts(), trainer={"max_step": 2}, grouping="layer")
    assert "max_steps" in str(refused.value)
    assert "grouping" in str(refused.value)


def test_what_learn_needs_on_disk_goes_with_its_result(family, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    result = Merge("base", experts(), method="doge").learn()
    assert set(tmp_path.iterdir()) - before
    result.export("merged")
    del result
    assert set(tmp_path.iterdir()) == before


# Messages


QUIET = """
from adamerge import Expert, Merge

experts = [Expert(task, calibration=f"{task}.jsonl") for task in ("mood", "topic")]
Merge("base", experts, method="adamerging", trainer={"max_steps": 2}).learn().export("merged")
"""


def test_nothing_is_printed_and_no_bar_is_drawn(family):
    assert run_script(QUIET, family, "said.txt") == 0
    assert Path("said.txt").read_text() == ""


def test_notes_are_warnings_unless_there_is_a_console(family):
    merge = Merge("base", experts(), method="adamerging", init=2.0, trainer={"max_steps": 1})
    with pytest.warns(UserWarning, match="outside"):
        merge.learn()
    console = Console(record=True, file=io.StringIO(), width=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge.learn(console=console)
    said = console.export_text()
    assert "outside" in said
    assert "head of mood" in said


def test_export_refuses_what_exists(family):
    result = Merge("base", experts(), method="average").learn()
    with pytest.raises(ConfigError, match=r"base: exists already"):
        result.export("base")


@pytest.mark.parametrize("name", ["mood/model.safetensors", "base/tokenizer.json", "topic/config.json"])
def test_export_refuses_another_content_at_the_same_time_of_writing(family, name):
    """As the command does: one byte in place, and the former time."""
    result = Merge("base", ["mood", "topic"], method="average").learn()
    file, times = Path(name), (Path(name).stat().st_atime_ns, Path(name).stat().st_mtime_ns)
    with file.open("r+b") as opened:
        opened.seek(-3, os.SEEK_END)
        byte = opened.read(1)
        opened.seek(-3, os.SEEK_END)
        opened.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=times)
    who = "base" if name.startswith("base") else f"expert {file.parent}"
    with pytest.raises(ConfigError, match=rf"{who} \({file}\): expected the content that was learned from"):
        result.export("merged")
    assert not Path("merged").exists()


def test_there_must_be_something_to_measure(family):
    result = Merge("base", list(TASKS), method="average").learn()
    with pytest.raises(ConfigError, match="evaluation: expected labeled rows"):
        result.scores()


# In memory


def test_a_run_directory_wants_paths(family):
    merge = Merge(torch.nn.Linear(1, 1), {"one": torch.nn.Linear(1, 1)}, method="average")
    with pytest.raises(ConfigError, match=r"base_model, model of one: .* use learn\(\)"):
        merge.fit("run")
    assert not Path("run").exists()


def test_a_model_in_memory_wants_a_name():
    with pytest.raises(ConfigError, match="Linear in memory has no name"):
        Merge("base", [Expert(torch.nn.Linear(1, 1))])
