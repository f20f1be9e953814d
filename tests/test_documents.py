"""Every command, snippet, configuration, path and link in the Markdown files works; every key and preset is in them."""

import os
import re
import shutil
import typing
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml
from field import REPORTS
from support.documented import ROOT, TOOLS, assert_takes, commands, judge
from support.hub import hub

from adamerge.data.settings import Batching, EvaluationSource
from adamerge.objectives import Objective
from adamerge.optim import Descent
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.runs.config import MergeConfig
from adamerge.runs.model_config import Keep, ModelConfig
from adamerge.runs.presets import DEFAULT, PRESETS
from adamerge.runs.run_directory import RunDirectory
from adamerge.transforms import Transform
from adamerge.types import ConfigError

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in zip(NAMES, DOCUMENTS, strict=True)}
FOLDERS = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, its language and its text."""

    place: str
    language: str
    text: str


def blocks(name):
    """The fenced blocks of a document, in its order."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    return [Block(f"{name}:{TEXTS[name][: f.start()].count(chr(10)) + 1}", f[1], f[2]) for f in found]


@pytest.fixture
def workspace(demo_folder, tmp_path, monkeypatch):
    """The current directory of a reader who ran the demo and wrote a merge.yaml; few rows and steps of all."""
    for key, value in {"trainer.max_steps": 4, "chunks": {"budget": 8, "first_steps": 2}}.items():
        monkeypatch.setitem(PRESETS[DEFAULT], key, value)
    shutil.copytree(demo_folder, tmp_path / "demo")
    shutil.copytree(demo_folder / "data/upright/calibration", tmp_path / "general")
    settings = yaml.safe_load((demo_folder / "demo.yaml").read_text(encoding="utf-8"))
    parts = ("calibration", "evaluation")
    models = [model | {part: {"path": model[part], "rows": 16} for part in parts} for model in settings["models"]]
    short = settings | {"models": models}
    (tmp_path / "demo/demo.yaml").write_text(yaml.safe_dump(short))
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(short | {"trainer": {"max_steps": 2}, "run_dir": "runs/mine"}))
    theirs = [{"model": model["model"], "parameters": {"weight": 0.4}} for model in settings["models"]]
    theirs = {"merge_method": "task_arithmetic", "base_model": settings["base_model"], "models": theirs}
    (tmp_path / "mergekit.yaml").write_text(yaml.safe_dump(theirs | {"dtype": "float32"}))
    (tmp_path / "my_package.py").write_text("from torch.optim import SGD\n\n\nclass Lookahead(SGD):\n    pass\n")
    monkeypatch.setattr("adamerge.runs.push.HfApi", hub({}))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_blocks_do_what_they_say(name, workspace, main):
    defined = {}
    for block in blocks(name):
        match block.language:
            case "bash":
                for words in commands(block.text):
                    follow(words, main, block.place)
            case "sh":  # needs several devices, a hub or what else a test has not: read, not run
                for words in commands(block.text):
                    judge(words, block.place)
            case "python":
                exec(compile(block.text, block.place, "exec"), defined)
            case "yaml":
                read(block, workspace, main)
            case other:
                assert other in ("", "text"), f"{block.place}: no test knows how to run {other}"
                wrong = TOOLS & {words[0] for line in block.text.splitlines() if (words := line.split())}
                assert not wrong, f"{block.place}: commands stand in blocks of bash, or of sh if none can run them"


def follow(words, main, place):
    """Run a command of ours; of any other, look that what it names is there."""
    match words:
        case ["adamerge", "demo"]:
            assert Path("demo/run/merged").is_dir()  # the fixture has run it
        case ["adamerge", *arguments]:
            run(arguments, main, place)
        case ["python" | "bash", script, *_]:
            assert_takes(script, words, place)
        case ["pip", "install", *wanted]:
            assert_installs(wanted, place)
        case ["pytest", *words]:
            paths = [word for word in words if "/" in word]
            assert all((ROOT / path).exists() for path in paths), f"{place}: {paths}"
        case [tool, *_]:
            assert tool in ("python3", ".", "pre-commit", "ruff", "basedpyright"), f"{place}: no test knows {tool}"


