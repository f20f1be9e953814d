"""A configuration names classes of torch, Lightning and this package; other code is imported only if it is allowed."""

import gc
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adamerge import Merge
from adamerge.objectives import Objective
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.runs.class_names import PACKAGES, find_class, import_class, known_classes
from adamerge.runs.read_config import merge_config, merge_layers, read_config
from adamerge.runs.read_yaml import read_yaml
from adamerge.runs.save_config import resolved
from adamerge.types import ConfigError

MINIMAL = {"base_model": "base", "models": [{"model": "mood"}, {"model": "topic"}]}
MODULE = """
from pathlib import Path
Path("imported").touch()

import torch
from adamerge.objectives import Entropy
from adamerge.optim.feasible_sets import Box

class Steps(torch.optim.SGD): pass
class Halves(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self): return [lr / 2 for lr in self.base_lrs]
class Calm(Entropy): pass
class Case(Box): pass
class Marks:
    def __init__(self, *args, **options): Path("called").touch()
def mark(*args, **options): Path("called").touch()
"""

NAMED = [  # key, the class below that it may name, and how a configuration writes {}
    ("optimizer", "Steps", "optimizer: {}"),
    ("optimizer", "Steps", "optimizer: {{class_path: {}, init_args: {{lr: 0.1}}}}"),
    ("optimizer", "Steps", "optimizer.class_path: {}"),
    ("lr_scheduler", "Halves", "lr_scheduler: {}"),
    ("lr_scheduler", "Halves", "lr_scheduler: {{class_path: {}}}"),
    ("objective", "Calm", "objective: {}"),
    ("objective", "Calm", "objective: {{class_path: Sum, init_args: {{terms: [Entropy, {}]}}}}"),
    ("objective", "Calm", "objective: {{class_path: Sum, init_args: {{terms: [{{class_path: {}}}]}}}}"),
    ("feasible", "Case", "feasible: {}"),
]
OTHERS = [  # nothing of this kind can be named here at all
    ("centre", "centre: {}"),
    ("task_vectors", "task_vectors: {{class_path: {}}}"),
    ("init", "init: {{class_path: {}}}"),
    ("chunks", "chunks: {{class_path: {}}}"),
    ("data", "data: {{class_path: {}}}"),
    ("data", "data: {{pseudo_answers: {{class_path: {}}}}}"),
    ("watch", "watch: {{class_path: {}}}"),
    ("regulariser", "regulariser: {{class_path: {}}}"),
    ("trainer", "trainer: {{class_path: {}}}"),
    ("trainer", "trainer: {{logger: {{class_path: {}}}}}"),
    ("trainer", "trainer: {{callbacks: [{{class_path: {}}}]}}"),
    ("parameters", "parameters: {{class_path: {}}}"),
    ("method", "method: {{class_path: {}}}"),
    ("optimizer", "optimizer: {{class_path: SGD, init_args: {{lr: {{class_path: {}}}}}}}"),
    ("optimizer", "optimizer: {{class_path: Adam, init_args: {{betas: [{{class_path: {}}}, 0.9]}}}}"),
    ("lr_scheduler", "lr_scheduler: {{class_path: LambdaLR, init_args: {{lr_lambda: {}}}}}"),
    ("lr_scheduler", "lr_scheduler: {{class_path: LambdaLR, init_args: {{lr_lambda: {{class_path: {}}}}}}}"),
    ("lr_scheduler", "lr_scheduler: {{class_path: SequentialLR, init_args: {{schedulers: [{}], milestones: [1]}}}}"),
    ("models", "models: [{{model: mood, zero_shot: {{class_path: {}}}}}]"),
    ("models", "models: [{{model: mood, calibration: {{class_path: {}}}}}]"),
]


NUMBERS = count()


