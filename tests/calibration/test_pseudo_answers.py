"""Pseudo-answers are what each expert's own `generate` says, once; changes and damage are noticed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from support.families import CHATS, build, save_speaking_family

from adamerge import cli
from adamerge.calibration.pseudo_answers import answer
from adamerge.cli import parse_file
from adamerge.data.settings import PseudoAnswers
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.known_writes import remember_writes
from adamerge.runs.build_model import answers_to, build_model, open_experts
from adamerge.runs.load_rows import load_data
from adamerge.types import ConfigError

FAMILIES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "t5": ("T5ForConditionalGeneration", "t5"),
    "bart": ("BartForConditionalGeneration", "bart"),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speaking")
    return {name: save_speaking_family(folder / name, *FAMILIES[name]) for name in FAMILIES}


@pytest.fixture
def family(families, tmp_path, monkeypatch):
    """A copy of the Llama family that may be spoilt, as the current directory."""
    monkeypatch.chdir(shutil.copytree(families["llama"], tmp_path / "family"))
    return tmp_path / "family"


def opened(config):
    experts = open_experts(config)
    return build_model(config, experts, inspect_weights(experts).changed, Path("none")), load_data(config, experts)


def in_family(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return parse_file(Path("merge.yaml"))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_is_what_transformers_generates(families, name, monkeypatch, tmp_path):
    config = in_family(families[name], monkeypatch)
    model, data = opened(config)
    rows = answers_to(config, model.experts, tuple(model.vectors.shapes), data.calibration, tmp_path / "answers")
    tokenizer = transformers.AutoTokenizer.from_pretrained("base")
    for task in ("mood", "topic"):
        expert = getattr(transformers, FAMILIES[name][0]).from_pretrained(task)
        lines = [json.loads(line) for line in (tmp_path / f"answers/{task}.jsonl").read_text().splitlines()]
        assert [line["prompt"] for line in lines] == [
            json.loads(row)["text"] for row in Path(f"{task}.jsonl").read_text().splitlines()
        ]
        for i, line in enumerate(lines):  # one by one, so without padding
            prompt = tokenizer(line["prompt"], return_tensors="pt")["input_ids"]
            if not expert.config.is_encoder_decoder and prompt[0, -1].item() in tokenizer.all_special_ids:
                prompt = prompt[:, :-1]  # the end of the text stands after the answer
            said = expert.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, num_beams=1,
                eos_token_id=expert.config.eos_token_id, pad_token_id=1, forced_eos_token_id=None,
            )[0].tolist()  # fmt: skip
            said = said[1:] if expert.config.is_encoder_decoder else said[prompt.shape[1] :]
            assert line["tokens"] == said
            assert line["answer"] == tokenizer.decode(said, skip_special_tokens=True)
            batch = rows[task].batch([i])
            predicted = batch.labels[batch.positions].tolist()
            assert predicted == said


def test_answers_take_few_calls_and_one_look_for_what_a_pass_changes(families, monkeypatch):
    config = in_family(families["llama"], monkeypatch)
    model, data = opened(config)
    looked, asked = [], []
    generate = transformers.LlamaForCausalLM.generate

    def remember(module, written):
        looked.append(module)
        remember_writes(module, written)

    monkeypatch.setattr("adamerge.experts.stateless.remember_writes", remember)
    monkeypatch.setattr(
        transformers.LlamaForCausalLM,
        "generate",
        lambda self, **given: asked.append(len(given["input_ids"])) or generate(self, **given),
    )
    one_by_one = answer(model, data.calibration, config.data.pseudo_answers, size=1)
    assert asked == 2 * [8, 4]  # of twelve rows of two tasks
    assert len(looked) == 2
    for task, rows in answer(model, data.calibration, config.data.pseudo_answers, size=32).items():
        assert all(torch.equal(rows.batch([i]).labels, one_by_one[task].batch([i]).labels) for i in range(len(rows)))


def test_a_second_run_reads_and_a_change_is_detected(family, monkeypatch):
    config = parse_file(Path("merge.yaml"))
    model, data = opened(config)
    asked = []
    expert = model.expert
    monkeypatch.setattr(model, "expert", lambda task: asked.append(task) or expert(task))

    def tasks(how=config.data.pseudo_answers, rows=data.calibration, seed=0):
        asked.clear()
        answer(model, rows, how, seed=seed, size=32, folder=family / "kept")
        return asked

    assert tasks() == ["mood", "topic"]
    assert tasks() == []
    file, note = family / "kept/mood.jsonl", family / "kept/mood.key.json"
    good = file.read_bytes()
    for damage in (good[:-30], good.replace(b'"tokens": [', b'"tokens": [5, ', 1), b""):
        file.write_bytes(damage)
        assert tasks() == ["mood"]
        assert file.read_bytes() == good
    for gone in (file, note):
        gone.unlink()
        assert tasks() == ["mood"]
    note.write_text("{")
    assert tasks() == ["mood"]
    assert tasks(PseudoAnswers(max_new_tokens=5)) == ["mood", "topic"]
    assert tasks(PseudoAnswers(max_new_tokens=5)) == []
    shutil.copy("mood.jsonl", "topic.jsonl")
    other = load_data(config, model.experts).calibration
    assert tasks(PseudoAnswers(max_new_tokens=5), other) == ["topic"]
    build("LlamaForCausalLM", "llama", 9).save_pretrained("mood")
    model, _ = opened(config)
    expert = model.expert
    monkeypatch.setattr(model, "expert", lambda task: asked.append(task) or expert(task))
    assert tasks(PseudoAnswers(max_new_tokens=5), other) == ["mood"]


def test_sampled_answers_follow_the_seed_and_do_not_change_the_random_state(family):
    model, data = opened(parse_file(Path("merge.yaml")))
    how = PseudoAnswers(max_new_tokens=6, sample=True, temperature=2.0)
    before = torch.get_rng_state()
    one, same, other = (
        answer(model, data.calibration, how, seed=seed, size=32)["mood"].batch(range(12)).inputs["input_ids"].tolist()
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other
    assert torch.equal(torch.get_rng_state(), before)


def test_the_experts_own_end_tokens_are_used(family):
    model, data = opened(parse_file(Path("merge.yaml")))
    said = answer(model, data.calibration, PseudoAnswers(6), size=32, folder=family / "one")["mood"]
    first = json.loads((family / "one/mood.jsonl").read_text().splitlines()[0])["tokens"]
    transformers.GenerationConfig(eos_token_id=[1, first[2]], temperature=3.0, do_sample=True).save_pretrained("mood")
    answer(model, data.calibration, PseudoAnswers(6), size=32, folder=family / "two")
    again = json.loads((family / "two/mood.jsonl").read_text().splitlines()[0])["tokens"]
    assert again == first[: first.index(first[2]) + 1]
    assert len(said) == 12


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_whole_run(families, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(families[name], tmp_path / "family"))
    assert cli.main(["check", "--config", "merge.yaml"]) == 0
    assert cli.main(["fit", "--config", "merge.yaml", "--run_dir", "run"]) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    note = "the tokenizer has no pad token: rows are padded with [SEP], which never counts."
    assert said.out.count(note) == 2  # by check and by fit
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["metric"] == "perplexity"
    assert {file.name for file in Path("run/answers").iterdir()} == {
        "mood.jsonl", "mood.key.json", "topic.jsonl", "topic.key.json",
    }  # fmt: skip
    before = {file: file.stat().st_mtime_ns for file in Path("run/answers").iterdir()}
    assert cli.main(["evaluate", "run"]) == 0
    assert json.loads(Path("run/metrics.json").read_text()) == metrics
    assert {file: file.stat().st_mtime_ns for file in Path("run/answers").iterdir()} == before
    # the file serves as calibration rows of its own
    rows = {"path": "run/answers/mood.jsonl", "text": "prompt", "completion": "answer"}
    config = yaml.safe_load(Path("merge.yaml").read_text())
    config["models"][0]["calibration"] = rows
    config["data"]["pseudo_answers"] = None
    Path("again.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["check", "--config", "again.yaml", "--run_dir", "again"]) == 0


def test_chats_are_answered(family, capsys):
    chat = [{"role": "user", "content": "good film"}, {"role": "assistant", "content": "so slow"}]
    for task in ("mood", "topic"):
        Path(f"{task}.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for _ in range(4)))
    config = yaml.safe_load(Path("merge.yaml").read_text())
    config["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    Path("chats.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["fit", "--config", "chats.yaml", "--run_dir", "run"]) == cli.BAD_INPUT
    assert "neither the expert's tokenizer nor the base's has one" in capsys.readouterr().err
    Path("base/chat_template.jinja").write_text(CHATS)
    assert cli.main(["fit", "--config", "chats.yaml", "--run_dir", "run"]) == 0
    line = json.loads(Path("run/answers/mood.jsonl").read_text().splitlines()[0])
    assert line["prompt"] == chat[:1]


def a_layer_out_of_range(config):
    config["objective"] = {"class_path": "HiddenAlignment", "init_args": {"chosen": [1, 3]}}
    return "objective: expected layers from -3 to 2, found 3"


def states_of_another_size(config):
    other = transformers.LlamaConfig.from_pretrained("mood", hidden_size=8, num_attention_heads=2)
    transformers.LlamaForCausalLM(other).save_pretrained("mood")
    return "model.embed_tokens.weight has the shape (40, 8), but (40, 16) in the base (base)"


def another_vocabulary(config):
    other = transformers.LlamaConfig.from_pretrained("mood", vocab_size=44)
    transformers.LlamaForCausalLM(other).save_pretrained("mood")
    return "vocabularies differ: vocab_size is 44 here and 40 in the base (base)"


def words_of_other_numbers(config):
    shutil.copy("base/tokenizer.json", "mood/tokenizer.json")
    content = json.loads(Path("mood/tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    Path("mood/tokenizer.json").write_text(json.dumps(content))
    return "mood: mood: vocabularies differ: 2 of the base's 40 tokens have another index in the expert's tokenizer"


def no_token_to_pad_with(config):
    settings = json.loads(Path("base/tokenizer_config.json").read_text())
    del settings["eos_token"]
    Path("base/tokenizer_config.json").write_text(json.dumps(settings))
    return "mood: expected a tokenizer with a pad token"


def answers_that_leave_no_room(config):
    config["data"]["pseudo_answers"]["max_new_tokens"] = 64
    return "answers of 64 tokens (data.pseudo_answers.max_new_tokens) leave no room"


def answers_of_no_token(config):
    config["data"]["pseudo_answers"]["max_new_tokens"] = 0
    return "data.pseudo_answers.max_new_tokens: expected at least 1 and at most 131072, found 0"


def an_unknown_kind_of_positions(config):
    config["data"]["positions"] = "completions"
    return "Did you mean completion?"


def a_misspelt_key(config):
    config["data"]["pseudo_answers"] = {"max_new_token": 4}
    return "Did you mean max_new_tokens?"


def nothing_to_complete(config):
    config["data"]["pseudo_answers"] = None
    config["models"][0]["calibration"] = "mood.jsonl"
    return "mood: mood.jsonl: expected a column of completions"


MISTAKES = [
    a_layer_out_of_range,
    states_of_another_size,
    another_vocabulary,
    words_of_other_numbers,
    no_token_to_pad_with,
    answers_that_leave_no_room,
    answers_of_no_token,
    an_unknown_kind_of_positions,
    a_misspelt_key,
    nothing_to_complete,
]


@pytest.mark.parametrize("spoil", MISTAKES)
@pytest.mark.parametrize("command", ["fit", "check"])
def test_mistakes_are_reported_before_anything_is_written(family, capsys, spoil, command):
    config = yaml.safe_load(Path("merge.yaml").read_text())
    words = spoil(config)
    Path("merge.yaml").write_text(yaml.safe_dump(config))
    before = set(family.rglob("*"))
    capsys.readouterr()
    assert cli.main([command, "--config", "merge.yaml", "--run_dir", "run"]) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert words in said.out + said.err
    assert set(family.rglob("*")) == before


def test_numbers_out_of_range_are_refused():
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ConfigError, match="pseudo_answers"):
            PseudoAnswers(**wrong)
