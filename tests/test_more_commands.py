"""Commands on finished runs, as people type them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.hub import hub

from adamerge import cli


@pytest.mark.reports
def test_the_report_of_a_run_is_written_again(family, main):
    assert main("fit", "merge.yaml", "--run_dir", "run")[0] == 0
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
        (["compare", "run"], "runs: expected two or more run directories, found 1"),
        (["compare", "run", "./run"], "runs: expected different runs, found one run twice (run)"),
        (["report", "nowhere"], "a finished run, but it has no coefficients.safetensors. Correct the path.\n"),
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


@pytest.mark.parametrize(
    ("command", "keys"),
    [("report", ["run", "learned", "agreement", "history", "warnings"]), ("compare", ["run", "learned", "agreement"])],
)
def test_measurements_of_another_form_are_refused_by_the_run(in_finished, main, monkeypatch, command, keys):
    monkeypatch.setattr("adamerge.results.sections.pictures", lambda run: [])
    shutil.copytree("run", "spoilt")
    content = json.loads(Path("run/metrics.json").read_text())
    for key in keys:
        Path("spoilt/metrics.json").write_text(json.dumps({**content, key: 7}))
        code, _, complaint = main(command, "run", "spoilt")
        assert code == cli.BAD_INPUT
        assert "spoilt: expected metrics.json, recipe.json as a run writes them, but in one" in complaint
    assert not Path("comparison.html").exists()


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["report", "run", "--out", "new/folder/page.html"], ["new/folder/page.html", "new/folder/page.md"]),
        (["report", "run", "--out", "new/page.md"], ["new/page.html", "new/page.md"]),
        (["report", "run", "--out", "."], ["report.html", "report.md"]),
        (["init", "base", "mood", "--out", "new/folder/first.yaml"], ["new/folder/first.yaml"]),
    ],
)
def test_files_are_written_where_the_user_names_them(in_finished, main, words, files):
    before = {path for path in Path().rglob("*") if path.is_file()}
    code, said, complaint = main(*words)
    assert (code, complaint) == (0, "")
    assert {str(path) for path in Path().rglob("*") if path.is_file()} - {*map(str, before)} == {*files}
    assert said.splitlines()[: len(files)] == files


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


def test_an_export_in_small_files_is_uploaded(in_finished, main, monkeypatch):
    uploaded = {}
    monkeypatch.setattr("adamerge.runs.push.HfApi", hub(uploaded))
    words = ["export", "run", "small", "--max_shard_size", "20KB", "--push_to_hub", "org/merge", "--private"]
    code, said, complaint = main(*words)
    assert (code, complaint) == (0, "")
    assert "uploaded: org/merge" in said
    assert uploaded["repository"] == ("org/merge", {"private": True, "exist_ok": True})
    assert {"README.md", "mood/README.md", "mood/config.json", "mood/model.safetensors.index.json"} <= {
        *uploaded["files"]
    }
    shards = list(Path("small").glob("model-0*.safetensors"))
    assert len(shards) > 2
    sizes = [[tensor.nbytes for tensor in load_file(file).values()] for file in shards]
    assert all(sum(own) <= 20_000 or len(own) == 1 for own in sizes)
    card, advice = (
        Path("small/README.md").read_text(),
        "To train on in this folder, delete its `model.safetensors.index",
    )
    assert advice in card
    paragraphs = [part for part in card.strip().split("\n\n") if not part.startswith(advice)]
    assert paragraphs == Path("run/merged/README.md").read_text().strip().split("\n\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--max_shard_size", "much"], "max_shard_size: expected a size such as 8GB or 500MB, found 'much'"),
        (["--max_shard_size", "0"], "max_shard_size: expected a size"),
        (["--push_to_hub", "merge"], "push_to_hub: expected ORG/NAME, found 'merge'"),
    ],
)
def test_what_is_refused_before_anything_is_exported(in_finished, main, words, complaint):
    code, _, found = main("export", "run", "small", *words)
    assert code == cli.BAD_INPUT
    assert complaint in found
    assert not Path("small").exists()


def test_a_card_of_other_numbers_says_so(in_finished, main):
    assert main("export", "run", "small", "--out_dtype", "bfloat16")[0] == 0
    assert "Scores are of the first export of this merge" in Path("small/README.md").read_text()
    assert "Scores are of the first export" not in Path("run/merged/README.md").read_text()


def test_a_longer_run_leaves_no_former_export_unless_it_was_edited(in_finished, main):
    longer = ["fit", "run/config.yaml", "--run_dir", "run", "--ckpt_path", "last", "--trainer.max_steps"]
    code, said, complaint = main(*longer, "11")
    assert (code, complaint) == (0, "")
    assert not Path("run/merged_1").exists()
    Path("run/merged/README.md").write_text("My own words.")
    code, said, complaint = main(*longer, "12")
    assert (code, complaint) == (0, "")
    assert "files that are not of this export (README.md)" in said
    assert Path("run/merged_1/README.md").read_text() == "My own words."