def run(arguments, main, place):
    """Run one of our commands; a configuration of the repository, whose models are elsewhere, is only read."""
    ours = [ROOT / word for word in arguments if word.startswith("configs/")]
    if ours:
        _, _, complaint = main("check", "--config", ours[0])
        assert not complaint, f"{place}: {complaint}"
        return
    try:
        code, _, complaint = main(*arguments)
    except SystemExit as end:  # of --help and --print_config
        code, complaint = end.code or 0, ""
    assert (code, complaint) == (0, ""), f"{place}: {arguments}: {complaint}"


@pytest.mark.parametrize("name", NAMES)
def test_scripts_in_backticks_have_the_options_that_they_are_given(name):
    for line in re.findall(r"`(?:python|bash) ([\w./]+\.py[^`]*)`", TEXTS[name]):
        assert_takes(line.split()[0], line.split(), name)


@pytest.mark.parametrize(
    "words",
    [
        "adamerge fit --config merge.yaml --trainer.device 2",
        "torchrun -m adamerge fit merge.yaml --trainer.strategy fsdp",
        "srun adamerge export run out --push_hub ORG/NAME",
        "adamerge mergekits run out",
    ],
)
def test_commands_that_are_only_read_are_judged(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merge.yaml").write_text("base_model: base\nmodels: [{model: one}]\n")
    with pytest.raises(ConfigError, match=r"Did you mean|expected|no option|no command"):
        judge(words.split(), "here")


def assert_installs(wanted, place):
    """What pip is told to install is what CI installs."""
    pins = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8").split()
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for word in wanted:
        if word.startswith("torch=="):
            assert word in pins, f"{place}: {word}"
        elif extra := re.fullmatch(r"\.\[(\w+)\]", word):
            assert re.search(rf"^{extra[1]} = \[", extras, flags=re.MULTILINE), f"{place}: {word}"


def read(block, workspace, main):
    """Check a configuration; what it lacks is the reader's, and what then has models to look at has no problem."""
    written = yaml.safe_load(block.text)
    own = yaml.safe_load((workspace / "merge.yaml").read_text())
    needed = {key: own[key] for key in ("base_model", "models") if key not in written}
    file = workspace / "block.yaml"
    file.write_text(yaml.safe_dump(needed | written))
    code, said, complaint = main("check", "--config", file)
    assert not complaint, f"{block.place}: {complaint}"
    if len(needed) == 2:
        assert code == 0, f"{block.place}: {said}"
    problems = re.findall(r"^problem: (\w+)[.:]", said, flags=re.MULTILINE)
    assert not {field.name for field in fields(MergeConfig)}.intersection(problems), f"{block.place}: {said}"


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_configurations_of_the_repository_are_read(name, main, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, said, complaint = main("check", "--config", ROOT / "configs" / name, "--run_dir", "none")
    assert not complaint
    problems = re.findall(r"^problem: (\w+)[.:]", said, flags=re.MULTILINE)
    assert not {field.name for field in fields(MergeConfig)}.intersection(problems), said


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(slug, headings), f"{name}: {target}"


def slug(heading):
    """The anchor that a code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_paths_in_backticks_exist(name):
    for path in re.findall(rf"`(?:python |bash )?((?:{FOLDERS})/[\w./+-]+)", TEXTS[name]):
        assert (ROOT / path).exists() or path.startswith("demo/"), f"{name}: {path}"


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("docs/configuration.md", MergeConfig),
        ("docs/configuration.md", ModelConfig),
        ("docs/configuration.md", Keep),
        ("docs/configuration.md", Batching),
        ("docs/data.md", EvaluationSource),
    ],
)
def test_every_key_is_explained(name, type_):
    missing = [field.name for field in fields(type_) if f"`{field.name}`" not in TEXTS[name]]
    assert not missing


@pytest.mark.parametrize("kind", [Transform, Objective, FeasibleSet, Descent])
def test_every_class_is_named(kind):
    ours = [cls.__name__ for cls in final(kind) if cls.__module__.startswith("adamerge.") and cls.__name__[0] != "_"]
    assert ours
    assert not [name for name in ours if f"`{name}`" not in TEXTS["docs/configuration.md"]]


def final(kind):
    """The classes below a class that have none below themselves."""
    return [leaf for cls in kind.__subclasses__() for leaf in final(cls) or [cls]]


def test_every_file_of_a_run_is_explained():
    """All that stays: what a race and Fisher information need is gone when they are done."""
    table = TEXTS["docs/runs.md"].partition("## What is in a run directory")[2].partition("###")[0]
    run = RunDirectory(Path())
    values = [getattr(run, name) for name, value in vars(RunDirectory).items() if isinstance(value, property)]
    stays = {str(value) for value in values if isinstance(value, Path)} - {str(run.information), str(run.contestants)}
    assert len(stays) > 15
    assert not [name for name in stays if f"`{name}`" not in table and f"`{name}/`" not in table]


def test_every_preset_is_explained():
    words = presets(typing.get_type_hints(MergeConfig)["method"])
    assert len(words) > 10
    assert not [word for word in words if f"| `{word}`" not in TEXTS["docs/methods.md"]]


def presets(hint):
    """The words that a Literal, or a union with one in it, allows."""
    inside = [word for part in typing.get_args(hint) for word in ([part] if isinstance(part, str) else presets(part))]
    return list(dict.fromkeys(inside))


def test_readme_is_short_and_its_pictures_are_small():
    assert len(TEXTS["README.md"].splitlines()) <= 170
    pictures = [ROOT / path for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXTS["README.md"])]
    assert pictures
    assert all(os.path.getsize(picture) < 100_000 for picture in pictures)


def test_readme_has_the_command_that_ci_runs():
    lines = TEXTS["README.md"].partition("\n## Tests")[2].split("```")
    assert lines[1].startswith("bash\npython3 -m venv .venv-test")  # .ci/run removes .venv-test first
    assert lines[1].endswith("&& pytest -n 2 --dist worksteal\n")


SURPRISES = [line for line in TEXTS["docs/ecosystem.md"].splitlines() if line.startswith("|")]
CODE = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


def cells(line):
    """The cells of a line of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_surprise_has_a_guess_an_answer_and_a_test():
    assert cells(SURPRISES[0]) == ["library", "behaviour", "the obvious guess", "what we do", "test"]
    for row in map(cells, SURPRISES[2:]):
        assert len(row) == 5, row
        assert all(row), row
        words = {word for quoted in re.findall(r"`([^`]+)`", row[-1]) for word in quoted.split("::")}
        paths, cases = {word for word in words if "/" in word}, {word for word in words if word.startswith("test_")}
        assert paths | cases == words != set(), row
        assert all((ROOT / path).exists() for path in paths), row
        places = paths & CODE.keys() or CODE
        assert all(any(f"def {case}(" in CODE[place] for place in places) for case in cases), row


def test_no_surprise_is_there_twice():
    behaviours = [cells(line)[1] for line in SURPRISES[2:]]
    assert len(set(behaviours)) == len(behaviours) > 100


def test_every_field_report_is_in_the_table():
    lines = [cells(line) for line in TEXTS["docs/field.md"].splitlines() if line.startswith("| ")][1:]
    assert [(row[0], row[1]) for row in lines] == [(n, f"{r.what}: {r.right}") for n, r in sorted(REPORTS.items())]
    assert {row[-1] for row in lines} <= {"mended", "right"}
