"""Commands on finished runs, as people type them."""

import shutil
from pathlib import Path

import pytest

from adamerge import cli


def test_the_report_of_a_run_is_written_again(in_finished, main):
    page = Path("run/report.html")
    for file in (page, page.with_suffix(".md")):
        assert file.is_file()  # by fit
    before = page.read_text()
    page.unlink()
    code, said, complaint = main("report", "run")
    assert (code, complaint) == (0, "")
    assert said.splitlines() == ["run/report.html", "run/report.md"]
    assert page.read_text() == before


def test_several_runs_side_by_side(in_finished, main):
    shutil.copytree("run", "other/run")
    code, said, complaint = main("report", "run", "other/run")
    assert (code, complaint) == (0, "")
    assert said.splitlines() == ["comparison.html", "comparison.md"]
    assert "family/run" in Path("comparison.md").read_text()
    assert main("report", "run", "other/run")[0] == cli.BAD_INPUT
    code, said, complaint = main("compare", "run", "other/run")
    assert (code, complaint) == (0, "")
    assert "Scores of the merges" in said
    assert "other/run" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["compare", "run"], "compare: expected two or more run directories, found 1"),
        (["report", "nowhere"], "nowhere: expected the directory of a finished run, but it has no"),
        (["report"], "missing: runs"),
        (["replay", "run"], "missing: out"),
        (["methods", "run"], "there is no option run"),
    ],
)
def test_mistakes(in_finished, main, words, complaint):
    code, _, found = main(*words)
    assert code == cli.BAD_INPUT
    assert complaint in found


def test_a_damaged_file_of_a_run_is_named(in_finished, main):
    Path("run/metrics.json").write_text("{")
    code, _, complaint = main("report", "run")
    assert code == cli.BAD_INPUT
    assert "run/metrics.json: expected JSON, but the file is damaged" in complaint


@pytest.mark.parametrize("words", [["--version"], ["fit", "--version"]])
def test_the_version_wherever_it_is_asked_for(capsys, words):
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("adamerge ")


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--device", "Write trainer: {accelerator: cpu}"),
        ("--logger", "metrics.json"),
        ("--seed", "Write seed_everything"),
        ("--output_dir", "Write run_dir"),
        ("--resume", "--ckpt_path last"),
    ],
)
def test_hints_for_options_of_other_programs(family, main, option, hint):
    code, _, complaint = main("fit", "merge.yaml", option, "x")
    assert code == cli.BAD_INPUT
    assert f"{option}: there is no such key. " in complaint
    assert hint in complaint
