"""Settings that only together are wrong are reported with all other mistakes, at the line of the later one."""

import pytest
from support.complaints import HEAD, LINE, complaint

from adamerge import Box, Merge
from adamerge.command_line import read_arguments
from adamerge.optim import LBFGSB
from adamerge.runs.read_config import merge_config, merge_layers
from adamerge.runs.read_yaml import read_yaml
from adamerge.types import ConfigError

SEARCHED = "lr_scheduler: null\ndata: {batch_size: null}\nchunks: null\n"
"""What an optimiser that searches its steps needs; three lines."""

PAIRS = [  # lines before, the two lines, the key of each, and the reason
    (SEARCHED, "optimizer: LBFGSB", "feasible: Simplex", "optimizer", "feasible", "bounds on single coefficients only"),
    (SEARCHED, "optimizer: LBFGS", "feasible: Box", "optimizer", "feasible", "curvature from points outside"),
    (SEARCHED, "optimizer: FrankWolfe", "feasible: Unbounded", "optimizer", "feasible", "no vertex to select"),
    ("lr_scheduler: null\n", "optimizer: LBFGSB", "data.batch_size: 4", "optimizer", "data.batch_size", "curvature"),
    (
        SEARCHED,
        "optimizer: LBFGSB",
        "trainer.gradient_clip_val: 1",
        "optimizer",
        "trainer.gradient_clip_val",
        "clipped",
    ),
    (SEARCHED, "optimizer: LBFGSB", "trainer.precision: bf16-mixed", "optimizer", "trainer.precision", "third digit"),
    (SEARCHED, "optimizer: LBFGSB", "watch.average: 0.5", "optimizer", "watch.average", "expected 0 with LBFGSB"),
    ("", "optimizer: ProjectedGradient", "lr_scheduler: cosine", "optimizer", "lr_scheduler", "finds the size"),
    ("", "grouping: block", "chunks: {budget: 4}", "grouping", "chunks", "expected grouping: tensor, found block"),
    ("chunks: null\n", "grouping: component", "centre: Isotropic", "grouping", "centre", "the factors of adapters"),
    ("", "task_vectors: Isotropic", "init: closed_form", "task_vectors", "init", "Isotropic makes one"),
    ("", "trainer.devices: 1", "trainer.strategy: fsdp2", "trainer.devices", "trainer.strategy", "several devices"),
    (
        "",
        "optimizer: Adagrad",
        "lr_scheduler: {class_path: CyclicLR, init_args: {base_lr: 1, max_lr: 2}}",
        "optimizer",
        "lr_scheduler",
        "expected a scheduler that accepts Adagrad; torch says: ",
    ),
    *(
        ("", "trainer.max_steps: 6", f"lr_scheduler: {{class_path: {cls}}}", "trainer.max_steps", "lr_scheduler", words)
        for cls, words in (
            ("OneCycleLR, init_args: {max_lr: 1, total_steps: 5}", "OneCycleLR refuses step 6"),
            ("OneCycleLR, init_args: {max_lr: 1, epochs: 1, steps_per_epoch: 5}", "OneCycleLR refuses step 6"),
            (
                "ExponentialLR, init_args: {gamma: 1.0e+12}",
                "at most 1e+06 in all steps, but that of ExponentialLR is",
            ),
        )
    ),
]


