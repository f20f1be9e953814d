"""Tiny bases and experts of real architectures, and plain modules, for tests."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
import transformers
import yaml
from torch import nn
from transformers import (
    BartConfig,
    BertConfig,
    CLIPConfig,
    CLIPVisionConfig,
    DistilBertConfig,
    GPT2Config,
    LevitConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    RobertaConfig,
    SiglipConfig,
    T5Config,
    ViTConfig,
)

from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.storage.weights import InMemory

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
CLIP = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 12}

CONFIGS = {
    "bert": lambda **more: BertConfig(**{**TEXT, **more}),
    "vit": lambda **more: ViTConfig(**VISION, **more),
    "clip": lambda **more: CLIPConfig(**CLIP, **more),
    "clip_vision": lambda **more: CLIPVisionConfig(**VISION, projection_dim=12, **more),
    "siglip": lambda **more: SiglipConfig(text_config=TEXT, vision_config=VISION, **more),
    "llama": lambda **more: LlamaConfig(**{**TEXT, **more}),
    "roberta": lambda **more: RobertaConfig(**TEXT, **more),
    "distilbert": lambda **more: DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=40, **more),
    "gpt2": lambda **more: GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=40, bos_token_id=0, eos_token_id=1, **more
    ),
    "bart": lambda **more: BartConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=32,
        vocab_size=40,
        **more,
    ),
    "resnet": lambda **more: ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **more
    ),
    "levit": lambda **more: LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        drop_path_rate=0,
        **more,
    ),
    "t5": lambda **more: T5Config(
        d_model=16, num_layers=2, num_heads=2, d_ff=32, d_kv=8, vocab_size=40, decoder_start_token_id=0, **more
    ),
}


def build(architecture: str, family: str, seed: int, **more) -> PreTrainedModel:
    """A model with random weights that are drawn independently for each seed."""
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(CONFIGS[family](**more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def save_family(folder: Path, base: PreTrainedModel, experts: dict[str, PreTrainedModel]) -> dict[str, str]:
    """Save models as checkpoints; returns the experts' paths by task, and the base's under ""."""
    paths = {}
    for name, model in {"": base, **experts}.items():
        place = folder / (name or "base")
        model.save_pretrained(place)
        paths[name] = str(place)
    return paths


class Tiny(nn.Module):
    """A plain module with a matrix, a tied matrix, a vector, a scalar, and a part that one task does not touch."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 6, bias=False)
        self.again = nn.Linear(5, 6, bias=False)
        self.again.weight = self.second.weight
        self.scale = nn.Parameter(torch.rand(()) + 0.5)
        self.side = nn.Linear(6, 6)
        self.to(dtype)

    def forward(self, x: torch.Tensor, deep: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.again(torch.tanh(self.first(self.second(torch.tanh(self.first(x))))))
        return self.scale * (hidden if deep is None else self.side(hidden))


WORDS = "the a of to in is it was good bad dull bright film book plot song loud calm fast slow red blue old new".split()
SPECIAL = {"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, "[UNK]": 3}
PIECES = ["##ly", "##er", "##est", "##ness", "##s", "##ed", "##ing", "un", "re", "not", "very", "so"]


def save_tokenizer(folder: Path, pad: bool = True, end: str | None = None) -> None:
    """A WordPiece tokenizer of 40 pieces; `end` is the token that ends a text."""
    vocabulary = SPECIAL | {word: index for index, word in enumerate([*WORDS, *PIECES], len(SPECIAL))}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pieces.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    special = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        **({"pad_token": "[PAD]"} if pad else {}),
        **({"eos_token": end} if end else {}),
    }
    PreTrainedTokenizerFast(tokenizer_object=pieces, **special, model_max_length=64).save_pretrained(folder)


def save_rows(file: Path, rows: int, seed: int, labels: int | None = None) -> None:
    """JSON lines of four to nine random words, with a label where `labels` says how many there are."""
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            row = {"text": " ".join(draw.choices(WORDS, k=draw.randint(4, 9)))}
            out.write(json.dumps(row | ({} if labels is None else {"label": draw.randrange(labels)})) + "\n")


TASKS = ("mood", "topic")
"""Tasks of the text family."""


def save_text_family(folder: Path, tasks: Sequence[str] = TASKS, layers: int = 1) -> Path:
    """A BERT base with a tokenizer, an expert a task near it with its own head, rows, and the YAML that merges them.

    Two tasks and one layer, as most tests make a whole run and need no more.
    """
    base = build("BertModel", "bert", 0, num_hidden_layers=layers)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter.mul_(2).add_(float(name.endswith("LayerNorm.weight")))  # predictions must depend on the words
    experts = {}
    for number, task in enumerate(tasks, 1):
        more = {"num_labels": 2 + number % 2, "num_hidden_layers": layers}
        expert = build("BertForSequenceClassification", "bert", number, **more)
        with torch.no_grad():
            for name, parameter in expert.bert.named_parameters():  # fine-tuning moves weights a little
                parameter.mul_(0.8).add_(base.get_parameter(name))
            expert.classifier.bias.zero_()
        experts[task] = expert
        save_rows(folder / f"{task}.jsonl", 32, number)
        save_rows(folder / f"{task}_test.jsonl", 16, 100 + number, labels=2 + number % 2)
    save_family(folder, base, experts)
    save_tokenizer(folder / "base")
    config = {
        "base_model": "base",
        "models": [{"model": t, "calibration": f"{t}.jsonl", "evaluation": f"{t}_test.jsonl"} for t in tasks],
        "method": "adamerging",
        "optimizer": {"class_path": "Adam", "init_args": {"lr": 0.02}},
        "data": {"batch_size": 4},
        "watch": {"every": 3, "monitor": "agreement"},
        "trainer": {"max_steps": 6, "accelerator": "cpu"},
    }
    (folder / "merge.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder


def third_expert(folder: Path) -> dict[str, str]:
    """Add an expert `speed` to a text family, the first one under another name; returns its entry in models."""
    shutil.copytree(folder / "mood", folder / "speed")
    for rows in ("", "_test"):
        shutil.copy(folder / f"mood{rows}.jsonl", folder / f"speed{rows}.jsonl")
    return {"model": "speed", "calibration": "speed.jsonl", "evaluation": "speed_test.jsonl"}


def configuration(**changes):
    """merge.yaml of the current directory with some keys replaced."""
    with open("merge.yaml", encoding="utf-8") as file:
        return {**yaml.safe_load(file), **changes}


def write(config, name="changed.yaml"):
    """A configuration as a file in the current directory; returns its name."""
    with open(name, "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return name


def listing(folder):
    """Everything in a folder and when it was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def random_vectors(shapes: dict[str, tuple[int, ...]], experts: int) -> Mapped:
    """Task vectors of random experts of a random base."""

    def drawn(seed: int) -> InMemory:
        generator = torch.Generator().manual_seed(seed)
        return InMemory({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})

    base = drawn(0)
    return Mapped({f"expert{k}": drawn(k) for k in range(1, experts + 1)}, tuple(shapes), base, base)


CHATS = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] == 'assistant' %}{{ raise_exception('ask first') }}{% endif %}"
    "{{ m['role'][:1] }} is {{ m['content'] }} [SEP] {% endfor %}{% if add_generation_prompt %}a is {% endif %}"
)
"""A chat template: the role, the content, and an end."""


def near(architecture: str, family: str, base: PreTrainedModel, seed: int, **more) -> PreTrainedModel:
    """A model as fine-tuning would leave it: the base's numbers, moved a little."""
    expert = build(architecture, family, seed, **more)
    with torch.no_grad():
        for parameter, start in zip(expert.parameters(), base.parameters(), strict=True):
            parameter.mul_(0.5).add_(start)
    return expert


def save_speaking_family(
    folder: Path, architecture: str, family: str, tasks: Sequence[str] = ("mood", "topic")
) -> Path:
    """A language model as base, an expert a task near it, rows with completions, and the YAML that merges them."""
    base = build(architecture, family, 0)
    save_family(folder, base, {task: near(architecture, family, base, seed) for seed, task in enumerate(tasks, 1)})
    save_tokenizer(folder / "base", pad=False, end="[SEP]")
    for seed, task in enumerate(tasks):
        draw = random.Random(seed)
        with (folder / f"{task}.jsonl").open("w", encoding="utf-8") as out:
            for _ in range(12):
                row = {key: " ".join(draw.choices(WORDS, k=draw.randint(2, 6))) for key in ("text", "completion")}
                out.write(json.dumps(row) + "\n")
    rows = {task: {"path": f"{task}.jsonl", "completion": "completion"} for task in tasks}
    config = {
        "base_model": "base",
        "models": [{"model": task, "calibration": rows[task], "evaluation": rows[task]} for task in tasks],
        "method": "expert_merging",
        "data": {"batch_size": 4, "positions": "completion", "pseudo_answers": {"max_new_tokens": 6}},
        "watch": {"every": 2, "guard": False},
        "trainer": {"max_steps": 4, "accelerator": "cpu"},
    }
    (folder / "merge.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder
