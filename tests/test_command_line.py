"""Words on the command line: what is misspelt or missing is named, and a printed configuration says what is meant."""

from pathlib import Path

import pytest
import yaml
from support.families import write

from adamerge import cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fti"], f"there is no command fti; expected one of {', '.join(map(repr, cli.COMMANDS))}; adamerge --help"),
        (["fti"], "explains them. Did you mean fit?"),
        (["merge.yaml"], "explains them. Did you mean adamerge fit merge.yaml?"),
        (["version"], "Did you mean --version?"),
        (["--versoin"], "Did you mean --version?"),
        (["fit"], "missing: base_model, models. Name a configuration: adamerge fit merge.yaml"),
        (["fit", "-c", "merge.yaml"], "there is no option -c. Options begin with two dashes"),
        (["fit", "merge"], "there is no option merge. Write a file of another name as --config FILE"),
        (["fit", "merge.yaml", "--dry-run"], "--dry-run: there is no such key. adamerge check merge.yaml lists"),
        (["fit", "merge.yaml", "--out", "x"], "--out: there is no such key. Write run_dir."),
        (["replay", "merge.yaml", "out"], "merge.yaml: expected the recipe.json of a finished run, but"),
        (["fit", "--config"], "--config: expected a value after it, found none."),
        (["fit", "merge.yaml", "--trainer.max_steps"], "--trainer.max_steps: expected a value after it, found none."),
        (["fit", "merge.yaml", "--resume"], "--resume: there is no such key. Write --ckpt_path last after fit."),
        (["fit", "merge.yaml", "--ckpt_pth", "last"], "--ckpt_pth: there is no such key. Did you mean ckpt_path?"),
        (["fit", "--print_confg", "merge.yaml"], "--print_confg: there is no such key. Did you mean print_config?"),
        (["fit", "merge.yaml", "--allow_cod"], "--allow_cod: there is no such key. Did you mean allow_code?"),
        (["fit", "merge.yaml", "--strict"], "--strict: there is no such key."),
        (["check", "merge.yaml", "--depe"], "--depe: there is no such key. Did you mean deep?"),
        (["export", "run", "out", "--privte"], "--privte: there is no such key. Did you mean private?"),
        (["methods", "--jsn"], "error: --jsn: there is no such key."),
        (["fit", "merge.yaml", "--steps", "5"], "--steps: there is no such key. Write trainer: {max_steps: 60}."),
        (["export", "run", "out", "--shard_size"], "--shard_size: there is no such key. Did you mean max_shard_size?"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["fit", "--config", "."], ".: expected a file, found a folder"),
        (["fit", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
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
        (
            ["fit", "--config", "merge.yaml", "--models.0.foo", "1"],
            "error: --models.0.foo: there is no such key.",
        ),
        (["fit", "--config", "merge.yaml", "--models.9.task", "a"], "--models.9.task: there is no item 9"),
        (
            ["fit", "--models.0.loss_weight", "-1", "--config", "merge.yaml"],
            "--models.0.loss_weight: expected a finite",
        ),
        (["fit", "--config", "merge.yaml", "--optimizer", "os.system"], "--optimizer: expected"),
        (["fit", "--config", "merge.yaml", "--optimizer.class_path", "os.system"], "--optimizer.class_path: expected"),
        (["fit", "--config", "merge.yaml", "--optimizer", "{class_path: Adamm}"], "--optimizer: there is no class"),
        (
            ["fit", "--config", "merge.yaml", "--optimizer", "{lr: -1}"],
            "--optimizer: lr: expected a value that Adam",
        ),
        (["fit", "--config", "merge.yaml", "--models", "[{model: mood, task: 3, tas: 1}]"], "--models: 0.tas: "),
        (["check", "--config", "merge.yaml", "--allow_code", "maybe"], "there is no option maybe"),
        (["--hlep"], "there is no option --hlep"),
        (["evaluate", "run", "--lm_eval", ""], "--lm_eval: expected a value, found an empty one."),
        (["evaluate", "run", "--lm_eval="], "--lm_eval: expected a value, found an empty one."),
        (["export", "run", ""], "out: expected a word, found an empty one."),
        (["evaluate", "run", ""], "options: expected a word, found an empty one."),
        (["check", "merge.yaml", "--deep="], "--deep: expected a value, found an empty one."),
        (["fit", "merge.yaml", "--centre", ""], "--centre: expected a value, found an empty one."),
    ],
)
def test_mistakes_on_the_command_line(family, main, arguments, words):
    code, _, complaint = main(*arguments)
    assert code == cli.BAD_INPUT
    assert words in complaint


