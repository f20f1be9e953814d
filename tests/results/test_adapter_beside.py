"""Files beside adapters: which export gets them, dense or as an adapter, and what is checked when they change."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from support.families import CHATS, build, save_speaking_family, save_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from adamerge import Expert, Merge
from adamerge.data.turns import generation_config
from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.results import adapter_export
from adamerge.results.beside import read_beside
from adamerge.results.turn_notes import turn_notes
from adamerge.results.unchanged import check_unchanged
from adamerge.types import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TASKS = ("mood", "topic")
SEP = 1
"""The token that ends a turn."""


@pytest.fixture(autouse=True)
def unverified(monkeypatch):
    """Adapters are loaded by the tests."""
    monkeypatch.setattr(adapter_export, "peft_version", lambda: None)


def save_adapter(base, place, seed, **options):
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **options}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(place)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """A language model with a tokenizer, two complete experts, and two adapters, as the current directory."""
    monkeypatch.chdir(save_speaking_family(tmp_path, "LlamaForCausalLM", "llama"))
    for file in tmp_path.glob("*/generation_config.json"):
        file.unlink()
    for seed, task in enumerate(TASKS, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_adapter(AutoModelForCausalLM.from_pretrained("base"), f"adapters/{task}", seed)
    return tmp_path


def bring(folder, template=CHATS, **more):
    """Give a folder a tokenizer with a chat template, as a trainer saves it beside an adapter."""
    save_tokenizer(Path(folder), end="[SEP]")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if more:
        GenerationConfig(**more).save_pretrained(folder)


def merged(**more):
    result = Merge("base", [Expert(f"adapters/{task}") for task in TASKS], method="task_arithmetic").learn()
    return result.export("out", **more)


def over(task):
    """Let a task's adapter name the complete expert of that task as what it was trained on."""
    file = Path(f"adapters/{task}/adapter_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": task}))
    return task, {"adapter": f"adapters/{task}"}


def opened(**places):
    base = open_checkpoint("base")
    return from_checkpoints(base, {task: open_expert(source, base, **more) for task, (source, more) in places.items()})


