"""Every mistake of a configuration is found where it can be, all at once, and each with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.complaints import HEAD, LINE, complaint

from adamerge.command_line import read_arguments
from adamerge.runs.read_config import merge_config, merge_layers
from adamerge.runs.read_yaml import Document, read_yaml
from adamerge.types import ConfigError

MISTAKES = [
    ("calibratoin: a", "calibratoin: there is no such key. Did you mean calibration under models or keep?"),
    ("batch_size: 4", "batch_size: there is no such key. Did you mean batch_size under data?"),
    ("optimizer: {class_path: SGD, init_args: {lrr: 1}}", "init_args.lrr: SGD: there is no such key. Did you mean lr?"),
    ("optimizer: {lrr: 1}", "Adam: there is no such key. Did you mean lr?"),
    ("optimizer: {class_path: SGD, lr: 1}", "optimizer.lr: expected under init_args, beside class_path"),
    ("data: {batchsize: 4}", "data.batchsize: there is no such key. Did you mean batch_size?"),
    ("trainer: {max_stepps: 4}", "trainer.max_stepps: there is no such key. Did you mean max_steps?"),
    ("trainer: {accumulate_grad_batches: 2}", "trainer.accumulate_grad_batches: there is no such key"),
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
    ("centre: {scal: 0.5}", "centre.scal: there is no such key. Did you mean scale?"),
    ("chunks: {budget: .inf}", "chunks.budget: expected a finite number of at least 1"),
    ("chunks: {budget: 0.5}", "chunks.budget: expected a finite number of at least 1"),
    ("chunks: {budgit: 8}", "chunks.budgit: there is no such key. Did you mean budget?"),
    ("objective: {class_path: HiddenAlignment, init_args: {chosen: []}}", "expected auto or at least one layer"),
    ("objective: {class_path: Entropy, init_args: {temperature: 0}}", "temperature: expected a finite number above 0"),
    ("task_vectors: {class_path: Lines, init_args: {beta: .inf}}", "beta: expected 0 or more, found inf"),
    ("optimizer: {class_path: ProjectedGradient, init_args: {grow: .inf}}", "expected finite grow ≥ 1"),
    ("optimizer: {class_path: FrankWolfe, init_args: {varient: away}}", "FrankWolfe: there is no such key. Did you"),
    ("optimizer: FrankWolf", "Did you mean FrankWolfe?"),
    ("optimizer: {class_path: Adamm}", "there is no class Adamm;"),
    ("optimizer: {class_path: Adamm}", "Did you mean Adam?"),
    ("optimizer: {class_path: nowhere.Adam}", "there is no class nowhere.Adam;"),
    ("feasible: Simplexx", "feasible: expected Unbounded, Box, Simplex, found 'Simplexx'. Did you mean Simplex?"),
    ("feasible: {class_path: Simplex, init_args: {radius: 0}}", "above 0, found 0.0"),
    ("method: null", "fisher, found null."),
    (f"watch: {{average: {'9' * 400}}}", "watch.average: expected a"),
    ("run_dir:", "run_dir: expected a text, found null"),
    ("feasible: null", "feasible: expected Unbounded, Box, Simplex, found null"),
    (
        "grouping: tensr",
        "grouping: expected 'task', 'block', 'tensor' or 'component', found 'tensr'. Did you mean tensor?",
    ),
    ("method: adamergin", "Did you mean adamerging?"),
    ("data: {batch_size: many}", "data.batch_size: expected a whole number or null, found 'many'"),
    ("data: {batch_size: true}", "data.batch_size: expected a whole number or null, found true"),
    ("data: {batch_size: 0}", "data.batch_size: expected at least 1"),
    ("data: {max_length: 0}", "data.max_length: expected at least 1"),
    ("data: {held_out: 1.5}", "data.held_out: expected a share"),
    ("data: 3", "data: expected keys of Batching (rows, held_out,"),
    ("watch: {every: 0}", "watch.every: expected at least 1"),
    ("parameters: {head: classifier}", "parameters.head: expected a list, found 'classifier'"),
    ("optimizer: {class_path: Adam, init_args: {betas: [0.9]}}", "init_args.betas: expected 2 values, found 1"),
    ("method: ties\noptimizer: {lr: 1}", "optimizer: expected a class for these options, found none"),
    ("optimizer: {class_path: Adam, init_args: {capturable: true}}", "capturable: expected false, found true"),
    ("saved: 3", "saved: expected the settings that a run recorded, found 3; remove it"),
    ("data: {augmentation: {copies: 1000000000}}", "data.augmentation.copies: expected at least 1 and at most 1000"),
    ("data: {pseudo_answers: {max_new_tokens: 999999}}", "max_new_tokens: expected at least 1 and at most 131072"),
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
        ("[{model: mood, evaluatoin: a}]", "models.0.evaluatoin: there is no such key. Did you mean eval"),
        ("[{model: mood, loss_weight: -1}]", "models.0.loss_weight: expected a finite number of at least 0"),
        ("[{model: mood, weight: 1}]", "models.0.weight: there is no such key. Write loss_weight for the factor"),
        ("[{model: mood, evaluation: {path: a, rows: 0}}]", "models.0.evaluation.rows: expected at least 1, found 0"),
        ("[{model: mood, parameters: {weight: high}}]", "models.0.parameters.weight: expected a number, a list or"),
        ("[{task: mood}]", "models.0: missing: model"),
        ("[{model: a, evaluation: {path: a, max_new_tokens: 999999}}]", "models.0.evaluation.max_new_tokens: expected"),
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


MANY = [  # a section, and the expected errors, one per line
    (
        "data: {rows: 0, held_out: 2, batch_size: many, micro_batch: 0, bogus: 1}",
        [
            *(f"data.{key}: expected" for key in ("rows", "held_out", "batch_size", "micro_batch")),
            "data.bogus: there is no such key",
        ],
    ),
    (
        "trainer: {max_steps: -5, max_time: tomorrow, gradient_clip_val: -1, deterministic: 3}",
        [
            "trainer.max_steps: expected 0",
            "trainer.max_time: expected DD:HH:MM:SS",
            "trainer.gradient_clip_val: expected",
            "trainer.deterministic: expected true or false",
        ],
    ),
    (
        "optimizer: {lr: -1, weight_decay: -1, eps: tiny, betas: [2, 0.9]}",
        ["lr: expected a value that Adam accepts", "weight_decay: expected", "eps: expected", "betas: expected"],
    ),
    (
        "optimizer: {class_path: SGD, init_args: {lr: -1, momentum: -1}}",
        ["lr: expected a value that SGD", "momentum: expected a value that SGD"],
    ),
    ("lr_scheduler: {class_path: StepLR, init_args: {step_size: 1, gamma: x}}", ["gamma: expected a number"]),
    ("lr_scheduler: {class_path: StepLR, init_args: {step_size: 0}}", ["lr_scheduler.init_args"]),
    (
        "lr_scheduler: {class_path: LambdaLR, init_args: {lr_lambda: os.system}}",
        ["lr_lambda: expected an object that exists in Python only"],
    ),
    (
        "objective: {class_path: LogitAlignment, init_args: {temperature: 0, tail: 2}}",
        ["init_args.temperature: expected", "init_args.tail: expected"],
    ),
    (
        "objective: {class_path: Sum, init_args: {terms: [{class_path: Entropy, init_args: {temperature: 0}}, Sun]}}",
        ["terms.0.init_args.temperature: expected", "terms.1: expected"],
    ),
    (
        "init: {ridge: -1, towards: .nan, rows: 0}",
        ["init.ridge: expected", "init.towards: expected", "init.rows: expected"],
    ),
    ("centre: {scale: 3, rows: 0}", ["centre.scale: expected", "centre.rows: expected"]),
    ("watch: {every: 0, patience: 0}", ["watch.every: expected", "watch.patience: expected"]),
    (
        "feasible: {class_path: Simplex, init_args: {radius: 0, includes_base: maybe}}",
        ["feasible.init_args.radius: expected the radius", "feasible.init_args.includes_base: expected true or false"],
    ),
    (
        "optimizer: {class_path: SoftFrankWolfe, init_args: {top_k: 0, per: bogus, tolerance: -1}}",
        ["init_args.top_k: expected", "init_args.per: expected", "init_args.tolerance: expected"],
    ),
    (
        "optimizer: {class_path: FrankWolfe, init_args: {selection: cosine, variant: bogus, tolerance: -1}}",
        ["init_args.variant: expected", "init_args.tolerance: expected"],
    ),
    (
        "data: {rows: 0}\ndata: {held_out: 2}",
        ["data.rows: expected", "data is written twice", "data.held_out: expected"],
    ),
    (
        "init: .nan\nseed_everything: x\nrows: 3",
        ["init: expected a finite", "seed_everything: expected", "rows: there is"],
    ),
]


@pytest.mark.parametrize(("text", "words"), MANY, ids=[text.partition(":")[0] for text, _ in MANY])
def test_no_mistake_hides_another(text, words):
    said = complaint(HEAD + text).splitlines()
    assert all(line.startswith("merge.yaml:") for line in said)
    for word in words:
        assert sum(word in line for line in said) == 1, said
    assert len(said) == len(words)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("[{task: a, loss_weight: -1}]", ["models.0: missing: model", "models.0.loss_weight: expected"]),
        ("[{model: a, task: [1], loss_weight: -1}]", ["models.0.task: expected", "models.0.loss_weight: expected"]),
        (
            "[{model: a, loss_weight: -1}, {model: b, loss_weight: .inf}]",
            ["models.0.loss_weight: expected", "models.1.loss_weight: expected"],
        ),
        ("[{model: a, evaluation: {rows: 0}}]", ["evaluation: missing: path", "evaluation.rows: expected at least 1"]),
    ],
)
def test_no_mistake_of_a_model_hides_another(models, words):
    said = complaint(f"base_model: base\nmodels: {models}").splitlines()
    assert [word in line for word, line in zip(words, said, strict=True)] == [True] * len(words)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ("[{value: .nan}]", "weight.0.value: expected finite numbers, found nan"),
        ("[{value: 1}, {value: .inf, filter: mlp}]", "weight.1.value: expected finite numbers, found inf"),
        ("[{value: [0, .nan]}]", "weight.0.value: expected finite numbers, found nan"),
        ("[{value: high}]", "weight.0.value: expected a number or a list, found 'high'"),
        ("[{filter: mlp}]", "weight.0: missing: value"),
        ("[{value: 1, fliter: mlp}]", "weight.0.fliter: there is no such key. Did you mean filter?"),
        ("[0.5, .nan]", "weight: expected finite numbers, found nan"),
        ("[0.5, high]", "weight.1: expected a number, found 'high'"),
        ("{value: 1}", "weight: expected a number, a list"),
    ],
)
def test_a_mistake_in_a_weight_is_explained_in_the_form_that_was_written(weight, words):
    said = complaint(f"base_model: base\nmodels: [{{model: mood, parameters: {{weight: {weight}}}}}]")
    assert said.startswith(f"merge.yaml:2: models.0.parameters.{words}")
    assert len(said.splitlines()) == 1


WRONG = {  # a value that is refused by its type or its range, per key
    "data.rows": st.sampled_from(["0", "many"]),
    "data.held_out": st.sampled_from(["1.5", "half"]),
    "data.micro_batch": st.sampled_from(["-1", "[1]"]),
    "watch.every": st.sampled_from(["0", "often"]),
    "trainer.max_steps": st.sampled_from(["-5", "1.5"]),
    "trainer.precision": st.just("float"),
    "init": st.sampled_from([".nan", "[1]", "hgih"]),
    "optimizer.lr": st.sampled_from(["-1", "fast"]),
    "optimizer.weight_decay": st.sampled_from(["-1", "small"]),
    "regulariser.strength": st.sampled_from(["-1", ".inf"]),
    "chunks.budget": st.sampled_from(["0", "much"]),
    "seed_everything": st.just("today"),
    "grouping": st.just("layers"),
    "unknown": st.just("1"),
    "data.unknown": st.just("1"),
}


@given(st.data(), st.lists(st.sampled_from([*WRONG]), unique=True, min_size=1), st.lists(st.sampled_from([*WRONG])))
def test_every_mistake_is_reported_with_its_line(data, keys, twice):
    lines = [f"{key}: {data.draw(WRONG[key])}" for key in keys]
    repeated = [key for key in dict.fromkeys(twice) if key in keys]
    lines += [lines[keys.index(key)] for key in repeated]
    said = complaint(HEAD + "".join(f"{line}\n" for line in lines)).splitlines()
    for number, line in enumerate(lines):
        key = line.partition(":")[0]
        if key in repeated and number < len(keys):
            continue
        shown = key.replace("optimizer.", "optimizer.init_args.")
        assert sum(text.startswith(f"merge.yaml:{LINE + number}: {shown}: ") for text in said) == 1, (said, key)
    assert sum("is written twice" in text for text in said) == len(repeated)
    assert len(said) == len(keys) + len(repeated)


@pytest.mark.parametrize(("file", "count"), [("m.yaml", 1), ("m.yaml", 2), ("", 1)])
def test_what_is_missing_names_the_file(file, count):
    with pytest.raises(ConfigError) as error:
        merge_layers([read_yaml("init: 0", f"{number}{file}") if file else Document() for number in range(count)])
    files = ", ".join(f"{number}{file}" for number in range(count)) + ": " if file else ""
    assert str(error.value) == f"{files}missing: base_model, models"


def test_an_option_of_torch_is_a_plain_value():
    said = complaint(HEAD + "optimizer: {lr: x}")
    assert said == "merge.yaml:5: optimizer.init_args.lr: expected a number, found 'x'."


def test_what_is_missing_is_listed():
    assert complaint("method: ties") == "merge.yaml: missing: base_model, models"


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
    assert "--models: 0.mdel: there is no such key. Did you mean model?" in said


def test_mistakes_of_python_name_the_key():
    with pytest.raises(ConfigError, match=r"^feasible: expected Unbounded, Box, Simplex, found 3\.$"):
        merge_config({"base_model": "base", "models": [{"model": "a"}], "feasible": 3})


SECTIONS = st.sampled_from(["data", "data.pseudo_answers", "watch", "trainer", "chunks", "parameters", ""])


@given(st.lists(st.tuples(SECTIONS, st.integers(0, 999)), unique=True, min_size=1, max_size=8))
def test_every_unknown_key_is_reported_with_its_line(wrong):
    keys = [f"{section}.unknown_{number}".lstrip(".") for section, number in wrong]
    said = complaint(HEAD + "".join(f"{key}: 1\n" for key in keys)).splitlines()
    reported = [line.split(": ")[:2] for line in said]
    assert reported == [[f"merge.yaml:{LINE + index}", key] for index, key in enumerate(keys)]
