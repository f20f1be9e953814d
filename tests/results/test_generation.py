"""Language models are measured by what they generate and choose, as plain transformers would have it."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from support.families import CHATS, save_speaking_family

from adamerge.cli import parse_file
from adamerge.data.answers import normalised
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.results.evaluate import Evaluation
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.settle_rows import settle_rows

FAMILIES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "t5": ("T5ForConditionalGeneration", "t5"),
}
MOST = 5
STRICT = ["strip", "case", "punctuation"]
CHOICES = ["good film", "dull", "the old plot"]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return {name: save_speaking_family(folder / name, *FAMILIES[name]) for name in FAMILIES}


def plain(name, place):
    return getattr(transformers, FAMILIES[name][0]).from_pretrained(place)


def prompt_of(tokenizer, text, decoder_only):
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    return ids[:, :-1] if decoder_only and ids[0, -1].item() in tokenizer.all_special_ids else ids


def said_by(model, tokenizer, prompt):
    """What plain transformers generates to one prompt, alone."""
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=MOST, do_sample=False, num_beams=1,
        eos_token_id=[1], pad_token_id=1,
    )[0].tolist()  # fmt: skip
    begin = 1 if model.config.is_encoder_decoder else prompt.shape[1]
    return tokenizer.decode(made[begin:], skip_special_tokens=True)


def weighted(name, scale):
    """Task arithmetic with plain transformers."""
    base, experts = plain(name, "base"), [plain(name, task) for task in ("mood", "topic")]
    states = [expert.state_dict() for expert in experts]
    merged = {
        key: value + scale * sum(state[key] - value for state in states) if value.is_floating_point() else value
        for key, value in base.state_dict().items()
    }
    merging = copy.deepcopy(base)
    merging.load_state_dict(merged)
    return merging.eval()


def evaluation(**source):
    """Evaluation of mood and topic, on rows of the current directory, as a configuration says."""
    settings = yaml.safe_load(Path("merge.yaml").read_text(encoding="utf-8"))
    for model in settings["models"]:
        model["evaluation"] = {"path": f"{model['model']}_test.jsonl", **source}
    Path("measured.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = parse_file(Path("measured.yaml"))
    experts = open_experts(config)
    model = build_model(config, experts, experts.shared, Path("none"))
    data = settle_rows(load_data(config, experts, calibrate=False), experts, config.data)
    return Evaluation(model, data.evaluation, 5), data.notes


def write_rows(rows):
    for task, own in rows.items():
        Path(f"{task}_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")


def asked(name, tokenizer, models):
    """Rows of every task with each model's answer as the right one, in turns."""
    decoder_only = FAMILIES[name][0] != "T5ForConditionalGeneration"
    texts = [json.loads(line)["text"] for line in Path("mood.jsonl").read_text(encoding="utf-8").splitlines()[:5]]
    answers = {
        key: [said_by(model, tokenizer, prompt_of(tokenizer, text, decoder_only)) for text in texts]
        for key, model in models.items()
    }
    turns = [answers[key] for key in models]
    right = [turns[i % len(turns)][i] or "nothing" for i in range(len(texts))]
    return texts, answers, right


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_match_is_that_of_plain_transformers(families, name, monkeypatch):
    monkeypatch.chdir(families[name])
    tokenizer = transformers.AutoTokenizer.from_pretrained("base")
    models = {"mood": plain(name, "mood"), "merged": weighted(name, 0.4), "topic": plain(name, "topic")}
    texts, answers, right = asked(name, tokenizer, models)
    write_rows(
        {task: [{"text": t, "completion": f" {r} "} for t, r in zip(texts, right, strict=True)] for task in answers}
    )
    found, _ = evaluation(completion="completion", metric="exact_match", max_new_tokens=MOST)

    def share(key):
        same = [one.strip() == other for one, other in zip(answers[key], right, strict=True)]
        return 100 * sum(same) / len(same)

    experts, merged = found.experts(), found.merged(uniform(found._model, 0.4))
    assert 0 < share("mood") < 100
    assert experts == pytest.approx(
        {"mood": share("mood"), "topic": share("topic"), "mean": (share("mood") + share("topic")) / 2}
    )
    assert merged == pytest.approx({"mood": share("merged"), "topic": share("merged"), "mean": share("merged")})
    assert found.base()["mood"] is not None
    one = found._model
    streamed = MergedModel(one.experts, one.vectors, one.grouping, one.rounding, blocks=())
    assert Evaluation(streamed, found._rows, 5).merged(uniform(one, 0.4)) == merged


