"""A saved configuration records its method and values, so that what is changed in it by hand is seen."""

from functools import partial

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adamerge.runs import read_config
from adamerge.runs.begun_run import check_run_dir, check_unedited
from adamerge.runs.flat_settings import FAST
from adamerge.runs.presets import PRESETS
from adamerge.runs.read_yaml import Document, read_yaml
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.save_config import as_yaml, resolved
from adamerge.types import ConfigError

# Settings that exclude each other are read, as those of a finished run are.
merge_config, merge_layers = (partial(one, use="keep") for one in (read_config.merge_config, read_config.merge_layers))
MINIMAL = {"base_model": "base", "models": [{"model": "mood", "calibration": "mood.jsonl"}, {"model": "topic"}]}
OWN = {"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.5}}, "data": {"rows": 8}}


def content(config):
    return yaml.load(resolved(config), FAST)


@given(st.text())
def test_every_text_is_read_as_it_was_written(text):
    saved = yaml.load(as_yaml({"run_dir": text}, (text,)), FAST)
    assert (saved["run_dir"], saved["saved"]["run_dir"], saved["written"]) == (text, text, [text])


def read(text):
    return merge_layers([read_yaml(text, "run/config.yaml")])


def as_file(text, method):
    return read(text.replace("method: adamerging\n", f"method: {method}\n", 1))


def as_option(text, method):
    return merge_layers([read_yaml(text, "run/config.yaml"), Document({"method": method})])


def as_dict(text, method):
    return merge_config(yaml.safe_load(text) | {"method": method})


@pytest.mark.parametrize("method", PRESETS)
def test_another_method_in_a_saved_configuration_is_a_fresh_run_of_it(method):
    text = resolved(merge_config({**MINIMAL, **OWN, "method": "adamerging"}))
    fresh = content(merge_config({**MINIMAL, **OWN, "method": method}))
    for change in (as_file, as_option, as_dict):
        changed = content(change(text, method))
        assert {*changed.pop("written")} == {*fresh["written"]}
        assert changed == {key: value for key, value in fresh.items() if key != "written"}


EDITS = [  # a line of the saved file, what is written instead, the key, and its value under another method
    ("  held_out: 0.25\n", "  held_out: 0.5\n", "data.held_out", lambda config: config.data.held_out == 0.5),
    ("seed_everything: 0\n", "seed_everything: 7\n", "seed_everything", lambda config: config.seed_everything == 7),
    ("  max_steps: 500\n", "  max_steps: 9\n", "trainer.max_steps", lambda config: config.trainer.max_steps == 9),
    (
        "    lr: 0.001\n",
        "    lr: 0.5\n",
        "optimizer.init_args.lr",
        lambda config: config.optimizer.keywords["lr"] == 0.5,
    ),
    ("init: published\n", "init: 0.7\n", "init", lambda config: config.init == 0.7),
    ("chunks: null\n", "chunks: {budget: 3}\n", "chunks.budget", lambda config: config.chunks.budget == 3),
    ("lr_scheduler: null\n", "lr_scheduler: cosine\n", "lr_scheduler", lambda config: config.lr_scheduler == "cosine"),
    ("dtype: float32\n", "dtype: float64\n", "dtype", lambda config: config.dtype == "float64"),
    ("memory: auto\n", "memory: mapped\n", "memory", lambda config: config.memory == "mapped"),
    ("run_dir:", "allow_pickle: true\nrun_dir:", "allow_pickle", lambda config: config.allow_pickle),
]


@pytest.mark.parametrize(("line", "edit", "key", "holds"), EDITS, ids=[key for _, _, key, _ in EDITS])
def test_a_value_changed_by_hand_counts_as_written(line, edit, key, holds):
    text = resolved(merge_config({**MINIMAL, "method": "adamerging"}))
    assert text.count(line)
    edited = text.replace(line, edit, 1)
    if key == "allow_pickle":
        edited = edited.replace("allow_pickle: false\n", "", 1)
    assert key in read(edited).written
    assert key not in read(text).written
    for change in (as_file, as_option, as_dict):
        assert holds(change(edited, "adamerging++"))


def test_a_class_changed_by_hand_is_kept_and_the_old_options_are_not():
    text = resolved(merge_config({**MINIMAL, "method": "adamerging"}))
    edited = text.replace("class_path: torch.optim.Adam\n", "class_path: torch.optim.Adagrad\n", 1)
    config = as_option(edited, "expert_merging")
    assert (config.optimizer.func.__name__, config.optimizer.keywords) == ("Adagrad", {})


@settings(max_examples=15)
@given(
    st.dictionaries(
        st.sampled_from(["init", "data.held_out", "trainer.max_steps", "seed_everything", "watch.every"]),
        st.sampled_from([0.25, 0.5]),
    ),
    st.sampled_from([*PRESETS]),
    st.sampled_from([*PRESETS]),
)
def test_what_was_written_survives_any_number_of_saves(written, before, after):
    own = {key: value if key in ("init", "data.held_out") else int(8 * value) for key, value in written.items()}
    config = merge_config({**MINIMAL, **own, "method": before})
    for _ in range(2):
        config = read(resolved(config))
    switched = content(as_dict(resolved(config), after))
    fresh = content(merge_config({**MINIMAL, **own, "method": after}))
    assert {*switched.pop("written")} == {*fresh.pop("written")}
    assert switched == fresh


def test_a_saved_configuration_without_values_is_read_as_before():
    text = resolved(merge_config({**MINIMAL, **OWN, "method": "adamerging"}))
    former = text[: text.index("# All settings as they were saved")]
    assert "written:" in former
    assert content(read(former)) == content(read(text))
    assert content(as_option(former, "ties")) == content(as_option(text, "ties"))


def test_an_empty_record_changes_no_value_and_a_damaged_one_is_refused():
    text = resolved(merge_config({**MINIMAL, "method": "adamerging"}))
    whole = text[: text.index("saved: {")]
    config = read(whole + "saved: {}\n")
    assert (config.method, config.trainer.max_steps) == ("adamerging", 500)
    with pytest.raises(ConfigError, match=r"saved: expected the settings that a run recorded, found \['a'\]; "):
        read(whole + "saved: [a]\n")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path)
    run.config.write_text(resolved(merge_config({**MINIMAL, "method": "adamerging", "run_dir": str(tmp_path)})))
    return run


