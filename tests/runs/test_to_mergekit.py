"""A learned merge is written for mergekit, and mergekit itself makes the same weights of it."""

from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from support.documented import ROOT, commands
from support.families import configuration, save_speaking_family, save_tokenizer, write

from adamerge import cli
from adamerge.runs.mergekit_values import Named, named
from adamerge.runs.to_mergekit import reference, weights


@pytest.fixture
def speaking(tmp_path, monkeypatch):
    """A tiny language model and two experts in a folder whose name mergekit would read as with adapter and revision."""
    folder = save_speaking_family(tmp_path / "c++ @home", "LlamaForCausalLM", "llama")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # of mergekit and what it imports
def test_mergekit_makes_the_same_weights(speaking, main):
    """The commands are those of docs/mergekit.md."""
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    text = (ROOT / "docs/mergekit.md").read_text(encoding="utf-8")
    (_, *write_it), (_, *run_it) = commands(text[text.index("adamerge mergekit runs/mine") :].partition("```")[0])
    learned = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.1}}, "watch": {"monitor": "last"}}
    assert main("fit", write(configuration(**learned)), "--run_dir", "runs/mine")[0] == 0
    code, said, complaint = main(*write_it)
    assert (code, complaint) == (0, "")
    assert "mergekit-yaml mergekit.yaml" in said
    mergekit_yaml.main([*run_it, "--quiet"], standalone_mode=False)
    ours = load_file(speaking / "runs/mine/merged/model.safetensors")
    theirs = {name: tensor for part in Path("merged").glob("*.safetensors") for name, tensor in load_file(part).items()}
    base = load_file(speaking / "base/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert max((theirs[name] - ours[name]).abs().max().item() for name in ours) < 1e-5
    assert all((ours[name] - base[name]).abs().max() > 1e-3 for name in ours)
    written = yaml.safe_load(Path("mergekit.yaml").read_text())
    assert len({weight["value"] for weight in written["models"][0]["parameters"]["weight"]}) > 5
    Path("mood/config.json").write_text(Path("mood/config.json").read_text() + " ")
    code, _, complaint = main("mergekit", "runs/mine", "other.yaml")
    assert code == cli.BAD_INPUT
    assert "config.json has other content" in complaint


def add_token(folder):
    """Give an expert a token of its own, with its row."""
    save_tokenizer(folder, end="[SEP]")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<own>"])
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(41, mean_resizing=False)
    model.save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("choice", ["base", "mood"])
def test_mergekit_gets_the_tokenizer_that_gives_all_models_the_same_rows(speaking, main, choice):
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    add_token(speaking / "mood")
    more = {"method": "task_arithmetic", "trainer": {"max_steps": 0, "accelerator": "cpu"}, "tokenizer": choice}
    config = configuration(**more)
    config["models"] = [{"model": model["model"]} for model in config["models"]]
    assert main("fit", write(config), "--run_dir", "run")[0] == 0
    assert main("mergekit", "run", "kit.yaml")[0] == 0
    mergekit_yaml.main(["kit.yaml", "theirs", "--quiet"], standalone_mode=False)
    ours, theirs = (transformers.AutoModelForCausalLM.from_pretrained(place) for place in ("run/merged", "theirs"))
    assert ours.config.vocab_size == (40 if choice == "base" else 41)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("place", ["org/base", "org/base@v1", "a+b", "a@b", "c++@d@e", "plain"])
def test_mergekit_and_init_read_the_model_that_was_written(place, tmp_path, monkeypatch):
    from mergekit.common import ModelReference

    monkeypatch.chdir(tmp_path)
    path, revision = (place, None) if not place.startswith("org/") else (place[:8], place[9:] or None)
    if "/" not in place:
        Path(place).mkdir()
    written = yaml.safe_load(yaml.safe_dump(reference(place)))
    found = ModelReference.model_validate(written)
    assert (found.model.path, found.model.revision, found.lora) == (path, revision, None)
    assert named(written) == Named(place)


def test_names_within_names_keep_their_own_weight():
    from mergekit.config import ConditionalParameter, evaluate_setting

    by_tensor = {"a.w": 0.1, "x.a.w": 0.2, "x.a.w.b": 0.3}
    written = [ConditionalParameter(**own) for own in weights(by_tensor)]
    found = {name: evaluate_setting(name, written, validate=float) for name in (*by_tensor, "other")}
    assert found == {**by_tensor, "other": 0.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"centre": "Isotropic"}, "the centre is Isotropic"),
        ({"task_vectors": "Magnitude"}, "transformed by Magnitude"),
        ({"rounding": "stochastic"}, "rounded stochastic"),
        ({"tokenizer": "union"}, "puts added tokens in another order"),
    ],
)
def test_what_mergekit_has_no_words_for_is_refused(speaking, main, changes, words):
    config = write(configuration(method="task_arithmetic", trainer={"max_steps": 0, "accelerator": "cpu"}, **changes))
    assert main("fit", config, "--run_dir", "run")[0] == 0
    code, _, complaint = main("mergekit", "run", "kit.yaml")
    assert code == cli.BAD_INPUT
    assert words in complaint
    assert not (speaking / "kit.yaml").exists()


def test_heads_are_refused(in_finished, main):
    code, _, complaint = main("mergekit", "run", "kit.yaml")
    assert code == cli.BAD_INPUT
    assert "mood, topic keep heads of their own" in complaint
