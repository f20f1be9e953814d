"""lm-eval: the commands, their script, and results in metrics.json and the report; a stand-in is the program."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.families import save_speaking_family

from adamerge import cli
from adamerge.cli import parse_file
from adamerge.runs.harness import arguments_of
from adamerge.runs.harness_keys import LATER, UNKNOWN

STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["--model"] == "hf", given
out = pathlib.Path(given["--output_path"]) / "some__model"
out.mkdir(parents=True)
words = given["--model_args"]
values = json.loads(words) if words[0] == "{{" else dict(part.split("=", 1) for part in words.split(","))
assert all(pathlib.Path(values[key]).is_dir() for key in ("pretrained", "peft") if key in values), values
score = len(given["--output_path"]) / 1000
own = {{"alias": "a", "acc,none": score, "acc_stderr,none": 0.01}}
results = {{task: dict(own) for task in given["--tasks"].split(",")}}
if "merge" in out.parts and "pi_qa" in results:
    results["pi_qa"]["word_perplexity,none"] = float("nan")
(out / "results_2026-01-01.json").write_text(json.dumps({{"results": results, "given": given}}))
likely, unlikely, broken = [["-2.5", "False"]], [["-inf", "False"]], [["nan", "False"]]
for task in results if sys.argv[-1] == "--log_samples" else ():
    rows = [[likely, unlikely, ["nan"]], [likely, broken if task == "pi_qa" and "merge" in out.parts else likely]]
    lines = [json.dumps({{"doc": {{"text": "nan"}}, "resps": row}}) + "\\n" for row in rows]
    (out / f"samples_{{task}}_2026-01-01T00-00-00.5.jsonl").write_text("".join(lines))
"""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A finished run of language models."""
    folder = save_speaking_family(tmp_path_factory.mktemp("harness") / "one, two", "LlamaForCausalLM", "llama")
    config = yaml.safe_load((folder / "merge.yaml").read_text())
    config |= {"method": "task_arithmetic", "data": {}, "watch": {}, "trainer": {"max_steps": 0, "accelerator": "cpu"}}
    for model in config["models"]:
        model.pop("calibration")
        model.pop("evaluation")
    (folder / "merge.yaml").write_text(yaml.safe_dump(config))
    former = Path.cwd()
    os.chdir(folder)
    try:
        assert cli.main(["fit", "merge.yaml", "--run_dir", "run"]) == 0
    finally:
        os.chdir(former)
    return folder


@pytest.fixture
def place(spoken, tmp_path, monkeypatch):
    """The folder of a finished run, with a program `lm_eval` on the path."""
    folder = shutil.copytree(spoken, tmp_path / "family")
    program = tmp_path / "bin" / "lm_eval"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.reports
def test_results_are_in_metrics_and_report(place, main):
    code, said, complaint = main("evaluate", "run", "--lm_eval", "arc_easy, pi_qa")
    assert (code, complaint) == (0, "")
    found = json.loads(Path("run/metrics.json").read_text())
    assert "sizes" in found  # what fit wrote stays
    assert found["lm_eval"]["tasks"] == ["arc_easy", "pi_qa"]
    assert list(found["lm_eval"]["models"]) == ["base", "mood", "topic", "merge"]
    score = len(str(Path("run/lm_eval/merge"))) / 1000
    assert found["lm_eval"]["models"]["merge"]["pi_qa"] == {"acc,none": score, "acc_stderr,none": 0.01}
    assert f"merge: pi_qa: acc,none {score:.4g}" in said
    left_out, unlikely = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert left_out == "Warning: merge: pi_qa: word_perplexity,none is nan, and left out."
    assert unlikely.startswith("Warning: merge: pi_qa: 1 of 2 questions have answers whose likelihood is not a number")
    for file in ("run/report.html", "run/report.md"):
        text = Path(file).read_text()
        assert "By lm-eval" in text
        assert "arc_easy: acc,none" in text
        assert f"{score:.3f} ± 0.010" in text
    assert main("evaluate", "run", "--lm_eval", "arc_easy")[0] == cli.BAD_INPUT  # the stand-in makes no folder twice


def test_the_script_runs_the_same_commands(place):
    script = Path("run/lm_eval.sh")
    assert subprocess.run(["sh", script, "arc_easy", "--limit", "2"], check=True)
    for name in ("base", "mood", "topic", "merge"):
        (file,) = Path("run/lm_eval", name).rglob("results_*.json")
        given = json.loads(file.read_text())["given"]
        assert (given["--tasks"], given["--limit"]) == ("arc_easy", "2")
        assert given["--model_args"] == arguments_of(parse_file(Path("run/config.yaml")), Path("run"), "run/")[name]
        assert given["--model_args"].startswith("pretrained=merged" if name == "merge" else '{"pretrained": "/')


LM_EVAL = {
    "api/registry.py": 'DEFAULT_METRIC_REGISTRY = {"multiple_choice": ["acc", "acc_norm"]}',
    "tasks.py": """
from types import SimpleNamespace as Entry

def made(kind, tags=(), **cfg):
    return Entry(kind=Entry(name=kind), cfg=cfg, tags=set(tags))

filters = [{"name": "strict"}, {"name": "loose"}]
class TaskManager:
    task_index = {
        "arc": made("TASK", output_type="multiple_choice"),
        "sums": made("TASK", output_type="generate_until", metric_list=[{"metric": "match"}], filter_list=filters),
        "code": made("TASK", metric_list=[{"metric": "/place/utils.passed"}]),
        "own": made("PY_TASK"),
        "both": made("GROUP", task=["arc", {"task": "sums", "num_fewshot": 5}],
            aggregate_metric_list=[{"metric": "f1"}]),
        "tagged": made("TAG", tags=["arc", "code"]),
    }
