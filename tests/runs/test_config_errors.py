"""Every mistake of a configuration is found where it can be, all at once, and each with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamerge.command_line import read_arguments
from adamerge.runs.fit import learning_of
from adamerge.runs.layers import nested
from adamerge.runs.read_config import merge_config, merge_layers
from adamerge.runs.read_yaml import read_yaml
from adamerge.types import ConfigError

HEAD = "base_model: base\nmodels:\n  - {model: mood}\n  - {model: topic}\n"
LINE = HEAD.count("\n") + 1


def complaint(text, name="merge.yaml"):
    with pytest.raises(ConfigError) as error:
        merge_layers([read_yaml(text, name)])
    return str(error.value)


MISTAKES = [
    ("calibratoin: a", "calibratoin: there is no such key. Did you mean calibration under models?"),
    ("batch_size: 4", "batch_size: there is no such key. Did you mean batch_size under data?"),
    ("optimizer: {class_path: SGD, init_args: {lrr: 1}}", "init_args.lrr: SGD: there is no such key. Did you mean lr?"),
    ("optimizer: {lrr: 1}", "Adam: there is no such key. Did you mean lr?"),
    ("optimizer: {class_path: SGD, lr: 1}", "optimizer.lr: expected under init_args, beside class_path"),
    ("data: {batchsize: 4}", "data.batchsize: Batching: there is no such key. Did you mean batch_size?"),
    ("trainer: {max_stepps: 4}", "trainer.max_stepps: TrainerConfig: there is no such key. Did you mean max_steps?"),
    ("trainer: {accumulate_grad_batches: 2}", "trainer.accumulate_grad_batches: TrainerConfig: there is no such key"),
    ("lr_scheduler: StepLR", "missing: step_size"),
    ("lr_scheduler: cosin", "Did you mean cosine?"),
    ("init: close_form", "init: expected a number, 'average', 'published', 'closed_form'"),
    ("init: close_form", "found 'close_form'. Did you mean closed_form?"),
    ("init: .inf", "init: expected a finite number, found inf"),
    ("init: {ridge: .inf}", "init.ridge: expected a finite number of at least 0"),
    ("init: {towards: .nan}", "init.towards: expected a finite number"),
    ("centre: regmeen", "Did you mean regmean?"),
    ("centre: Wudy", "Did you mean Wudi?"),
    ("centre: {class_path: Wudi, init_args: {ridg: 1}}", "Wudi: there is no such key. Did you mean ridge?"),
    ("centre: {scal: 0.5}", "centre.scal: RegMean: there is no such key. Did you mean scale?"),
    ("chunks: {budget: .inf}", "chunks.budget: expected a finite number of at least 1"),
    ("chunks: {budget: 0.5}", "chunks.budget: expected a finite number of at least 1"),
    ("chunks: {budgit: 8}", "chunks.budgit: Chunks: there is no such key. Did you mean budget?"),
    ("objective: {class_path: HiddenAlignment, init_args: {chosen: []}}", "expected auto or at least one layer"),
    ("objective: {class_path: Entropy, init_args: {temperature: 0}}", "temperature: expected a number above 0"),
    ("task_vectors: {class_path: Lines, init_args: {beta: .inf}}", "beta: expected 0 or more, found inf"),
    ("optimizer: {class_path: ProjectedGradient, init_args: {grow: .inf}}", "Expected finite grow ≥ 1"),
    ("optimizer: {class_path: FrankWolfe, init_args: {varient: away}}", "FrankWolfe: there is no such key. Did you"),
    ("optimizer: FrankWolf", "Did you mean FrankWolfe?"),
    ("optimizer: {class_path: Adamm}", "there is no class Adamm;"),
    ("optimizer: {class_path: Adamm}", "Did you mean Adam?"),
    ("optimizer: {class_path: nowhere.Adam}", "there is no class nowhere.Adam;"),
    ("feasible: Simplexx", "feasible: expected Unbounded, Box, Simplex, found 'Simplexx'. Did you mean Simplex?"),
    ("feasible: {class_path: Simplex, init_args: {radius: 0}}", "above 0, found 0.0"),
    ("feasible: null", "feasible: expected Unbounded, Box, Simplex, found None"),
    ("grouping: tensr", "grouping: expected 'task', 'block' or 'tensor', found 'tensr'. Did you mean tensor?"),
    ("method: adamergin", "Did you mean adamerging?"),
    ("data: {batch_size: many}", "data.batch_size: expected a whole number or null, found 'many'"),
    ("data: {batch_size: true}", "data.batch_size: expected a whole number or null, found True"),
    ("data: {batch_size: 0}", "data.batch_size: expected at least 1"),
    ("data: {max_length: 0}", "data.max_length: expected at least 1"),
    ("data: {held_out: 1.5}", "data.held_out: expected a share"),
    ("data: 3", "data: expected keys of Batching (rows, held_out,"),
    ("watch: {every: 0}", "watch.every: expected at least 1"),
    ("parameters: {head: classifier}", "parameters.head: expected a list, found 'classifier'"),
    ("optimizer: {class_path: Adam, init_args: {betas: [0.9]}}", "init_args.betas: expected 2 values, found 1"),
    ("method: ties\noptimizer: {lr: 1}", "optimizer: expected a class for these options, found none"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mistake_is_explained_with_its_line(text, words):
    said = complaint(HEAD + text)
    assert len(said.splitlines()) == 1
    assert said.startswith(f"merge.yaml:{LINE + text.count(chr(10))}: ")
    assert words in said


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("[{model: mood, evaluatoin: a}]", "models.0.evaluatoin: ModelConfig: there is no such key. Did you mean eval"),
        ("[{model: mood, loss_weight: -1}]", "models.0.loss_weight: expected a finite number of at least 0"),
        ("[{model: mood, weight: 1}]", "models.0.weight: there is no such key. Write loss_weight for the factor"),
        ("[{model: mood, evaluation: {path: a, rows: 0}}]", "models.0.evaluation: a: rows: expected at least 1"),
        (
            "[{model: mood, parameters: {weight: high}}]",
            "models.0.parameters.weight: expected a number, a list or",
        ),
        ("[{task: mood}]", "models.0: missing: model"),
        ("mood", "models: expected a list, found 'mood'"),
    ],
)
def test_a_mistake_of_a_model_is_explained_with_its_line(models, words):
    assert complaint(f"base_model: base\nmodels: {models}").startswith(f"merge.yaml:2: {words}")


def test_wrong_key_type_and_value_are_all_reported():
    said = complaint(HEAD + "gruping: task\ndata:\n  held_out: 1.5\nseed_everything: today\n").splitlines()
    assert [line[: len("merge.yaml:5:")] for line in said] == ["merge.yaml:5:", "merge.yaml:7:", "merge.yaml:8:"]
    assert said[0].endswith("gruping: there is no such key. Did you mean grouping?")
    assert "data.held_out: expected a share" in said[1]
    assert "seed_everything: expected a whole number, found 'today'" in said[2]


def test_what_is_missing_is_listed():
    assert complaint("method: ties") == "missing: base_model, models"


def test_options_of_the_command_line_are_named_as_they_are_written():
    class Own:
        pass

    words = ["--data.batch_size", "many", "--gruping=task", "--optimizer.lrr", "1", "--models", '[{"mdel": "a"}]']
    _, layers = read_arguments(Own, words, merges=True)
    with pytest.raises(ConfigError) as error:
        merge_layers([read_yaml("base_model: base", "merge.yaml"), *layers])
    said = str(error.value)
    assert "--data.batch_size: expected a whole number or null, found 'many'." in said
    assert "--gruping: there is no such key. Did you mean grouping?" in said
    assert "--optimizer.lrr: Adam: there is no such key. Did you mean lr?" in said
    assert "--models: 0.mdel: ModelConfig: there is no such key. Did you mean model?" in said


def test_mistakes_of_python_name_the_key():
    with pytest.raises(ConfigError, match=r"^feasible: expected Unbounded, Box, Simplex, found 3\.$"):
        merge_config({"base_model": "base", "models": [{"model": "a"}], "feasible": 3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"base_model: [1,\nmodels: 2", "bad.yaml: this is not YAML in UTF-8"),
        (b"base_model: b\xe4se", "bad.yaml: this is not YAML in UTF-8"),
        (b"a: &a [*a]", "bad.yaml: "),
        (b"- 1\n- 2", "bad.yaml: expected keys and values"),
        (b"", "bad.yaml: expected keys and values"),
        (b"data: {rows: 1}\ninit: 0\ndata: {rows: 2}", "bad.yaml:3: the key data is written twice in one mapping"),
        (b"data: {rows: 1, rows: 2}", "bad.yaml:1: the key rows is written twice"),
    ],
)  # fmt: skip
def test_files_that_are_no_configuration(text, words):
    with pytest.raises(ConfigError, match="bad") as error:
        merge_layers([read_yaml(text, "bad.yaml")])
    assert str(error.value).startswith(words)


SECTIONS = st.sampled_from(["data", "data.pseudo_answers", "watch", "trainer", "chunks", "parameters", ""])


@given(st.lists(st.tuples(SECTIONS, st.integers(0, 999)), unique=True, min_size=1, max_size=8))
def test_every_unknown_key_is_reported_with_its_line(wrong):
    keys = [f"{section}.unknown_{number}".lstrip(".") for section, number in wrong]
    said = complaint(HEAD + "".join(f"{key}: 1\n" for key in keys)).splitlines()
    reported = [line.split(": ")[:2] for line in said]
    assert reported == [[f"merge.yaml:{LINE + index}", key] for index, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "LBFGS", "feasible": "Box", "data.batch_size": None}, "torch's LBFGS on Box"),
        ({"optimizer": "ProjectedGradient", "trainer.precision": "bf16-mixed"}, "projected gradient with bf16"),
        ({"chunks": {"budget": 8}, "grouping": "task"}, "expected grouping: tensor, found task"),
        ({"method": "ties", "centre": "Isotropic"}, "so Ties would add nothing to the centre"),
        ({"task_vectors": "Isotropic", "init": "closed_form"}, "Isotropic makes one task vector of all experts"),
        ({"trainer.max_steps": -1}, "trainer.max_steps: expected 0 (nothing is learned) or more, found -1"),
        ({"optimizer.lr": -1}, "optimizer: Invalid learning rate: -1"),
        ({"optimizer": None}, "optimizer: expected an optimiser"),
        ({"trainer.accelerator": "gpuu"}, "gpuu"),
        ({"models": [{"model": "a"}], "feasible": "Simplex"}, "A simplex over 1 expert is a single point"),
        ({"optimizer": "SoftFrankWolfe", "feasible": "Unbounded"}, "there is no vertex to select; choose a simplex"),
        ({"optimizer": "LBFGSB", "feasible": "Simplex", "data.batch_size": None}, "bounds on single coefficients only"),
        ({"optimizer": "LBFGSB"}, "L-BFGS-B with another batch at every step is not defined"),
        ({"optimizer": "ProjectedGradient", "trainer.gradient_clip_val": 1.0}, "projected gradient with gradient clip"),
        ({"optimizer": "FrankWolfe", "feasible": "Simplex"}, "Frank-Wolfe (hard) with a learning-rate scheduler"),
        (
            {"method": "frank_wolfe", "optimizer": {"class_path": "SoftFrankWolfe", "init_args": {"top_k": 5}}},
            "top_k=5 exceeds the pool of 3 vertices",
        ),
    ],
)
def test_choices_that_do_not_go_together(changes, words):
    minimal = {"base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    with pytest.raises(ConfigError) as error:
        learning_of(merge_config(minimal | changes), progress_bar=False)
    assert words in str(error.value)


def test_cosine_selection_needs_plain_steps():
    options = {"class_path": "FrankWolfe", "init_args": {"selection": "cosine"}}
    with pytest.raises(ConfigError, match="Selection by cosine is the published code's"):
        merge_config({"base_model": "base", "models": [{"model": "a"}], "optimizer": options})


def test_places_follow_dotted_keys():
    document = nested(read_yaml("data.rows: 4", "merge.yaml"))
    assert document.places["data", "rows"].source == "merge.yaml:1"
