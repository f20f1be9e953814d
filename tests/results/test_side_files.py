"""Whose side files an export has: what all experts bring is the merge's, what some bring is theirs alone."""

import json
import shutil
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from support.families import build, save_speaking_family
from support.sentence_encoders import TASKS, as_sentence_encoder, save_encoders
from transformers import AutoTokenizer, BertForSequenceClassification

from adamerge import Expert, Merge
from adamerge.results.beside import read_beside
from adamerge.results.whose_files import plan_of
from adamerge.runs.build_model import open_experts
from adamerge.runs.inputs import hash_files, hash_processor
from adamerge.runs.read_config import merge_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base


def text(name):
    def bring(folder, content):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return bring


def settings(name, key, words=None):
    """Set a key of a file of settings."""

    def bring(folder, content):
        file = folder / name
        former = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**former, key: (words or {}).get(content, content)}))

    return bring


def tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(json.dumps({"version": content}))
    (folder / "tokenizer_config.json").write_text("{}")


def module(folder, content):
    entries = [{"idx": 0, "name": "0", "path": "", "type": "a.Transformer"}]
    entries += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "a.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": content}))


PROMPTS = {"one": {"query": "one"}, "two": {"query": "two"}}
ENDS = {"one": [1, 2], "two": 3}
TEXT_ENDS = {name: {"eos_token_id": ends} for name, ends in ENDS.items()}
KINDS = {
    "tokenizer": ("tokenizer", tokenizer, "tokenizer"),
    "image processor": ("processor", settings("preprocessor_config.json", "size"), "processor"),
    "video processor": ("processor", settings("video_preprocessor_config.json", "size"), "processor"),
    "template": ("templates", text("chat_template.jinja"), "chat template"),
    "template in settings": ("templates", settings("tokenizer_config.json", "chat_template"), "chat template"),
    "named template": ("templates", text("additional_chat_templates/tool.jinja"), "chat template"),
    "end of generation": (
        "generation",
        settings("generation_config.json", "eos_token_id", ENDS),
        "generation settings",
    ),
    "sampling": (
        "generation",
        settings("generation_config.json", "top_k", {"one": 5, "two": 6}),
        "generation settings",
    ),
    "end in config": ("token_ids", settings("config.json", "eos_token_id", ENDS), "special tokens of config.json"),
    "start in config": ("token_ids", settings("config.json", "decoder_start_token_id", ENDS), "special tokens"),
    "end in a part of config": ("token_ids", settings("config.json", "text_config", TEXT_ENDS), "special tokens"),
    "modules": ("modules", module, "sentence-transformers modules"),
    "settings of modules": ("modules", settings("config_sentence_transformers.json", "prompts", PROMPTS), "modules"),
    "head beside": ("heads", text("model_head.pkl"), "head beside the encoder"),
    "code": ("code", text("modeling_mine.py"), "code"),
}
"""Attribute of files that accompany weights, how a folder gets it, and what notes call it."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A base and two experts without anything beside their weights, opened with trust in their code."""
    folder = save_speaking_family(tmp_path_factory.mktemp("plain"), "LlamaForCausalLM", "llama")
    for file in [file for file in folder.glob("*/*") if file.name not in ("config.json", "model.safetensors")]:
        file.unlink()
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text())
        file.write_text(json.dumps({key: config[key] for key in config if not key.endswith("_token_id")}))
    models = [{"model": str(folder / task)} for task in TASKS]
    config = {"base_model": str(folder / "base"), "models": models, "trust_remote_code": True}
    return folder, open_experts(merge_config(config, allow_code=True))


@pytest.fixture
def family(opened):
    """The same, with folders that are plain again afterwards."""
    folder, experts = opened
    configs = {file: file.read_text() for file in folder.glob("*/config.json")}
    yield folder, experts
    for place in (folder / name for name in ("base", *TASKS)):
        for entry in [entry for entry in place.iterdir() if entry.name not in ("config.json", "model.safetensors")]:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for file, content in configs.items():
        file.write_text(content)


