"""Further training in the folders of an export: `save_pretrained` in place leaves nothing of the former model."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.families import build
from support.sentence_encoders import TASKS, save_encoders

from adamerge import Expert, Merge
from adamerge.data.processor_files import files_of
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.file_patterns import TOKENIZER
from adamerge.results.beside import Beside
from adamerge.results.special_tokens import copied, map_notes
from adamerge.types import Fact, IncompatibleExpertsError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A BERT base and two experts near it, with tokenizers, in the current directory."""
    monkeypatch.chdir(save_encoders(tmp_path))
    return tmp_path


def merged(**options):
    merge = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic", **options)
    return merge.learn().export("out")


@pytest.mark.parametrize(
    ("base", "expert"), [("BertForMaskedLM", "BertForSequenceClassification"), ("BertModel", "BertModel")]
)
def test_further_training_in_place_leaves_nothing_stale_and_other_tasks_alone(folder, base, expert):
    build(base, "bert", 0).save_pretrained("base")
    for seed, task in enumerate(TASKS, 1):
        build(expert, "bert", seed).save_pretrained(task)
    (folder / "mood/tokenizer_config.json").write_text('{"model_max_length": 7}')  # gets a folder, with a head or not
    done = merged()
    before = load_file((other := done.checkpoints["topic"]) / "model.safetensors")
    for place, architecture in ((done.checkpoints["mood"], expert), (done.folder, base))[: 1 + (other != done.folder)]:
        model = getattr(transformers, architecture).from_pretrained(place)
        written = {file.name for file in place.glob("model*")}
        torch.nn.init.ones_(next(model.parameters()))
        model.save_pretrained(place)
        assert {file.name for file in place.glob("model*")} == written == {"model.safetensors"}
        assert open_checkpoint(str(place)).notes == ()
        again = getattr(transformers, architecture).from_pretrained(place)
        assert bool((next(again.parameters()) == 1).all())
    after = load_file(other / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("sizes", [(None, "10KB"), ("10KB", None)])
def test_what_is_saved_in_place_in_other_files_is_read_or_refused_never_the_former_weights(folder, sizes):
    build("BertForSequenceClassification", "bert", 1).save_pretrained("mood")
    build("BertForSequenceClassification", "bert", 2).save_pretrained("topic")
    before, after = ({} if size is None else {"max_shard_size": size} for size in sizes)
    done = merged(**before)
    model = transformers.BertForSequenceClassification.from_pretrained(place := done.folder / "mood")
    torch.nn.init.ones_(first := next(model.parameters()))
    model.save_pretrained(place, **after)
    if sizes[0] is None:  # transformers reads model.safetensors, which it left
        with pytest.raises(IncompatibleExpertsError, match=r"two that differ .* Remove the one that is out of date"):
            open_checkpoint(str(place))
        (place / "model.safetensors").unlink()
    opened = open_checkpoint(str(place)).tensors
    assert any(torch.equal(opened[name], first) for name in opened.headers if opened.shape(name) == first.shape)


def test_a_map_of_special_tokens_stays_when_a_tokenizer_is_saved_over_it(folder):
    """The reason for the note; once transformers rewrites or ignores the map, the note goes."""
    (folder / "base/special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    tokenizer = transformers.AutoTokenizer.from_pretrained("base")
    tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained("base")
    assert transformers.AutoTokenizer.from_pretrained("base").pad_token == "[PAD]"


_ADDED = {"added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}}}


@pytest.mark.parametrize(
    ("mapped", "settings", "needed"),
    [
        ({"pad_token": "[PAD]", "unk_token": "[UNK]"}, {}, False),
        ({"pad_token": {"content": "[PAD]", "lstrip": False}}, {}, False),
        ({}, {}, False),
        ({"pad_token": "[UNK]"}, {}, True),
        ({"eos_token": "[SEP]"}, {}, True),
        ({"additional_special_tokens": ["good"]}, {}, True),
        ({"pad_token": "[UNK]"}, _ADDED, False),  # as transformers 4 saves it: the map is not read
        ({"pad_token": "[PAD]"}, {"tokenizer_class": None, "auto_map": {"AutoTokenizer": ["own.Own", None]}}, True),
        ("[1", {}, True),
    ],
)
def test_a_map_is_left_out_where_the_tokenizer_is_the_same_without_it(folder, mapped, settings, needed):
    """Whatever is exported is read as the source is; a map that is left out cannot become stale."""
    (place := folder / "base/special_tokens_map.json").write_text(mapped if mapped == "[1" else json.dumps(mapped))
    (file := folder / "base/tokenizer_config.json").write_text(json.dumps(json.loads(file.read_text()) | settings))
    files = files_of(folder / "base", TOKENIZER)
    (to := folder / "copied").mkdir()
    for name, source in copied(files).items():
        shutil.copyfile(source, to / name)
    notes = map_notes([Beside(files)])
    assert len(notes) == 1
    assert ("is exported" in notes[0], (to / place.name).exists(), isinstance(notes[0], Fact)) == (
        needed,
        needed,
        not needed,
    )
    if "auto_map" in settings or mapped == "[1":
        return
    before, after = map(transformers.AutoTokenizer.from_pretrained, ("base", "copied"))
    assert before.special_tokens_map == after.special_tokens_map
    assert before.added_tokens_decoder == after.added_tokens_decoder
    after.pad_token = "[SEP]"  # what `needed` warns of
    after.save_pretrained("copied")
    again = transformers.AutoTokenizer.from_pretrained("copied")
    assert again.pad_token == (mapped.get("pad_token", "[SEP]") if needed else "[SEP]")


def test_an_export_of_what_transformers_4_saved_has_no_map(folder):
    for name in ("base", *TASKS):
        (folder / name / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    done = merged()
    assert not [*done.folder.rglob("special_tokens_map.json")]
    assert transformers.AutoTokenizer.from_pretrained(done.folder).pad_token == "[PAD]"
