"""The code in a model card, run as it is written, gives the model of its folder, with all of its modules."""

import ast
import html
import re
import shutil
from fnmatch import fnmatch

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from support.families import build
from support.sentence_encoders import TASKS, TEXTS, as_sentence_encoder, by_hand, save_encoders
from transformers import AutoTokenizer, BertForSequenceClassification

from adamerge import Expert, Merge
from adamerge.results.loading import Loading, loading_of
from adamerge.results.model_card import CardFacts, Source, card

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base


def models_of(folder, place=None):
    """Run the code of a folder's card, line by line; return the models in the order in which they are loaded."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names, found = {}, []
    for line in code.replace("PATH_OR_ID", str(place or folder)).splitlines():
        exec(line, names)
        found += [names["model"]] if line.startswith("model = ") else []
    return found


def exported(mode):
    return Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic").learn().export(mode)


def assert_encodes(model, folder):
    dense = load_file(folder / "2_Dense/model.safetensors")
    torch.testing.assert_close(torch.from_numpy(model.encode(TEXTS)), by_hand(folder, dense))


def metadata_of(folder):
    found = ModelCard.load(folder / "README.md").data  # parses and validates
    return found.library_name, found.pipeline_tag


@pytest.fixture
def encoders(tmp_path, monkeypatch):
    monkeypatch.chdir(save_encoders(tmp_path))
    return tmp_path


def test_an_encoder_of_all_tasks(encoders):
    for seed, name in enumerate(("base", *TASKS)):
        as_sentence_encoder(name, seed)
    done = exported("out")
    assert set(done.checkpoints.values()) == {done.folder}
    assert metadata_of(done.folder) == ("sentence-transformers", "sentence-similarity")
    (model,) = models_of(done.folder)
    assert_encodes(model, done.folder)
    assert "no embedding" in (done.folder / "README.md").read_text(encoding="utf-8")


def test_encoders_with_modules_of_their_own_in_subfolders_here_and_on_the_hub(encoders, monkeypatch):
    for seed, task in enumerate(TASKS):
        as_sentence_encoder(task, seed, size=6 + seed)
    done = exported("out")
    models = models_of(done.folder)
    for task, model in zip(TASKS, models, strict=True):
        folder = done.checkpoints[task]
        assert folder == done.folder / task
        assert metadata_of(folder) == ("sentence-transformers", "sentence-similarity")
        assert_encodes(model, folder)

        def download(task=task, **asked):
            """Give what is asked for of a repository, and nothing else of it."""
            files = [file for file in done.folder.rglob("*") if file.is_file()]
            for file in files:
                name = file.relative_to(done.folder)
                if fnmatch(str(name), asked["allow_patterns"]):
                    (encoders / "hub" / task / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, encoders / "hub" / task / name)
            assert asked["repo_id"] == "org/merge"
            return str(encoders / "hub" / task)

        monkeypatch.setattr("sentence_transformers.util.file_io.snapshot_download", download)
        (again,) = models_of(folder, "org/merge")
        assert_encodes(again, folder)
        (here,) = models_of(folder, done.folder)
        assert_encodes(here, folder)


@pytest.mark.parametrize(("labels", "pipeline"), [(1, "text-ranking"), (3, "text-classification")])
def test_cross_encoders(encoders, labels, pipeline):
    as_sentence_encoder("base", 0)
    for seed, task in enumerate(TASKS):
        build("BertForSequenceClassification", "bert", seed, num_labels=labels).save_pretrained(task)
        CrossEncoder(task, device="cpu").save(task)
    done, pair = exported("out"), ("good film", "bad plot")
    assert metadata_of(done.folder) == ("sentence-transformers", "sentence-similarity")
    for task, model in zip(TASKS, models_of(done.folder), strict=True):
        place = done.checkpoints[task]
        assert metadata_of(place) == ("sentence-transformers", pipeline)
        inputs = AutoTokenizer.from_pretrained(place)([pair[0]], [pair[1]], return_tensors="pt")
        logits = BertForSequenceClassification.from_pretrained(place).eval()(**inputs).logits[0].detach()
        expected = logits.sigmoid() if labels == 1 else logits
        torch.testing.assert_close(torch.from_numpy(model.predict([pair])).flatten(), expected)


def test_a_plain_merge_of_encoders_is_loaded_by_transformers(encoders):
    for seed, (task, mode) in enumerate(zip(TASKS, ("cls", "max"), strict=True)):
        as_sentence_encoder(task, seed, mode=mode)
    done = exported("out")
    assert metadata_of(done.folder) == ("transformers", None)
    assert [type(model) for model in models_of(done.folder)] == [SentenceTransformer] * 2


@pytest.mark.parametrize("package", ["transformers", "peft", "sentence_transformers"])
@pytest.mark.parametrize("task", [None, "news"])
def test_what_the_code_uses_is_imported(package, task):
    own = Loading("Model", None if package == "sentence_transformers" else "AutoTokenizer", package=package)
    facts = CardFacts([Source("base", "b"), Source("news", "n")], "auto", [])
    text = card(facts, {"": own, "news": own}, task, "merged")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    imported, used = re.split(r"\n\n", code, maxsplit=1)
    names = set(re.findall(r"(?<![\w.])([A-Za-z]\w*)[.(]", used))
    assert names == set(re.findall(r"(\w+)$", imported, flags=re.MULTILINE))


@pytest.mark.parametrize("task", ['say "hi"', "it's 2*3*4", "<b>{{ x }}", "zwölf $x$"])
@pytest.mark.parametrize("package", ["transformers", "sentence_transformers"])
def test_names_are_named_in_code_and_in_words(task, package):
    own = Loading("Model", None, package=package)
    facts = CardFacts([Source("base", "b"), Source(task, "n")], "auto", [f"rows of {task}: 3"])
    for place in (None, task):
        text = card(facts, {"": own, task: own}, place, "merged")
        (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        values = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        assert task in values
        assert ModelCard(text).data.model_name == ("merged" if place is None else f"merged-{task}")
        words = unquote(re.sub(r"```.*?```", "", ModelCard(text).text, flags=re.DOTALL))
        assert task in words
        assert "<b>" not in re.sub(r"```.*?```", "", ModelCard(text).text, flags=re.DOTALL)


def unquote(text):
    """What a page shows of Markdown."""
    return html.unescape(text.replace("\\*", "*"))


def test_modules_beside_an_adapter_are_not_dropped(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"task_type": "FEATURE_EXTRACTION"}')
    assert loading_of(tmp_path) == Loading("AutoPeftModel", package="peft")
    (tmp_path / "modules.json").write_text("[]")
    assert loading_of(tmp_path).package == "sentence_transformers"
