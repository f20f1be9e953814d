"""Help is complete, fits on a terminal, and does not wait for what it does not need."""

import subprocess
import sys

import pytest

from adamerge import cli


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)], ids=" ".join)
def test_help(main, capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert "[options]" not in said
    if command in (("fit",), ("check",)):
        assert "  base_model: models/base\n  models:\n    - {model: models/news, calibration: news.jsonl}\n" in said
        options = said.split("\n  --")[1:]
        lacking = [option.split()[0] for option in options if len(option.split("(type")[0].split()) < 4]
        assert not lacking


@pytest.mark.parametrize("words", [["--optimizer.help", "stranger.Own"], ["--optimizer.help=stranger.Own"]])
def test_help_on_a_class_imports_nothing_else(main, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text("open('ran', 'w')")
    code, _, complaint = main("fit", *words)
    assert code == cli.BAD_INPUT
    assert "--optimizer.help: expected FrankWolfe" in complaint
    with pytest.raises(SystemExit):
        main("fit", "--optimizer", "stranger.Own", "--help")
    assert not (tmp_path / "ran").exists()


def test_help_on_a_class(capsys):
    for words in (["--objective.help", "Entropy"], ["--objective.help=adamerge.objectives.Entropy"]):
        with pytest.raises(SystemExit):
            cli.main(["fit", *words])
        assert "--objective.temperature" in capsys.readouterr().out


def test_no_command_prints_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 0
    assert "usage: adamerge COMMAND" in capsys.readouterr().out


def test_help_wrong_words_and_init_import_no_heavy_library(tmp_path):
    commands = "fti", "methods", "--help", "init base expert", "compare run", "report", "completion csh", "evaluate"
    commands += ("completion bash",)
    script = (
        "import sys, adamerge.cli as c\n"
        f"for words in {commands}:\n try: c.main(words.split())\n except SystemExit: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{script}print(*sys.modules)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    refused = "Did you mean fit?", "found 1.", "missing: runs", "found 'csh'", "missing: run\n"
    assert all(words in done.stderr for words in refused)
    assert "expert" in (tmp_path / "merge.yaml").read_text()
    loaded = set(done.stdout.split())
    assert "adamerge.cli" in loaded
    assert "--chunks.budget" in done.stdout
    assert not loaded & {"torch", "transformers", "pytorch_lightning", "datasets", "matplotlib", "scipy"}