def edit(run, line, other):
    text = run.config.read_text()
    assert line in text
    run.config.write_text(text.replace(line, other, 1))
    return merge_layers([read_yaml(run.config.read_text(), str(run.config))])


def test_a_run_whose_configuration_was_edited_is_not_resumed(run):
    config = merge_layers([read_yaml(run.config.read_text(), "config.yaml")])
    check_run_dir(run, resolved(config), resume=True)
    edited = edit(run, "    lr: 0.001\n", "    lr: 0.5\n")
    with pytest.raises(ConfigError, match=r"optimizer.init_args.lr \(was 0.001, is 0.5\)"):
        check_run_dir(run, resolved(edited), resume=True)


def test_steps_may_be_edited_before_a_run_is_resumed(run):
    edited = edit(run, "  max_steps: 500\n", "  max_steps: 700\n")
    check_run_dir(run, resolved(edited), resume=True)


def test_a_run_with_code_of_its_own_is_resumed_only_if_that_is_allowed(run):
    text = run.config.read_text().replace("torch.optim.Adam", "strange.Adam")
    run.config.write_text(text)
    now = text.replace("seed_everything: 0", "seed_everything: 1")
    check_run_dir(run, text, resume=True)
    with pytest.raises(ConfigError, match=r"strange\.Adam"):
        check_run_dir(run, now, resume=True)


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("method: adamerging\n", "method: ties\n"),
        ("grouping: tensor\n", "grouping: task\n"),
        ("centre: null\n", "centre: Wudi\n"),
    ],
)
def test_a_run_that_was_edited_is_not_exported(run, line, other):
    check_unedited(run)
    edit(run, line, other)
    with pytest.raises(ConfigError, match=rf"config.yaml: {line.partition(':')[0]} changed after the run"):
        check_unedited(run)


def test_a_run_that_was_moved_is_exported(run):
    edit(run, "base_model: base\n", "base_model: elsewhere/base\n")
    check_unedited(run)
