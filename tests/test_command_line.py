"""Words on the command line: what is misspelt or missing is named, and a printed configuration says what is meant."""

import pytest
import yaml
from support.families import write

from adamerge import cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["fti"],
            "there is no command fti; expected one of 'fit', 'check', 'export', 'evaluate', 'demo'. Did you mean fit?",
        ),
        (["fit"], "missing: base_model, models"),
        (["fit", "--config"], "--config: expected a value after it, found none."),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["fit", "--config", "."], ".: there is no such file"),
        (["fit", "merge.yaml"], "there is no option merge.yaml. Did you mean --config merge.yaml?"),
        (
            ["fit", "--config", "merge.yaml", "--gruping", "task"],
            "--gruping: there is no such key. Did you mean grouping?",
        ),
        (["fit", "--config", "merge.yaml", "--data.bach_size", "4"], "Did you mean batch_size?"),
        (
            ["fit", "--config", "merge.yaml", "--ckpt_path", "first"],
            "--ckpt_path: expected 'last' or null, found",
        ),
        (["fit", "--config", "merge.yaml", "--grouping", "blok"], "Did you mean block?"),
        (["export", "run"], "missing: out"),
        (["export", "run", "out", "--out_dtype", "float31"], "Did you mean float32?"),
        (["evaluate"], "missing: run"),
        (["--hlep"], "there is no option --hlep"),
    ],
)
def test_mistakes_on_the_command_line(family, main, arguments, words):
    code, _, complaint = main(*arguments)
    assert code == cli.BAD_INPUT
    assert words in complaint


def test_another_method_over_a_saved_configuration(in_finished, main, capsys):
    assert cli.main(["fit", "--config", "run/config.yaml", "--method", "ties", "--print_config"]) == 0
    switched = yaml.safe_load(capsys.readouterr().out)
    assert cli.main(["fit", "--config", "merge.yaml", "--method", "ties", "--print_config"]) == 0
    fresh = yaml.safe_load(capsys.readouterr().out)
    assert {key for key in fresh if fresh[key] != switched[key]} <= {"base_model", "models", "run_dir", "written"}


def test_print_config_shows_what_a_method_stands_for(family, main, capsys):
    for method, transform in (("adamerging", None), ("adamerging++", "adamerge.transforms.Ties")):
        arguments = ["fit", "--config", "merge.yaml", "--method", method, "--init", "0.4", "--print_config"]
        assert cli.main(arguments) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["base_model"] == "base"
        assert shown["init"] == 0.4
        assert shown["optimizer"]["init_args"]["lr"] == 0.02
        assert (shown["task_vectors"] or {}).get("class_path") == transform
        assert main("check", "--config", write(shown))[0] == 0