def value(beside, kind):
    """What a folder would get: files by content, settings as they are, modules with theirs."""
    found = getattr(beside, kind)
    if kind == "modules":
        return found and {**{n: f.read_text() for n, f in found.files.items()}, **dict(found.settings)}
    return {name: one.read_text() if isinstance(one, Path) else one for name, one in found.items()}


WHO = {
    "all experts": ({"mood": "one", "topic": "one"}, "mood", ()),
    "one expert": ({"mood": "one"}, "base", ("mood",)),
    "each its own": ({"mood": "one", "topic": "two"}, "base", ("mood", "topic")),
    "the base": ({"base": "one"}, "base", ()),
    "base and experts": ({"base": "one", "mood": "one", "topic": "one"}, "base", ()),
    "all experts another": ({"base": "one", "mood": "two", "topic": "two"}, "mood", ()),
    "one expert another": ({"base": "one", "mood": "one", "topic": "two"}, "base", ("topic",)),
}
"""Who brings what, whose the merge has, and which tasks have a folder of their own."""

OTHERWISE = {
    ("code", "all experts another"): ("base", TASKS),  # code belongs to the configuration, which is the base's
    ("settings of modules", "the base"): ("mood", ()),  # the experts have some too
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("kind", KINDS)
def test_what_all_bring_is_the_merges_and_what_some_bring_is_theirs(family, kind, who):
    (attribute, bring, words), (brought, *usual) = KINDS[kind], WHO[who]
    whose, apart = OTHERWISE.get((kind, who), usual)
    folder, experts = family
    opened = {"base": experts.checkpoint, **{task: experts.tasks[task].checkpoint for task in TASKS}}
    if kind == "settings of modules":
        for name in opened:
            module(folder / name, "mean")
            bring(folder / name, "none")
    before = {name: value(read_beside(one), attribute) for name, one in opened.items()}
    for name, content in brought.items():
        bring(folder / name, content)
    own = {name: value(read_beside(one), attribute) for name, one in opened.items()}
    assert {name for name in own if own[name] != before[name]} == set(brought)
    plan = plan_of(experts)
    assert value(plan.root, attribute) == own[whose]
    assert tuple(plan.tasks) == apart
    notes = "\n".join(plan.notes)
    for task in apart:
        assert value(plan.tasks[task], attribute) == own[task]
        assert f"{task}: has its own" in notes
        assert words in notes
    assert ("the merged checkpoint gets" in notes) is (whose != "base")


@pytest.mark.parametrize(("theirs", "whose"), [("two", "mood"), ("one", "base")])
def test_experts_that_know_the_same_tokens_bring_them_whatever_their_settings(family, theirs, whose):
    folder, experts = family
    tokenizer(folder / "base", "one")
    for number, task in enumerate(TASKS):
        tokenizer(folder / task, theirs)
        (folder / task / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64 + number}))
        (folder / task / "chat_template.jinja").write_text("{{ messages }}<|e|>")
    plan = plan_of(experts)
    own = experts.checkpoint if whose == "base" else experts.tasks[whose].checkpoint
    assert value(plan.root, "tokenizer") == value(read_beside(own), "tokenizer")
    assert "chat template" in "\n".join(plan.notes)
    assert [*plan.tasks] == [task for task in TASKS if task != whose]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_among_the_files_whose_changes_are_noticed(family, kind):
    folder, experts = family
    bring = KINDS[kind][1]
    opened = {"base": experts.checkpoint, "mood": experts.tasks["mood"].checkpoint}
    for name, checkpoint in opened.items():
        if kind == "settings of modules":
            module(folder / name, "mean")
        bring(folder / name, "one")
        then = {**hash_files(checkpoint), **hash_processor(checkpoint)}
        bring(folder / name, "two")
        now = {**hash_files(checkpoint), **hash_processor(checkpoint)}
        assert then.keys() == now.keys()
        assert [file for file in now if now[file] != then[file]]


