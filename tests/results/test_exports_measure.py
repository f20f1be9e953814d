"""Each task's export measures what the table of results says, for pools whose experts bring different processors."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from support.families import CHATS, WORDS, build, near, save_family, save_speaking_family, save_tokenizer
from transformers import AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil

from adamerge import Expert, Merge

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base

TASKS = ("mood", "topic")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertForSequenceClassification"])
def test_each_tasks_export_measures_what_the_table_says(tmp_path, monkeypatch, architecture):
    """One expert's tokenizer adds no special tokens and reads capitals as small letters."""
    monkeypatch.chdir(save_speaking_family(tmp_path, "LlamaForCausalLM", "llama"))
    speaks = architecture.startswith("Llama")
    if not speaks:
        models = {task: build(architecture, "bert", seed) for seed, task in enumerate(TASKS, 1)}
        save_family(tmp_path, build("BertModel", "bert", 0), models)
        save_tokenizer(tmp_path / "base")
    save_tokenizer(Path("mood"), pad=not speaks, end="[SEP]")
    tokenizer = json.loads(Path("mood/tokenizer.json").read_text())
    tokenizer |= {"post_processor": None, "normalizer": {"type": "Lowercase"}}
    Path("mood/tokenizer.json").write_text(json.dumps(tokenizer))
    rows = [{"text": f"Good {a} {b}", "label": i % 2} for i, (a, b) in enumerate(zip(WORDS, WORDS[3:], strict=False))]
    experts = [Expert(task, evaluation=rows) for task in TASKS]
    result = Merge("base", experts, method="task_arithmetic").learn()
    done, scores = result.export("out"), result.scores()
    assert done.checkpoints["mood"] == done.folder / "mood"
    for task, place in done.checkpoints.items():
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = getattr(transformers, architecture).from_pretrained(place).eval()
        total, count = 0.0, 0
        for row in rows:
            ids = tokenizer(row["text"], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0]
            if speaks:
                total -= logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None]).sum().item()
                count += len(logits) - 1
            else:
                total, count = total + float(logits.argmax() == row["label"]), count + 1
        found = torch.tensor(total / count).exp().item() if speaks else 100 * total / count
        assert found == pytest.approx(scores[task], rel=1e-4), task


def test_images_are_measured_with_each_experts_processor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = build("ViTForImageClassification", "vit", 0)
    save_family(tmp_path, base, {t: near("ViTForImageClassification", "vit", base, n) for n, t in enumerate(TASKS, 1)})
    changes = {"base": {}, "mood": {"image_mean": [0.9, 0.0, 0.4]}, "topic": {"rescale_factor": 1 / 50, "resample": 0}}
    for folder, change in changes.items():
        ViTImageProcessorPil(size={"height": 16, "width": 16}, **change).save_pretrained(folder)
    torch.manual_seed(0)
    for i in range(30):
        Path(f"images/LABEL_{i % 2}").mkdir(parents=True, exist_ok=True)
        values = torch.randint(256, (20 + i, 30, 3), dtype=torch.uint8) // (1 + i % 3)
        Image.fromarray(values.numpy()).save(f"images/LABEL_{i % 2}/{i}.png")
    result = Merge("base", [Expert(task, evaluation="images") for task in TASKS], method="task_arithmetic").learn()
    done, scores = result.export("out"), result.scores()
    files = sorted(Path("images").rglob("*.png"))
    labels = torch.tensor([int(file.parent.name[-1]) for file in files])
    for task, place in done.checkpoints.items():
        assert place == done.folder / task
        processor = AutoImageProcessor.from_pretrained(place)
        model = transformers.AutoModelForImageClassification.from_pretrained(place).eval()
        with torch.no_grad():
            found = model(**processor([Image.open(file) for file in files], return_tensors="pt")).logits.argmax(-1)
        assert 100 * (found == labels).float().mean().item() == pytest.approx(scores[task], abs=1e-3), task


def test_chats_are_measured_with_each_experts_template(tmp_path, monkeypatch):
    monkeypatch.chdir(save_speaking_family(tmp_path, "LlamaForCausalLM", "llama"))
    templates = {"mood": CHATS, "topic": CHATS.replace(" is ", " was ")}
    for task, template in templates.items():
        save_tokenizer(Path(task), pad=False, end="[SEP]")
        tokenizer = AutoTokenizer.from_pretrained(task)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(task)
    turns = [(("user", f"{a} {b}"), ("assistant", f"so {b} it was")) for a, b in zip(WORDS, WORDS[3:9], strict=False)]
    rows = [{"messages": [{"role": who, "content": text} for who, text in turn]} for turn in turns]
    experts, answers = [Expert(task, evaluation=rows) for task in TASKS], {"positions": "completion"}
    result = Merge("base", experts, method="task_arithmetic", data=answers).learn()
    done, scores = result.export("out"), result.scores()
    for task, place in done.checkpoints.items():
        tokenizer, total, count = AutoTokenizer.from_pretrained(place), 0.0, 0
        assert tokenizer.chat_template == templates[task]
        model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
        for row in rows:
            texts = [
                tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, tokenize=False),
                tokenizer.apply_chat_template(row["messages"], tokenize=False),
            ]
            asked, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
            assert ids[: len(asked)] == asked
            with torch.no_grad():
                chances = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            total -= sum(chances[i - 1, ids[i]].item() for i in range(len(asked), len(ids)))
            count += len(ids) - len(asked)
        assert torch.tensor(total / count).exp().item() == pytest.approx(scores[task], rel=1e-4), task