def test_numbers_of_lines_and_names_are_no_emoji(family, main):
    """`:100:` and `:1234:` are two of rich's, and `:key:` is another."""
    lines = ["base_model: base", "models: [{model: mood, task: ':key:'}]", *["#"] * 97, "gruping: task"]
    Path("long.yaml").write_text("\n".join(lines))
    assert "long.yaml:100: gruping: there is no such key" in main("fit", "long.yaml")[2]
    Path("long.yaml").write_text("\n".join([*lines[:-1], "method: average"]))
    code, said, _ = main("check", "long.yaml")
    assert code == 0
    assert ":key:" in said


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (
            ["merge.yaml", "--data.rows=", "--metod", "x", "--no_such"],
            ["--data.rows: expected", "--metod: there is no such key. Did you mean method?", "--no_such: there is no"],
        ),
        (["nope.yaml", "--config", "nope2.yaml"], ["nope.yaml: there is no", "nope2.yaml: there is no"]),
        (["merge.yaml", "--init", "[", "--ckpt_pth=last"], ["--ckpt_pth: there is no", "--init: invalid YAML: '['"]),
        (
            ["--print_confg", "merge.yaml", "--ckpt_path", "first", "--gruping", "task"],
            ["--ckpt_path: expected", "--gruping: there is no", "--print_confg: there is no"],
        ),
    ],
)
def test_every_mistake_is_reported_at_once(family, main, arguments, begins):
    code, _, complaint = main("fit", *arguments)
    said = sorted(complaint.removeprefix("error: ").splitlines())
    assert code == cli.BAD_INPUT
    assert [line[: len(begin)] for begin, line in zip(begins, said, strict=True)] == begins


def printed(capsys, *arguments):
    assert cli.main(["fit", *arguments, "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    return {key: value for key, value in shown.items() if key != "written"}, {*shown["written"]}


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "ties"],
        ["--init", "0.5"],
        ["--data.rows", "9"],
        ["--models.1.task", "other"],
        ["--feasible=Unbounded"],
    ],
)
def test_options_override_files_in_any_order(family, capsys, options):
    plain = printed(capsys, "--config", "merge.yaml")
    after = printed(capsys, "--config", "merge.yaml", *options)
    assert printed(capsys, *options, "--config", "merge.yaml") == after
    assert after[0] != plain[0]


def test_a_later_option_and_a_later_file_override_earlier_ones(family, capsys):
    write({"init": 0.1, "seed_everything": 1}, "one.yaml")
    write({"init": 0.2}, "two.yaml")
    files = ["--config", "merge.yaml", "--config", "one.yaml", "--config", "two.yaml"]
    shown, _ = printed(capsys, *files)
    assert (shown["init"], shown["seed_everything"]) == (0.2, 1)
    shown, _ = printed(capsys, "--init", "0.3", *files, "--init", "0.4")
    assert shown["init"] == 0.4


def test_an_item_of_a_list_is_overridden_by_its_number(family, capsys):
    plain, _ = printed(capsys, "--config", "merge.yaml")
    shown, _ = printed(capsys, "--config", "merge.yaml", "--models.1.loss_weight", "3")
    plain["models"][1]["loss_weight"] = plain["saved"]["models"][1]["loss_weight"] = 3.0
    assert shown == plain


@pytest.mark.parametrize("command", ["fit", "check", "export", "evaluate"])
def test_code_that_a_run_directory_names_is_not_run(in_finished, main, monkeypatch, command):
    monkeypatch.syspath_prepend(str(in_finished))
    name = f"stranger_to_{command}"
    Path(f"{name}.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\nfrom torch.optim import Adam\nclass Own(Adam): pass\n"
    )
    file = Path("run/config.yaml")
    file.write_text(file.read_text().replace("torch.optim.Adam", f"{name}.Own"))
    arguments = {"export": ["run", "out"], "evaluate": ["run"]}.get(command, ["--config", "run/config.yaml"])
    arguments += ["--run_dir", "new", "--trainer.max_steps", "1"] if "--config" in arguments else []
    code, listed, complaint = main(command, *arguments)
    assert code == cli.BAD_INPUT
    assert "optimizer.class_path: expected" in listed + complaint
    assert f"{name}.Own, which is outside torch, Lightning and adamerge" in listed + complaint
    assert "--allow_code" in listed + complaint
    assert not Path("ran").exists()
    assert main(command, *arguments, "--allow_code")[::2] == (0, "")
    assert Path("ran").exists()


@pytest.mark.parametrize("command", [["export", "run", "out"], ["check", "--config", "run/config.yaml"]])
def test_a_run_directory_does_not_switch_on_remote_code(in_finished, main, command):
    file = Path("run/config.yaml")
    file.write_text(file.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    code, listed, complaint = main(*command)
    assert code == cli.BAD_INPUT
    assert "trust_remote_code: expected false, found true in a file" in listed + complaint


def test_another_method_over_a_saved_configuration(in_finished, main, capsys):
    assert cli.main(["fit", "--config", "run/config.yaml", "--method", "ties", "--print_config"]) == 0
    switched = yaml.safe_load(capsys.readouterr().out)
    assert cli.main(["fit", "--config", "merge.yaml", "--method", "ties", "--print_config"]) == 0
    fresh = yaml.safe_load(capsys.readouterr().out)
    assert {key for key in fresh if fresh[key] != switched[key]} <= {
        "base_model",
        "models",
        "run_dir",
        "written",
        "saved",
    }


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