@pytest.mark.parametrize("who", ["base", *TASKS])
def test_what_no_checkpoint_needs_is_said_of_every_folder(family, who):
    folder, experts = family
    for name in ("README.md", "my_projection.pt"):
        (folder / who / name).write_text("x")
    (note,) = [note for note in plan_of(experts).notes if "not copied" in note]
    assert f"{who}: not copied, because no checkpoint needs them (1 files or folders): my_projection.pt" in note


def test_a_licence_of_one_expert_is_said(family):
    folder, experts = family
    for name, words in (("base", "one"), ("mood", "one"), ("topic", "two")):
        (folder / name / "LICENSE").write_text(words)
    plan = plan_of(experts)
    assert plan.root.others["LICENSE"].read_text() == "one"
    assert plan.tasks == {}
    assert plan.notes == ("topic: LICENSE: not copied, because not all experts have the same. Read it where it is.",)


def test_nothing_of_one_expert_is_in_the_merge_or_in_the_folders_of_others(tmp_path, monkeypatch):
    monkeypatch.chdir(save_encoders(tmp_path))
    as_sentence_encoder("mood", 0)
    others = KINDS.keys() - {"modules", "tokenizer", "end in a part of config"}  # it has them, or cannot have them
    for kind in others:
        KINDS[kind][1](tmp_path / "mood", "one")
    (tmp_path / "topic/preprocessor_config.json").write_text("{}")  # gives it a folder of its own
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic").learn()
    done = result.export("out")
    plain = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {file.name for file in done.folder.iterdir()} == plain | set(TASKS)
    assert {file.name for file in done.checkpoints["topic"].iterdir()} == plain | {"preprocessor_config.json"}
    kinds = [type(one).__name__ for one in SentenceTransformer(str(done.checkpoints["mood"]), device="cpu")]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    notes = "\n".join(plan_of(result.model.experts).notes)
    assert "mood: are sentence encoders, but topic and the base are not, so the merged checkpoint has no mod" in notes


def test_check_fit_and_export_say_what_is_one_experts_alone(family, main, tmp_path, monkeypatch):
    folder, _ = family
    monkeypatch.chdir(tmp_path)
    KINDS["end of generation"][1](folder / "mood", "one")
    models = [{"model": str(folder / task)} for task in TASKS]
    config = {"base_model": str(folder / "base"), "models": models, "method": "task_arithmetic", "run_dir": "run"}
    Path("merge.yaml").write_text(json.dumps(config))
    for command in (("check", "merge.yaml"), ("fit", "merge.yaml"), ("export", "run", "out")):
        code, said, complaint = main(*command)
        assert (code, complaint) == (0, ""), command
        assert "mood: has its own generation settings, so its export is a folder of its own" in said
    assert not Path("out/generation_config.json").exists()
    assert json.loads(Path("out/mood/generation_config.json").read_text()) == {"eos_token_id": [1, 2]}


def test_cross_encoders_over_a_sentence_encoder_have_their_own_modules_and_the_merge_the_bases(tmp_path, monkeypatch):
    monkeypatch.chdir(save_encoders(tmp_path))
    as_sentence_encoder("base", 0)
    for seed, task in enumerate(TASKS):
        build("BertForSequenceClassification", "bert", seed, num_labels=1).save_pretrained(task)
        CrossEncoder(task, device="cpu").save(task)
    assert Path("mood/modules.json").exists()
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic").learn()
    done, notes = result.export("out"), "\n".join(plan_of(result.model.experts).notes)
    pair = [("good film", "bad plot")]
    for task, place in done.checkpoints.items():
        model = BertForSequenceClassification.from_pretrained(place).eval()
        inputs = AutoTokenizer.from_pretrained(place)(*zip(*pair, strict=True), return_tensors="pt")
        expected = model(**inputs).logits.sigmoid().item()
        assert CrossEncoder(str(place), device="cpu").predict(pair).item() == pytest.approx(expected, abs=1e-5)
        assert f"{task}: its folder has its own sentence-transformers modules" in notes
    kinds = [type(module).__name__ for module in SentenceTransformer(str(done.folder), device="cpu")]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