@pytest.mark.parametrize(("before", "one", "two", "key", "other", "reason"), PAIRS)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_pair_is_reported_at_the_later_line_with_a_wrong_key_and_a_wrong_value(
    before, one, two, key, other, reason, swapped
):
    first, second = (two, one) if swapped else (one, two)
    key, other = (other, key) if swapped else (key, other)
    said = complaint(f"{HEAD}seed_everything: today\n{before}{first}\n{second}\nunknwn: 1\n").splitlines()
    line = LINE + 2 + before.count("\n")
    assert said[0].startswith(f"merge.yaml:{LINE}: seed_everything: expected a whole number")
    assert said[-1].startswith(f"merge.yaml:{line + 1}: unknwn: there is no such key.")
    assert [reason in own for own in said] == [False, True, False]
    assert said[1].startswith(f"merge.yaml:{line}: {other}: does not go with {key} (merge.yaml:{line - 1}): ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grouping: block", "grouping: does not go with chunks: expected grouping: tensor, found block"),
        ("optimizer: null", "optimizer: expected an optimiser, for example Adam, found null"),
        (
            "method: frank_wolfe\noptimizer: {class_path: SoftFrankWolfe, init_args: {top_k: 5}}",
            "optimizer: does not go with models (merge.yaml:2): top_k=5 exceeds the pool of 3",
        ),
    ],
)
def test_a_setting_against_one_of_the_method_is_reported_at_its_line(text, words):
    assert complaint(HEAD + text).startswith(f"merge.yaml:{LINE + text.count(chr(10))}: {words}")


def test_a_wrong_value_makes_no_pair_with_the_method_that_stands_in_for_it():
    said = complaint(HEAD + "grouping: tensr\nchunks: {budget: 4}\nfeasible: Simplexx\noptimizer: LBFGSB\n")
    assert [line.split(": ")[1] for line in said.splitlines()] == ["grouping", "feasible", "optimizer", "optimizer"]
    assert "does not go with feasible" not in said
    assert "does not go with chunks" not in said


def test_pairs_are_judged_where_models_are_missing():
    said = complaint("optimizer: FrankWolfe\nfeasible: Unbounded\nlr_scheduler: null")
    assert [line.split(": ")[1] for line in said.splitlines()] == ["feasible", "missing"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--grouping", "block"], "--grouping: does not go with chunks (merge.yaml:5): expected grouping: tensor"),
        (["--chunks.budget", "8"], "--chunks.budget: does not go with grouping (merge.yaml:5): expected grouping"),
    ],
)
def test_an_option_is_written_later_than_any_line(options, words):
    class Own:
        pass

    _, layers = read_arguments(Own, options, merges=True)
    file = read_yaml(HEAD + ("grouping: task" if "budget" in options[0] else "chunks: {budget: 4}"), "merge.yaml")
    with pytest.raises(ConfigError) as error:
        merge_layers([file, *layers])
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trainer": {"accelerator": "gpuu"}, "unknwn": 1}, ["trainer.accelerator: expected auto, cpu", "unknwn: "]),
        ({"trainer": {"devices": 9999, "accelerator": "cpu"}}, ["trainer.devices: does not go with trainer.accel"]),
        (
            {"optimizer": LBFGSB(), "feasible": Box(), "lr_scheduler": None, "chunks": None, "data.batch_size": 2},
            ["optimizer: does not go with data.batch_size: L-BFGS-B with another batch"],
        ),
        ({"grouping": "block", "chunks": {"budget": 4}}, ["chunks: does not go with grouping: expected grouping: ten"]),
    ],
)
def test_python_is_told_when_a_merge_is_made(settings, words):
    with pytest.raises(ConfigError) as error:
        Merge("b", ["m", "n"], **settings)
    said = str(error.value).splitlines()
    assert all(any(line.startswith(word) for line in said) for word in words)
    assert len(said) == len(words)


def test_what_a_finished_run_was_made_with_is_not_judged_again():
    settings = {"base_model": "b", "models": [{"model": "m"}], "grouping": "block", "chunks": {"budget": 4}}
    assert merge_config(settings, use="keep").grouping == "block"


def test_devices_of_this_machine_count_only_to_learn():
    settings = {"base_model": "b", "models": [{"model": "m"}], "trainer.devices": 9999, "trainer.accelerator": "cpu"}
    assert merge_config(settings).trainer.devices == 9999
    with pytest.raises(ConfigError, match=r"trainer\.devices: does not go with trainer\.accelerator: expected at most"):
        merge_config(settings, use="learn")