@pytest.mark.parametrize("name", FAMILIES)
def test_the_likeliest_choice_is_that_of_plain_transformers(families, name, monkeypatch):
    monkeypatch.chdir(families[name])
    tokenizer, model = transformers.AutoTokenizer.from_pretrained("base"), plain(name, "mood")
    decoder_only = not model.config.is_encoder_decoder
    rows, right = [], []
    for i, text in enumerate(["good film", "the plot was dull", "it is loud", "slow song", "new"]):
        prompt = prompt_of(tokenizer, text, decoder_only)
        found = []
        for choice in CHOICES:
            ids = tokenizer(choice, add_special_tokens=not decoder_only, return_tensors="pt")["input_ids"]
            if decoder_only:
                ids = torch.cat([ids, torch.tensor([[1]])], 1)
                logits = model(torch.cat([prompt, ids], 1)).logits[:, prompt.shape[1] - 1 : -1]
            else:
                logits = model(input_ids=prompt, labels=ids).logits
            found.append(logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).sum().item())
        rows.append({"text": text, "completion": CHOICES[i % 3], "offered": CHOICES})
        right.append(found.index(max(found)) == i % 3)
    write_rows({"mood": rows, "topic": rows})
    listed, _ = evaluation(completion="completion", metric="accuracy", choices=CHOICES)
    by_row, _ = evaluation(completion="completion", metric="accuracy", choices="offered")
    assert listed.experts()["mood"] == by_row.experts()["mood"] == pytest.approx(100 * sum(right) / len(right))


def test_chats_are_asked_by_the_template_and_end_with_the_turn(families, monkeypatch):
    monkeypatch.chdir(families["llama"])
    Path("mood/chat_template.jinja").write_text(CHATS)
    tokenizer = transformers.AutoTokenizer.from_pretrained("base", chat_template=CHATS)
    (Path("base") / "chat_template.jinja").write_text(CHATS)
    model, rows, same = plain("llama", "mood"), [], []
    for text in ["good film", "the plot was dull", "it is loud"]:
        chat = [{"role": "user", "content": text}]
        prompt = torch.tensor([tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)])
        answer = said_by(model, tokenizer, prompt)
        right = answer.upper() + "." if text != "it is loud" else "something else"
        rows.append({"messages": [*chat, {"role": "assistant", "content": right}]})
        same.append(normalised(answer, STRICT) == normalised(right, STRICT))
    write_rows({"mood": rows, "topic": rows})
    found, _ = evaluation(metric="exact_match", max_new_tokens=MOST, normalise=STRICT)
    assert found.experts()["mood"] == pytest.approx(100 * sum(same) / 3)
    assert sum(same) == 2
    strict, _ = evaluation(metric="exact_match", max_new_tokens=MOST)
    assert strict.experts()["mood"] == 0
    for row in rows[:1]:
        row["normalise"] = "strip, case, punctuation"
    for row in rows[1:]:
        row["normalise"] = "strip"
    write_rows({"mood": rows, "topic": rows})
    by_row, notes = evaluation(metric="exact_match", max_new_tokens=MOST)
    assert by_row.experts()["mood"] == pytest.approx(100 / 3)
    assert any("the column 'normalise' says" in note for note in notes)
    chosen, _ = evaluation(metric="accuracy", choices=[row["messages"][1]["content"] for row in rows])
    assert 0 <= chosen.experts()["mood"] <= 100