""",
}
"""What is asked of the package lm_eval."""

KEYS = {
    "arc": "acc,none  acc_norm,none",
    "sums": "match,strict  match,loose",
    "code": LATER,
    "own": LATER,
    "both": "f1,none  acc,none  acc_norm,none  match,strict  match,loose",
    "tagged": f"acc,none  acc_norm,none  {LATER}",
    "*o*": f"{LATER}  f1,none  acc,none  acc_norm,none  match,strict  match,loose",
    "pi": UNKNOWN,
    "own/pi.yaml": LATER,
}


def test_the_keys_of_metrics_are_told_before_anything_is_measured(place, main, tmp_path, monkeypatch):
    for name, text in LM_EVAL.items():
        (tmp_path / "package/lm_eval" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package/lm_eval" / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "package"))
    said = subprocess.check_output(["sh", "run/lm_eval.sh", "--keys", ",".join(KEYS)], text=True)
    assert dict(line.split(": ", 1) for line in said.splitlines()) == KEYS
    assert not Path("run/lm_eval").exists()
    code, said, _ = main("evaluate", "run", "--lm_eval", "sums")
    assert code == 0
    assert said.splitlines()[0] == f"lm-eval: sums: {KEYS['sums']}"


def test_without_lm_eval_and_with_a_failure_it_is_said_and_nothing_changes(place, main, monkeypatch, tmp_path):
    before = Path("run/metrics.json").read_bytes()
    (tmp_path / "bin" / "lm_eval").write_text("#!/bin/sh\nexit 3\n")
    code, _, complaint = main("evaluate", "run", "--lm_eval", "arc_easy,")
    assert code == cli.BAD_INPUT
    assert "--lm_eval: expected names of tasks with commas between them, found 'arc_easy,'" in complaint
    code, _, complaint = main("evaluate", "run", "--lm_eval", "arc_easy")
    assert code == cli.BAD_INPUT
    assert 'it ended with the code 3 on {"pretrained": "/' in complaint
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("adamerge.runs.harness.find_spec", lambda name: None)
    code, _, complaint = main("evaluate", "run", "--lm_eval", "arc_easy")
    assert code == cli.BAD_INPUT
    assert 'pip install "lm-eval[hf]"; or run lm_eval.sh' in complaint  # without [hf] it has no accelerate, and ends
    assert Path("run/metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("org/one@v1", "pretrained=org/one,revision=v1"),
        ("org/one@1e5", '{"pretrained": "org/one", "revision": "1e5"}'),
        ("HERE/one=1", "pretrained=HERE/one=1"),
        ("HERE/one,two", '{"pretrained": "HERE/one,two"}'),
        ("HERE/it's one", '{"pretrained": "HERE/it\'s one"}'),
        ("HERE/one[1", '{"pretrained": "HERE/one[1"}'),
    ],
)
def test_what_lm_eval_would_read_otherwise_is_json(tmp_path, model, written):
    """Lm-eval divides at commas, unless quotes or brackets are open, and takes what it can for numbers."""
    model, written = (text.replace("HERE", str(tmp_path)) for text in (model, written))
    if model.startswith("/"):
        Path(model).mkdir()
        Path(model, "tokenizer.json").write_text("{}")
    settings = {"base_model": "org/base", "models": [{"model": model, "task": "own"}]}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(settings))
    assert arguments_of(parse_file(tmp_path / "merge.yaml"), Path("run"))["own"] == written


def test_adapters_are_over_their_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "one", "two", "run/merged"):
        Path(name).mkdir(parents=True)
        Path(name, "config.json" if name in ("base", "two") else "adapter_config.json").write_text("{}")
    models = [{"model": "one"}, {"model": "two", "adapter": "one", "task": "both"}]
    Path("merge.yaml").write_text(yaml.safe_dump({"base_model": "base", "models": models}))
    found = arguments_of(parse_file(Path("merge.yaml")), Path("run"))
    assert found["one"] == f"pretrained={tmp_path / 'base'},peft={tmp_path / 'one'}"
    assert found["both"] == f"pretrained={tmp_path / 'two'},peft={tmp_path / 'one'}"
    assert found["merge"] == f"pretrained={tmp_path / 'base'},peft=run/merged"


def test_an_expert_without_a_tokenizer_is_given_the_bases(place):
    for file in Path("mood").glob("tokenizer*"):
        file.unlink()
    shutil.copytree("base", "topic", dirs_exist_ok=True)  # the tokenizer, too
    found = arguments_of(parse_file(Path("merge.yaml")), Path("run").absolute())
    assert found["mood"] == f"pretrained={Path('mood').absolute()},tokenizer={Path('base').absolute()}"
    assert "tokenizer=" not in found["topic"] + found["base"] + found["merge"]


def test_tasks_that_are_called_base_or_merge_replace_neither(tmp_path):
    models = [{"model": "org/one", "task": "base"}, {"model": "org/two", "task": "merge"}]
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump({"base_model": "org/base", "models": models}))
    found = arguments_of(parse_file(tmp_path / "merge.yaml"), Path("run"))
    assert found == {
        "base": "pretrained=org/base",
        "expert base": "pretrained=org/one",
        "expert merge": "pretrained=org/two",
        "merge": "pretrained=run/merged",
    }