@pytest.fixture(params=["strangers", "strangers_package.inner"])
def module(tmp_path, monkeypatch, request):
    """A new module outside the packages that may be named, which leaves files where it is imported or called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    path = f"number_{next(NUMBERS)}_of_{request.param}"
    *packages, name = path.split(".")
    folder = tmp_path.joinpath("modules", *packages)
    folder.mkdir(parents=True)
    for place in (folder, *folder.parents):
        if place.name in packages:
            (place / "__init__.py").write_text(MODULE)
    (folder / f"{name}.py").write_text(MODULE)
    return path


def read(text, **options):
    head = "" if text.startswith("models") else "models: [{model: mood}, {model: topic}]\n"
    return merge_layers([read_yaml(f"base_model: base\n{head}{text}", "merge.yaml")], **options)


@pytest.mark.parametrize(("key", "text"), [*((key, text) for key, _, text in NAMED), *OTHERS])
@pytest.mark.parametrize("name", ["Steps", "Halves", "Calm", "Case", "Marks", "mark"])
def test_nothing_of_another_package_is_imported(module, key, text, name):
    with pytest.raises(ConfigError, match=rf"merge\.yaml:\d: {key}"):
        read(text.format(f"{module}.{name}"))
    assert not [*Path().glob("[ic]*ed")]


@pytest.mark.parametrize(("key", "name", "text"), NAMED)
def test_what_is_refused_can_be_allowed(module, key, name, text):
    with pytest.raises(
        ConfigError, match=rf"{module}\.{name}, which is outside torch, Lightning and adamerge.*--allow"
    ):
        read(text.format(f"{module}.{name}"))
    config = read(text.format(f"{module}.{name}"), allow_code=True)
    assert Path("imported").exists()
    assert f"class_path: {module}.{name}" in resolved(config)


@pytest.mark.parametrize(("key", "text"), [*((key, text) for key, _, text in NAMED), *OTHERS])
@pytest.mark.parametrize("name", ["Marks", "mark"])
def test_what_is_no_subclass_is_never_called(module, key, text, name):
    with pytest.raises(ConfigError, match=rf"merge\.yaml:\d: {key}"):
        read(text.format(f"{module}.{name}"), allow_code=True)
    assert not Path("called").exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch.os.system",
        "torch.hub.os.system",
        "torch.hub.load",
        "torch.optim.os.system",
        "torch.nn.Linear",
        "torch.optim.Optimizer.step",
        "torch.optim..Adam",
        "adamerge.runs.class_names.import_module",
        "adamerge.cli.main",
        "builtins.exec",
        "os.system",
        "subprocess.Popen",
        ".os.system",
        "..",
        "os",
        "",
        " torch.optim.Adam",
        "torch.optim.Adam()",
        "lambda: 0",
    ],
)
def test_a_path_that_leads_to_no_optimiser_of_these_packages(name):
    for optimizer in (name, {"class_path": name}, {"class_path": name, "init_args": {"command": "x"}}):
        for allow_code in (False, True):
            with pytest.raises(ConfigError, match="optimizer"):
                merge_config({**MINIMAL, "optimizer": optimizer}, allow_code=allow_code)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [x]", "!!python/name:os.system", "!mine {a: 1}"])
def test_tags_of_yaml_are_refused(tag):
    with pytest.raises(ConfigError, match="invalid YAML"):
        read(f"optimizer: {tag}")


WORDS = st.sampled_from(
    ["torch", "optim", "adamerge", "os", "system", "Adam", "path", "nn", "exit", "", "1", "__main__"]
)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_every_class_that_is_found_is_a_subclass_in_these_packages(words):
    loaded = {*sys.modules}
    for kind in (torch.optim.Optimizer, FeasibleSet, Objective):
        found = find_class([kind], ".".join(words))
        assert found is None or (issubclass(found, kind) and found.__module__.partition(".")[0] in PACKAGES)
    assert {*sys.modules} == loaded


def test_a_class_that_another_library_has_loaded_does_not_hide_one_of_these_packages():
    hidden = type("Adam", (torch.optim.SGD,), {"__module__": "elsewhere"})
    assert known_classes(torch.optim.Optimizer)["Adam"] is torch.optim.Adam
    assert find_class([torch.optim.Optimizer], "Adam") is torch.optim.Adam is not hidden
    del hidden
    gc.collect()  # jsonargparse's help would import it


def test_a_module_that_is_missing_is_no_class():
    assert import_class([torch.optim.Optimizer], "no_such_module.Adam") is None
    with pytest.raises(ConfigError, match=r"optimizer: expected .*found 'no_such_module.Adam'\. Did you mean Adam\?"):
        merge_config({**MINIMAL, "optimizer": "no_such_module.Adam"})


class Own(torch.optim.SGD):
    """An optimiser of a user of Python."""


@pytest.mark.parametrize("optimizer", [partial(Own, lr=0.1), Own, {"class_path": Own, "init_args": {"lr": 0.1}}])
def test_objects_of_python_need_no_permission(optimizer):
    config = Merge("base", ["mood", "topic"], optimizer=optimizer).config
    assert "Own" in resolved(config)
    assert not config.allow_code


def test_python_allows_import_paths_by_a_keyword(module):
    with pytest.raises(ConfigError, match="allow_code=True"):
        Merge("base", ["mood", "topic"], optimizer=f"{module}.Steps")
    assert Merge("base", ["mood", "topic"], optimizer=f"{module}.Steps", allow_code=True).config.optimizer


def test_a_file_cannot_allow_code_itself():
    for line in ("allow_code: true", "allow_code: false"):
        with pytest.raises(ConfigError, match=r"merge\.yaml:3: allow_code: a configuration cannot allow this itself"):
            read(line)


def test_code_beside_weights_is_allowed_by_the_user_rather_than_by_a_file():
    with pytest.raises(ConfigError, match=r"merge\.yaml:3: trust_remote_code: expected false, found true in a file"):
        read("trust_remote_code: true")
    assert read("trust_remote_code: true", allow_code=True).trust_remote_code
    assert not read("trust_remote_code: false").trust_remote_code
    trusting = Merge("base", ["mood", "topic"], trust_remote_code=True).config
    assert trusting.trust_remote_code
    with pytest.raises(ConfigError, match="trust_remote_code: expected false"):
        merge_layers([read_yaml(resolved(trusting), "run/config.yaml")])
    with pytest.raises(ConfigError, match="trust_remote_code: expected false"):
        merge_config(yaml.safe_load(resolved(trusting)))


def test_a_permission_is_not_saved(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(resolved(merge_config(MINIMAL, allow_code=True)))
    assert "allow_code" not in file.read_text()
    assert not read_config(file).allow_code
