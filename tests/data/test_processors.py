"""Every task is read with the tokenizer or image processor of its expert: answers equal those of plain transformers."""

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.families import WORDS, build, near, save_family, save_tokenizer
from tokenizers import Regex, Tokenizer, normalizers, processors
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertJapaneseTokenizer,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
)

from adamerge.data.processor_differences import differences, digest_of_processor, key_notes
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.results.evaluate import Evaluation
from adamerge.results.export import export
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError


def lower(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def without_marks(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex("[!?]"), "")]
    )


def without_ends(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")


def short(tokenizer):
    tokenizer.model_max_length = 5


def other_words(tokenizer):
    tokenizer.add_tokens(["Good", "Film"])  # these indices are past the base's words


CHANGES = {
    lower: "normalizer.type 'Lowercase' (base: none)",
    without_marks: "normalizer.type 'Sequence'",
    without_ends: "post_processor.single.0",
    short: "model_max_length 5 (base: 64)",
    other_words: "2 tokens that the base's lacks (such as ",
}


def change(folder, how):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    how(tokenizer)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A cased base, two classifiers of texts each with its own copy of the base's tokenizer, and rows in title case."""
    monkeypatch.chdir(tmp_path)
    base = build("BertForSequenceClassification", "bert", 0)
    experts = {task: near("BertForSequenceClassification", "bert", base, n) for n, task in enumerate(("one", "two"), 1)}
    save_family(tmp_path, base, experts)
    draw = random.Random(0)
    rows = [" ".join(draw.choices(WORDS, k=draw.randint(2, 7))).title() + draw.choice(["", "!"]) for _ in range(24)]
    lines = [json.dumps({"text": text, "label": draw.randrange(2)}) for text in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    for folder in ("base", "one", "two"):
        save_tokenizer(tmp_path / folder)
    return rows


def opened(file="rows.jsonl", **data):
    models = [{"model": task, "calibration": file, "evaluation": file} for task in ("one", "two")]
    config = merge_config({"base_model": "base", "models": models, "method": "adamerging", "data": data})
    experts = open_experts(config)
    found = load_data(config, experts)
    model = MergedModel(experts, task_vectors(experts, inspect_weights(experts).changed), tensor_wise(experts.shared))
    return model, found


def answers(model, rows, task):
    """Logits of an expert as the product computes them, several rows at once."""
    found = [None] * len(rows)
    for batch in rows.batches(5):
        for row, logits in zip(batch.rows.tolist(), model.expert(task)(batch.inputs).logits, strict=True):
            found[row] = logits
    return torch.stack(found)


@torch.no_grad()
def plain(folder, texts):
    """Logits of an expert by plain transformers, each text alone, with the tokenizer beside the weights."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return torch.cat([module(**tokenizer(text, truncation=True, return_tensors="pt")).logits for text in texts])


def accuracy(logits):
    labels = torch.tensor([json.loads(line)["label"] for line in Path("rows.jsonl").read_text().splitlines()])
    return 100 * (logits.argmax(-1) == labels).double().mean().item()


@pytest.mark.parametrize("how", [how for how in CHANGES if how is not other_words])
def test_expert_reads_texts_with_its_own_tokenizer(texts, how):
    change("one", how)
    model, data = opened()
    scores = Evaluation(model, data.evaluation).experts()
    for task in ("one", "two"):
        expected = plain(task, texts)
        for rows in (data.calibration[task], data.evaluation[task]):
            torch.testing.assert_close(answers(model, rows, task), expected)
        assert scores[task] == pytest.approx(accuracy(expected))
    assert not torch.allclose(plain("one", texts), torch.cat([plain_with("base", "one", [text]) for text in texts]))
    (said,) = (note for note in data.notes if "encoded with its own tokenizer" in note)
    assert said.startswith("one: is encoded with its own tokenizer, which differs from the base's: ")
    assert CHANGES[how] in said


@torch.no_grad()
def plain_with(tokenizer, folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    module = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return module(**tokenizer(texts, return_tensors="pt")).logits


def test_tokens_beyond_the_embeddings_are_refused(texts):
    change("one", other_words)
    with pytest.raises(ConfigError, match=r"one: rows.jsonl: row \d+ \(line \d+\): .* the token '(Good|Film)' the"):
        opened()


def test_every_difference_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for how, words in CHANGES.items():
        save_tokenizer("tokenizer")
        base, own = AutoTokenizer.from_pretrained("tokenizer"), AutoTokenizer.from_pretrained("tokenizer")
        assert differences(own, base) == []
        assert digest_of_processor(own) == digest_of_processor(base)
        how(own)
        assert any(words in found for found in differences(own, base))
        assert digest_of_processor(own) != digest_of_processor(base)


def test_expert_without_a_tokenizer_takes_the_bases(texts):
    for file in files_of("two"):
        file.unlink()
    model, data = opened()
    assert data.notes[0] == "encoded with the base's tokenizer: two"
    expected = torch.cat([plain_with("base", "two", [text]) for text in texts])
    torch.testing.assert_close(answers(model, data.evaluation["two"], "two"), expected)


def test_settings_of_a_tokenizer_without_its_vocabulary_are_said(texts):
    Path("two/tokenizer.json").unlink()
    Path("two/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    model, data = opened()
    said = "two: tokenizer_config.json beside its weights make no tokenizer without a vocabulary: the base's is used."
    assert said in data.notes
    expected = torch.cat([plain_with("base", "two", [text]) for text in texts])
    torch.testing.assert_close(answers(model, data.evaluation["two"], "two"), expected)


def files_of(folder):
    """Files of a tokenizer in a folder."""
    return [*Path(folder).glob("tokenizer*"), *Path(folder).glob("special_tokens*")]


def test_damaged_tokenizer_of_an_expert_is_refused(texts):
    for file in files_of("two"):
        file.write_text("{")
    with pytest.raises(ConfigError, match=r"two: expected the tokenizer of BertForSequenceClassification in tokenizer"):
        opened()


def test_base_needs_no_tokenizer_if_every_expert_has_one(texts):
    for file in files_of("base"):
        file.unlink()
    model, data = opened()
    torch.testing.assert_close(answers(model, data.evaluation["one"], "one"), plain("one", texts))


def test_runs_are_not_resumed_with_another_processor(texts):
    before = opened()[1].processors
    change("one", lower)
    after = opened()[1].processors
    assert before["one"] == before["two"] == after["two"] != after["one"]


@pytest.mark.parametrize("key", ["add_bos_token", "add_eos_token"])
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_keys_that_the_post_processor_contradicts_are_named(tmp_path, key, says, adds):
    save_tokenizer(tmp_path, end="[SEP]")
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "bos_token": "[CLS]", key: says}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    if not adds:
        without_ends(tokenizer)
    (tmp_path / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    added = tokenizer("good")["input_ids"][0 if key == "add_bos_token" else -1] in (0, 1)
    assert added == adds  # transformers follows the post-processor
    found = [note for note in key_notes(tmp_path, tokenizer) if f"{key}: {str(says).lower()}" in note]
    assert bool(found) == (says != adds)


IMAGE_CHANGES = {
    "mean": {"image_mean": [0.1, 0.2, 0.3]},
    "std": {"image_std": [0.9, 0.9, 0.9]},
    "resample": {"resample": 0},
    "rescale": {"do_rescale": True, "rescale_factor": 1 / 100},
}


@pytest.mark.parametrize("name", IMAGE_CHANGES)
def test_expert_reads_images_with_its_own_processor(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    base = build("ViTForImageClassification", "vit", 0)
    experts = {t: near("ViTForImageClassification", "vit", base, n) for n, t in enumerate(("one", "two"), 1)}
    save_family(tmp_path, base, experts)
    size = {"height": 16, "width": 16}
    for folder in ("base", "one", "two"):
        ViTImageProcessorPil(size=size, **(IMAGE_CHANGES[name] if folder == "one" else {})).save_pretrained(folder)
    torch.manual_seed(0)
    pictures = [Image.fromarray(torch.randint(256, (20 + i, 30, 3), dtype=torch.uint8).numpy()) for i in range(8)]
    for i, picture in enumerate(pictures):
        (tmp_path / f"images/LABEL_{i % 2}").mkdir(parents=True, exist_ok=True)
        picture.save(f"images/LABEL_{i % 2}/{i}.png")
    model, data = opened("images")
    found = data.evaluation["one"]
    order = [Image.open(path) for path in sorted(tmp_path.glob("images/*/*.png"))]
    for task in ("one", "two"):
        processor, module = (
            AutoImageProcessor.from_pretrained(task),
            AutoModelForImageClassification.from_pretrained(task),
        )
        with torch.no_grad():
            expected = module.eval()(**processor(order, return_tensors="pt")).logits
        torch.testing.assert_close(answers(model, data.evaluation[task], task), expected)
    assert len(found) == 8
    (said,) = (note for note in data.notes if "its own image processor" in note)
    assert all(key in said for key in IMAGE_CHANGES[name] if key != "do_rescale")


def test_exported_task_carries_the_experts_tokenizer_alone(texts, tmp_path):
    change("one", lower)
    (tmp_path / "base/added_tokens.json").write_text('{"[NEW]": 7}')
    for file in files_of("two"):
        file.unlink()
    model, _ = opened()
    export(model, uniform(model, 0.5), tmp_path / "out")
    own, out = (AutoTokenizer.from_pretrained(folder) for folder in ("one", "out/one"))
    assert differences(out, own) == []
    assert not (tmp_path / "out/one/added_tokens.json").exists()
    assert (tmp_path / "out/two/tokenizer.json").read_bytes() == (tmp_path / "base/tokenizer.json").read_bytes()


def changed_text(tokenizer, old, new):
    """The same tokenizer with something else in tokenizer.json."""
    text = tokenizer.backend_tokenizer.to_str().replace(old, new)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))


@pytest.mark.parametrize(
    ("how", "text", "words"),
    [
        (lambda t: changed_text(t, '"##"', '"@@"'), "goodly", "model.continuing_subword_prefix '@@' (base: '##')"),
        (lambda t: changed_text(t, '_per_word":100', '_per_word":3'), "good", "model.max_input_chars_per_word 3"),
        (lambda t: t.add_tokens(["film"]) and t, "filmfilm", "found in a text in another way (such as 'film')"),
        (lambda t: setattr(t, "split_special_tokens", True) or t, "[SEP]", "split_special_tokens True (base: False)"),
    ],
)
def test_whatever_makes_other_tokens_of_a_text_is_a_difference(tmp_path, how, text, words):
    save_tokenizer(tmp_path)
    base, own = AutoTokenizer.from_pretrained(tmp_path), how(AutoTokenizer.from_pretrained(tmp_path))
    assert own.tokenize(text) != base.tokenize(text)
    assert any(words in found for found in differences(own, base))
    assert digest_of_processor(own) != digest_of_processor(base)


def test_options_of_a_tokenizer_in_python_are_differences(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[PAD]\na\n")
    options = {"vocab_file": str(tmp_path / "vocab.txt"), "do_word_tokenize": False}
    own, base = (BertJapaneseTokenizer(do_lower_case=lower, **options) for lower in (True, False))
    assert "options.do_lower_case True (base: False)" in differences(own, base)
