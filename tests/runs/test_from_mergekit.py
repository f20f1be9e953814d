"""A configuration that begins with one of mergekit gives mergekit's weights; what does not is reported."""

import peft
import pytest
import torch
import transformers
import yaml
from support.families import build, near, save_family, save_tokenizer

from adamerge import cli
from adamerge.runs.from_mergekit import read_mergekit
from adamerge.runs.mergekit_values import Named

LIST = "gets the last number of a list; in mergekit the first"
CASES = {
    "filters fall through": (
        "{models: [{model: ./x, parameters: {weight: [{filter: self_attn, value: 1}]}}, {model: ./y}],"
        " parameters: {weight: [{filter: mlp, value: 0.2}, {value: 0.6}]}}"
    ),
    "one filter": "{models: [{model: ./x, parameters: {weight: {filter: mlp, value: 1}}}], parameters: {weight: 0}}",
    "slice": (
        "{slices: [{sources: [{model: ./base, layer_range: [0, 3]}, {model: ./x, layer_range: [0, 3], parameters:"
        " {weight: [{filter: q_proj, value: 1}]}}], parameters: {weight: [{filter: mlp, value: 0.3}]}}],"
        " parameters: {weight: 0.6}}"
    ),
    "list": "{models: [{model: ./x, parameters: {weight: [0, 0.2, 1]}}]}",
    "adapter of another": "{models: [{model: ./x+./of_x, parameters: {weight: 0.5}}]}",
    "adapter by keys": "{models: [{model: {model: {path: ./x}, lora: {path: ./of_x}}, parameters: {weight: 0.5}}]}",
    "adapter of the base": "{models: [{model: ./base+./of_base, parameters: {weight: 0.5}}]}",
    "scaled": "{models: [{model: ./x, parameters: {weight: 0.5}}, {model: ./y, parameters: {weight: 1}}],"
    " parameters: {lambda: 0.4, normalize: true}}",
    "linear": (
        "{merge_method: linear, models: [{model: ./x, parameters: {weight: [{filter: mlp, value: 1}, {value: 2}]}},"
        " {model: ./y, parameters: {weight: 1}}]}"
    ),
    "base in the average": (
        "{merge_method: linear, models: [{model: ./base, parameters: {weight: 2}},"
        " {model: ./x, parameters: {weight: 1}}]}"
    ),
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    more = {"num_hidden_layers": 3}
    base = build("LlamaForCausalLM", "llama", 0, **more)
    save_family(folder, base, {t: near("LlamaForCausalLM", "llama", base, s, **more) for s, t in enumerate("xy", 1)})
    for name in ("base", "x", "y"):
        save_tokenizer(folder / name, end="[SEP]")
    for seed, below in enumerate(("base", "x")):
        torch.manual_seed(seed)
        options = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / below)
        peft.get_peft_model(model, options).save_pretrained(folder / f"of_{below}")
    return folder


def weights(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()


def merged_by_mergekit(content, out, cache):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(quiet=True, write_model_card=False, lora_merge_cache=str(cache))
    run_merge(MergeConfiguration.model_validate(content), str(out), options)
    return weights(out)


@pytest.mark.filterwarnings("ignore")  # of mergekit and what it imports
@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_as_mergekit(pool, tmp_path, monkeypatch, main, name):
    monkeypatch.chdir(pool)
    content = {"merge_method": "task_arithmetic", "dtype": "float32", **yaml.safe_load(CASES[name])}
    if content["merge_method"] != "linear":
        content["base_model"] = "./base"
    (tmp_path / "kit.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    theirs = merged_by_mergekit(content, tmp_path / "theirs", tmp_path / "cache")
    base = [] if "base_model" in content else ["base"]
    code, said, _ = main("init", *base, "--from_mergekit", tmp_path / "kit.yaml", "--out", tmp_path / "ours.yaml")
    assert code == 0
    assert (LIST in said) == (name == "list")
    run = ["--run_dir", tmp_path / "run", "--trainer.accelerator", "cpu"]
    assert main("fit", tmp_path / "ours.yaml", *run)[0] == 0
    ours = weights(tmp_path / "run/merged")
    after = ("model.norm.weight", "lm_head.weight") if name == "list" else ()
    assert theirs.keys() == ours.keys()
    for key, expected in theirs.items():
        if key not in after:
            torch.testing.assert_close(ours[key], expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_is_no_base(tmp_path, monkeypatch, main):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "kit.yaml"
    file.write_text("{merge_method: task_arithmetic, base_model: b+lora, models: [{model: b+other}]}", encoding="utf-8")
    code, _, complaint = main("init", "--from_mergekit", "kit.yaml", "--out", "new.yaml")
    assert code == cli.BAD_INPUT
    assert "base_model: expected a complete checkpoint, found the adapter lora over b" in complaint
    found = read_mergekit(file, "merged")
    assert (found.base_model, dict(found.models)) == (None, {Named("b", "other"): None})


@pytest.mark.parametrize("method", ["slerp", "nearswap", "arcee_fusion"])
def test_what_joins_two_models_has_no_base_of_them(tmp_path, monkeypatch, main, method):
    monkeypatch.chdir(tmp_path)
    text = f"{{merge_method: {method}, base_model: x, models: [{{model: x}}, {{model: y}}], parameters: {{t: 0.5}}}}"
    (tmp_path / "kit.yaml").write_text(text, encoding="utf-8")
    code, _, complaint = main("init", "--from_mergekit", "kit.yaml", "--out", "new.yaml")
    assert code == cli.BAD_INPUT
    assert f"found one of the two that {method} joins (x). Name their base: adamerge init BASE" in complaint
    code, _, complaint = main("init", "base", "z", "--from_mergekit", "kit.yaml", "--out", "new.yaml")
    assert code == cli.BAD_INPUT
    assert "expected the base alone beside --from_mergekit, whose file names the experts, found z" in complaint
    code, said, _ = main("init", "base", "--from_mergekit", "kit.yaml", "--out", "new.yaml")
    written = yaml.safe_load((tmp_path / "new.yaml").read_text(encoding="utf-8"))
    assert (code, written["base_model"], [one["model"] for one in written["models"]]) == (0, "base", ["x", "y"])
    assert f"merge_method: {method}: there is no preset of this name" in said
    assert "parameters: t: 0.5" in said


@pytest.mark.parametrize("weight", ["[]", "{}", "[[1]]", "[{filter: a}]", "{value: []}", "none", "''"])
def test_weights_of_other_forms_are_left_to_check(tmp_path, weight):
    file = tmp_path / "kit.yaml"
    file.write_text(f"{{merge_method: linear, models: [{{model: x, parameters: {{weight: {weight}}}}}]}}", "utf-8")
    found = read_mergekit(file, "b")
    assert [name.word for name in found.models] == ["x"]


def test_keys_of_models_and_slices_that_do_not_carry_over_are_said(tmp_path):
    file = tmp_path / "kit.yaml"
    file.write_text(
        "{merge_method: task_arithmetic, base_model: b, slices: [{residual_weight: 0.5, sources: "
        "[{model: {model: {path: x, revision: v1}, lora: {path: o/l, revision: v2}, override_architecture: A}}]}],"
        " dtype: float16, out_dtype: float32}",
        encoding="utf-8",
    )
    found = read_mergekit(file)
    assert dict(found.models) == {Named("x@v1", "o/l@v2"): None}
    *dropped, rounded = found.dropped
    assert dropped == ["x@v1+o/l@v2: override_architecture: A", "slices: residual_weight: 0.5"]
    assert rounded == "dtype: float16: merges are computed in more bits, and rounded to float32 once (out_dtype)"
