"""A learned merge is written for mergekit, and mergekit itself makes the same weights of it."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support.families import configuration, save_speaking_family, write

from adamerge import cli
from adamerge.runs.mergekit_values import Named, named
from adamerge.runs.to_mergekit import reference, weights


@pytest.fixture
def speaking(tmp_path, monkeypatch):
    """A tiny language model and two experts in a folder whose name mergekit would read as with adapter and revision."""
    folder = save_speaking_family(tmp_path / "c++ @home", "LlamaForCausalLM", "llama")
    monkeypatch.chdir(folder)
    return folder


def replayed(file, out):
    """What mergekit makes of a configuration."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    settings = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
    run_merge(settings, str(out), MergeOptions(write_model_card=False, quiet=True))
    return {name: tensor for part in out.glob("*.safetensors") for name, tensor in load_file(part).items()}


@pytest.mark.filterwarnings("ignore")  # of mergekit and what it imports
def test_mergekit_makes_the_same_weights(speaking, main):
    learned = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.1}}, "watch": {"monitor": "last"}}
    config = write(configuration(**learned))
    assert main("fit", config, "--run_dir", "run")[0] == 0
    code, said, complaint = main("mergekit", "run", "kit.yaml")
    assert (code, complaint) == (0, "")
    assert "mergekit-yaml kit.yaml" in said
    ours = load_file(speaking / "run/merged/model.safetensors")
    theirs = replayed(speaking / "kit.yaml", speaking / "kit")
    base = load_file(speaking / "base/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert max((theirs[name] - ours[name]).abs().max().item() for name in ours) < 1e-5
    assert all((ours[name] - base[name]).abs().max() > 1e-3 for name in ours)
    assert (
        len(
            {
                float(w["value"])
                for w in yaml.safe_load((speaking / "kit.yaml").read_text())["models"][0]["parameters"]["weight"]
            }
        )
        > 5
    )


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
