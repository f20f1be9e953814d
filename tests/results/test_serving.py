"""What servers read of an export is in its files (docs/serving.md)."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from support.families import CHATS, save_speaking_family

from adamerge import Merge, cli


@pytest.mark.parametrize("tied", [False, True])
def test_an_export_has_what_servers_read(tmp_path, monkeypatch, tied):
    folder = save_speaking_family(tmp_path / "family", "LlamaForCausalLM", "llama", ("mood",))
    monkeypatch.chdir(folder)
    for name in ("base", "mood"):
        model = transformers.AutoModelForCausalLM.from_pretrained(name)
        if tied:
            model.config.tie_word_embeddings = True
            model.tie_weights()
        model.generation_config.temperature, model.generation_config.do_sample = 0.7, True
        model.save_pretrained(name)
    Path("base/chat_template.jinja").write_text(CHATS)
    config = {"base_model": "base", "models": [{"model": "mood"}], "method": "task_arithmetic"}
    Path("merge.yaml").write_text(yaml.safe_dump({**config, "trainer": {"max_steps": 0, "accelerator": "cpu"}}))
    assert cli.main(["fit", "merge.yaml", "--run_dir", "run"]) == 0
    merged, settings = Path("run/merged"), json.loads(Path("run/merged/config.json").read_text())
    assert settings["architectures"] == ["LlamaForCausalLM"]
    assert settings["model_type"] == "llama"
    assert bool(settings.get("tie_word_embeddings")) is tied
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (merged / file).read_bytes() == Path("base", file).read_bytes()
    generation = json.loads((merged / "generation_config.json").read_text())
    assert (generation["temperature"], generation["do_sample"]) == (0.7, True)
    with safe_open(merged / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}
        assert ("lm_head.weight" in weights.keys()) is not tied


def test_llama_cpps_converter_takes_an_export(tmp_path, monkeypatch):
    """Where its source is on the path: the file holds the export's numbers (of query and key in another order)."""
    if not find_spec("conversion"):
        pytest.skip("llama.cpp's converter is not on the path; tests/readers/run.py --readers gguf fetches and runs it")
    monkeypatch.chdir(save_speaking_family(tmp_path / "family", "LlamaForCausalLM", "llama", ("mood",)))
    Merge("base", ["mood"], method="task_arithmetic").learn().export("merged")
    np.save(tmp_path / "ids.npy", np.arange(4))
    script = Path(__file__).parents[1] / "readers" / "read.py"
    subprocess.run([sys.executable, script, "gguf", tmp_path / "ids.npy", tmp_path, "merged"], check=True)
    assert not (tmp_path / "0.txt").exists(), (tmp_path / "0.txt").read_text()
    expected = np.concatenate([own.float().numpy().ravel() for own in load_file("merged/model.safetensors").values()])
    found = np.load(tmp_path / "0.npy")[: len(expected)]
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


def test_the_page_names_files_that_exports_have():
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w*/]+\.(?:json|jinja|safetensors))`", page))
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "modules.json", "1_Pooling/config.json"} <= named


@pytest.mark.parametrize("named", ["Float8WeightOnlyConfig", "Int8WeightOnlyConfig"])
def test_the_recipe_of_quantising_runs(tmp_path, monkeypatch, named):
    """Where torchao is installed: the page's own lines, on a small model whose answers stay nearly the same."""
    pytest.importorskip("torchao", exc_type=ImportError)
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```text\n(import torch\n.*?)```", page, flags=re.DOTALL)
    assert named in recipe
    save_speaking_family(tmp_path / "family", "LlamaForCausalLM", "llama", ("mood",))
    (tmp_path / "RUN").mkdir()
    shutil.copytree(tmp_path / "family" / "base", tmp_path / "RUN" / "merged")
    monkeypatch.chdir(tmp_path)
    exec(recipe.replace("Float8WeightOnlyConfig", named), {})
    ids = torch.arange(12).reshape(2, 6)
    both = (transformers.AutoModelForCausalLM.from_pretrained(f"RUN/{name}") for name in ("merged", "quantised"))
    with torch.no_grad():
        expected, found = (model(ids).logits.float() for model in both)
    assert 0 < (found - expected).norm() / expected.norm() < 0.05