@pytest.mark.parametrize("adapter", [False, True], ids=["dense", "adapter"])
def test_what_all_adapters_bring_is_the_exports(pool, adapter):
    """The plain base has no template and stops at another token: the merge speaks and stops as its experts do."""
    config = json.loads((pool / "base/config.json").read_text())
    (pool / "base/config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    for task in TASKS:
        bring(f"adapters/{task}")
    done = merged(adapter=adapter)
    assert set(done.checkpoints.values()) == {done.folder}
    assert AutoTokenizer.from_pretrained(done.folder).chat_template == CHATS
    assert GenerationConfig.from_pretrained(done.folder).eos_token_id == [7, SEP]
    experts = opened(**{task: (f"adapters/{task}", {}) for task in TASKS})
    assert [note for note in done.notes if "turn" in note] == turn_notes(experts, adapter=adapter)
    if adapter:
        assert not (done.folder / "config.json").exists()
        assert AutoPeftModelForCausalLM.from_pretrained(done.folder)
        assert any("load them from the adapter's folder" in note for note in done.notes)
        assert any("PEFT and transformers do not read it" in note for note in done.notes)


def test_generation_settings_beside_an_adapter_are_not_read(pool):
    """The reason for the note; once transformers or PEFT read them, the note goes."""
    GenerationConfig(temperature=0.5, do_sample=True).save_pretrained("adapters/mood")
    for auto in (AutoModelForCausalLM, AutoPeftModelForCausalLM):
        assert auto.from_pretrained("adapters/mood").generation_config.temperature != 0.5


def test_a_merge_in_which_no_expert_has_weight_is_an_adapter_that_changes_nothing(pool):
    experts = [Expert(f"adapters/{task}") for task in TASKS]
    done = Merge("base", experts, method="task_arithmetic", init=0.0).learn().export("out", adapter=True)
    assert any("the adapter changes nothing" in note for note in done.notes)
    found = AutoPeftModelForCausalLM.from_pretrained(done.folder).merge_and_unload().state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained("base").state_dict().items():
        assert torch.equal(found[name], value)


def test_an_adapter_that_speaks_as_its_base_is_alone(pool):
    done = merged(adapter=True)
    assert {file.name for file in done.folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }


@pytest.mark.parametrize("adapter", [False, True], ids=["dense", "adapter"])
def test_adapters_with_other_files_have_folders_of_their_own(pool, adapter):
    bring("adapters/mood", temperature=0.5, do_sample=True)
    bring("adapters/topic", CHATS.replace("a is", "b is"))
    done = merged(adapter=adapter)
    assert {task: place.name for task, place in done.checkpoints.items()} == {"mood": "mood", "topic": "topic"}
    for task, place in done.checkpoints.items():
        own = AutoTokenizer.from_pretrained(f"adapters/{task}")
        assert AutoTokenizer.from_pretrained(place).chat_template == own.chat_template
        assert (place / "adapter_config.json").exists() is adapter
    assert GenerationConfig.from_pretrained(done.folder / "mood").temperature == 0.5
    assert done.bytes >= sum(file.stat().st_size for file in done.folder.rglob("adapter_model.safetensors"))


def test_an_adapter_over_a_model_brings_what_both_have(pool):
    """The adapter's own files go first; templates, settings and token ids of the model below it are not lost."""
    bring("mood", eos_token_id=[1, 2])
    config = json.loads((pool / "mood/config.json").read_text())
    (pool / "mood/config.json").write_text(json.dumps({**config, "eos_token_id": [1, 2]}))
    experts = opened(mood=over("mood"))
    below = read_beside(open_checkpoint("mood"))
    assert read_beside(experts.tasks["mood"].checkpoint) == below
    save_tokenizer(Path("adapters/mood"), end="[PAD]")
    (pool / "adapters/mood/chat_template.jinja").write_text("own")
    found = read_beside(opened(mood=over("mood")).tasks["mood"].checkpoint)
    assert {file.parent.parent.name for file in found.tokenizer.values()} == {"adapters"}
    assert found.templates == {"default": "own"}
    assert (found.generation, found.token_ids) == (below.generation, below.token_ids)


@pytest.mark.parametrize("model", ["base", "mood"])
def test_an_adapter_generates_by_the_settings_of_its_model(pool, model):
    GenerationConfig(eos_token_id=[1, 2]).save_pretrained(model)
    place = ("adapters/mood", {}) if model == "base" else over("mood")
    assert generation_config(opened(mood=place).tasks["mood"]).eos_token_id == [1, 2]
    GenerationConfig(eos_token_id=9).save_pretrained("adapters/mood")
    assert generation_config(opened(mood=place).tasks["mood"]).eos_token_id == 9


def test_an_adapter_without_modules_pools_by_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("BertModel", "bert", 0).save_pretrained("base")
    save_tokenizer(Path("base"))
    for seed, task in enumerate(TASKS):
        base = transformers.BertModel.from_pretrained("base")
        save_adapter(base, f"adapters/{task}", seed, target_modules=["query"], task_type="FEATURE_EXTRACTION")
        modules = [Transformer("base"), Pooling(16, pooling_mode="cls")]
        SentenceTransformer(modules=modules, device="cpu").save("whole")
        for name in ("modules.json", "config_sentence_transformers.json"):
            shutil.copy(f"whole/{name}", f"adapters/{task}/{name}")
        shutil.copytree("whole/1_Pooling", f"adapters/{task}/1_Pooling")
    dense, adapter = merged(), merged_elsewhere()
    found = [SentenceTransformer(str(one.folder), device="cpu") for one in (dense, adapter)]
    assert [type(module).__name__ for module in found[1]] == ["Transformer", "Pooling"]
    texts = ["good film", "so bad the song was"]
    one, other = (model.encode(texts, convert_to_tensor=True) for model in found)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    shutil.rmtree("as_adapter/1_Pooling")
    Path("as_adapter/modules.json").unlink()
    assert SentenceTransformer("as_adapter", device="cpu")[1].pooling_mode != "cls"  # why modules are written


def merged_elsewhere():
    result = Merge("base", [Expert(f"adapters/{task}") for task in TASKS], method="task_arithmetic").learn()
    return result.export("as_adapter", adapter=True)


CHANGED = {
    "an adapter's factors": ("adapters/mood/adapter_model.safetensors", "expert mood"),
    "an adapter's options": ("adapters/mood/adapter_config.json", "expert mood"),
    "an adapter's tokenizer": ("adapters/mood/tokenizer.json", "expert mood"),
    "weights below an adapter": ("topic/model.safetensors", "expert topic"),
    "the configuration below an adapter": ("topic/config.json", "expert topic"),
    "an adapter over a model": ("adapters/topic/adapter_config.json", "expert topic"),
    "the base": ("base/model.safetensors", "base"),
}


@pytest.fixture
def chat_pool(pool):
    bring("adapters/mood")
    return pool


@pytest.mark.parametrize("case", CHANGED)
def test_files_of_adapters_that_change_while_they_are_in_use(chat_pool, case):
    file, who = CHANGED[case]
    experts = opened(mood=("adapters/mood", {}), topic=over("topic"))
    check_unchanged(experts)
    (chat_pool / file).touch()
    with pytest.raises(ConfigError, match=rf"{who} \({file}\)"):
        check_unchanged(experts)


def test_an_adapter_is_not_exported_from_files_that_changed(chat_pool):
    result = Merge("base", [Expert(f"adapters/{task}") for task in TASKS], method="task_arithmetic").learn()
    (chat_pool / "adapters/topic/adapter_model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"expert topic .*adapter_model.safetensors.*nothing is exported"):
        result.export("out", adapter=True)
    assert not (chat_pool / "out").exists()


def test_a_run_of_adapters_names_what_changed(chat_pool, main):
    over("topic")
    models = [{"model": "adapters/mood"}, {"model": "topic", "adapter": "adapters/topic", "task": "topic"}]
    settings = ["--base_model", "base", "--models", json.dumps(models), "--method", "task_arithmetic"]
    assert main("fit", *settings, "--run_dir", "run")[0] == 0
    for file, _ in CHANGED.values():
        content = bytearray((chat_pool / file).read_bytes() + b"\n")
        if file.endswith("safetensors"):
            content = content[:-1]
            content[-2] ^= 1
        (chat_pool / file).write_bytes(content)
    for command in (("export", "run", "out"), ("evaluate", "run")):
        code, _, complaint = main(*command)
        assert code != 0
        parts = complaint.split("; ")
        for file, who in CHANGED.values():
            what = f"model/{Path(file).name}" if file.startswith("topic/") else Path(file).name
            assert any(who in part and f"{what} has other content" in part for part in parts), (file, complaint)
    assert not (chat_pool / "out").exists()


# --- processors that were given in Python ---------------------------------------------------------------------------


def given(end):
    save_tokenizer(Path("given"), end=end)
    return AutoTokenizer.from_pretrained("given")


@pytest.mark.parametrize("adapter", [False, True], ids=["dense", "adapter"])
def test_a_given_processor_is_the_exports(pool, adapter):
    models = [Expert(f"adapters/{task}") for task in TASKS]
    result = Merge("base", models, method="task_arithmetic", processor=given("[UNK]")).learn()
    done = result.export("out", adapter=adapter)
    assert set(done.checkpoints.values()) == {done.folder}
    assert AutoTokenizer.from_pretrained(done.folder).eos_token == "[UNK]"


def test_processors_given_by_task_are_each_tasks(pool):
    models = [Expert(f"adapters/{task}") for task in TASKS]
    result = Merge("base", models, method="task_arithmetic", processor={"mood": given("[UNK]")}).learn()
    done = result.export("out")
    assert [AutoTokenizer.from_pretrained(done.checkpoints[task]).eos_token for task in TASKS] == ["[UNK]", "[SEP]"]


def test_a_processor_that_cannot_be_saved_is_said(pool):
    models = [Expert(f"adapters/{task}") for task in TASKS]
    merge = Merge("base", models, method="task_arithmetic", processor={"mood": lambda texts: texts})
    with pytest.warns(UserWarning, match="mood: the given processor has no save_pretrained"):
        merge.learn()


def test_a_run_directory_takes_no_processor(pool):
    merge = Merge("base", [Expert("adapters/mood")], method="task_arithmetic", processor=given("[UNK]"))
    with pytest.raises(ConfigError, match=r"processor: a run directory .*beside its expert"):
        merge.fit("run")
