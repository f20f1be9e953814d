"""`tokenizer`: experts with added tokens merge on the rows they share; plain transformers is the truth."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
import yaml
from support.families import CHATS, build, near, save_family, save_tokenizer

from adamerge import cli
from adamerge.cli import parse_file
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.types import ConfigError, IncompatibleExpertsError

FAMILIES = {
    "llama": ("LlamaForCausalLM", "llama", {}),
    "tied": ("LlamaForCausalLM", "llama", {"tie_word_embeddings": True}),
    "bart": ("BartForConditionalGeneration", "bart", {}),
    "words": ("BertForMaskedLM", "bert", {}),
}
ADDED = {"mood": ["<sad>", "<glad>"], "topic": ["<news>"], "plain": []}
TEXT = "the film was good"


def add(folder, tokens, *, rows=None):
    """Add tokens to a saved model and its tokenizer, as a fine-tuning script does, and move all rows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.parent / "base")
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.save_pretrained(folder)
    cls = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    model = cls.from_pretrained(folder)
    model.resize_token_embeddings(rows or len(tokenizer), mean_resizing=False)
    torch.manual_seed(len(tokens))
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[40:] = torch.randn_like(table[40:])
    if tokens:
        model.config.eos_token_id = tokenizer.convert_tokens_to_ids(tokens[0])
        if model.can_generate():
            model.generation_config.eos_token_id = model.config.eos_token_id
    model.save_pretrained(folder)


def made(folder, name):
    architecture, kind, more = FAMILIES[name]
    base = build(architecture, kind, 0, **more)
    save_family(folder, base, {t: near(architecture, kind, base, s, **more) for s, t in enumerate(ADDED, 1)})
    save_tokenizer(folder / "base", pad=True, end="[SEP]")
    for task, tokens in ADDED.items():
        add(folder / task, tokens)
    config = {"base_model": "base", "models": [{"model": t} for t in ADDED], "method": "task_arithmetic"}
    (folder / "merge.yaml").write_text(yaml.safe_dump({**config, "trainer": {"max_steps": 0, "accelerator": "cpu"}}))
    return folder


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    root = tmp_path_factory.mktemp("added")
    return {name: made(root / name, name) for name in FAMILIES}


@pytest.fixture
def pool(pools, tmp_path, monkeypatch):
    """A copy of the Llama pool that may be spoilt, as the current directory."""
    monkeypatch.chdir(shutil.copytree(pools["llama"], tmp_path / "pool"))
    return tmp_path / "pool"


def configured(weights=None, **changes):
    config = {**yaml.safe_load(Path("merge.yaml").read_text()), **changes}
    for model in config["models"]:
        model["parameters"] = {"weight": (weights or {}).get(model["model"], 0.3)}
    Path("changed.yaml").write_text(yaml.safe_dump(config))
    return "changed.yaml"


def logits(folder, text):
    """Logits by token of plain transformers on a text, with the tokenizer beside the model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cls = getattr(transformers, json.loads((Path(folder) / "config.json").read_text())["architectures"][0])
    model, ids = cls.from_pretrained(folder), tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    more = {"decoder_input_ids": ids["input_ids"]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found = model(**ids, **more).logits[0]
    words = tokenizer.get_vocab()
    return {word: found[:, index] for word, index in words.items()}


@pytest.mark.parametrize(("name", "task"), [("llama", "mood"), *((name, "topic") for name in FAMILIES)])
def test_one_hot_an_added_token_has_its_experts_logits(pools, name, task, monkeypatch, tmp_path):
    """The two experts' first own tokens have one index, so that one of them moves; its row is from whoever has it."""
    monkeypatch.chdir(pools[name])
    file = configured({t: float(t == task) for t in ADDED}, tokenizer="union")
    assert cli.main(["fit", file, "--run_dir", str(tmp_path / "run")]) == 0
    text = f"{TEXT} {' '.join(ADDED[task])} slow"
    mine, theirs = logits(tmp_path / "run" / "merged", text), logits(task, text)
    assert {"<sad>", "<glad>", "<news>"} <= mine.keys()
    for word, numbers in theirs.items():
        torch.testing.assert_close(mine[word], numbers, rtol=1e-5, atol=1e-5)


def test_a_tokenizer_that_has_all_tokens_is_taken_byte_for_byte(pool, main):
    shutil.rmtree("topic")
    file = configured(tokenizer="union", models=[{"model": "mood"}, {"model": "plain"}])
    code, said, _ = main("fit", file, "--run_dir", "run")
    assert code == 0
    assert Path("run/merged/tokenizer.json").read_bytes() == Path("mood/tokenizer.json").read_bytes()
    assert "mood: brings the rows of 2 added tokens: <sad>, <glad>." in said
    row = transformers.AutoModel.from_pretrained("run/merged").get_input_embeddings().weight[40]
    assert torch.equal(row, transformers.AutoModel.from_pretrained("mood").get_input_embeddings().weight[40])


def test_base_keeps_the_bases_tokens(pool, main):
    code, said, _ = main("fit", configured(tokenizer="base"), "--run_dir", "run")
    assert code == 0
    merged = transformers.AutoModelForCausalLM.from_pretrained("run/merged")
    models = {t: transformers.AutoModelForCausalLM.from_pretrained(t) for t in ("base", *ADDED)}
    rows = {t: m.get_input_embeddings().weight[:40] for t, m in models.items()}
    expected = rows["base"] + sum(0.3 * (rows[t] - rows["base"]) for t in ADDED)
    torch.testing.assert_close(merged.get_input_embeddings().weight, expected)
    assert "mood: 2 tokens are not in the merge, and their rows are dropped: <glad>, <sad>." in said
    assert merged.config.eos_token_id == models["base"].config.eos_token_id


def test_a_models_tokenizer_decides_which_tokens_there_are(pool, main):
    assert main("fit", configured(tokenizer="topic"), "--run_dir", "run")[0] == 0
    words = transformers.AutoTokenizer.from_pretrained("run/merged").get_vocab()
    assert "<news>" in words
    assert "<sad>" not in words
    strange = shutil.copytree("topic", pool / "strange")
    add(strange, ["<odd>"])
    code, said, _ = main("check", configured(tokenizer="strange"), "--run_dir", "other")
    assert code == cli.BAD_INPUT
    assert "found <odd>, for which no model has a row" in said


def test_end_tokens_follow_their_token(pool):
    experts = open_experts(parse_file(Path(configured(tokenizer="union"))))
    words = transformers.AutoTokenizer.from_pretrained(experts.tasks["topic"].folder).get_vocab()
    assert words["<news>"] != 40  # as it is in its own tokenizer
    assert experts.tasks["topic"].checkpoint.config.eos_token_id == words["<news>"]
    assert json.loads((experts.tasks["topic"].folder / "config.json").read_text())["eos_token_id"] == words["<news>"]
    generation = json.loads((experts.tasks["topic"].folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == words["<news>"]


def test_a_chat_template_is_an_experts_where_the_base_has_none_and_replay_makes_it_again(pool, main):
    Path("topic/chat_template.jinja").write_text(CHATS)
    code, said, _ = main("fit", configured(tokenizer="union"), "--run_dir", "run")
    assert code == 0
    assert "base: has no chat template; the merge gets that of topic." in said
    assert transformers.AutoTokenizer.from_pretrained("run/merged").chat_template == CHATS
    code, _, complaint = main("replay", "run/recipe.json", "again")
    assert (code, complaint) == (0, "")
    for file in ("model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"):
        assert Path("again", file).read_bytes() == Path("run/merged", file).read_bytes()


def test_check_says_whose_rows_are_taken_and_which_tokens_move(pool, main):
    said = main("check", configured(tokenizer="union"), "--run_dir", "run")[1]
    assert "tokenizer: union: the merge has 43 tokens, 40 of the base." in said
    assert "topic: brings the rows of 1 added tokens: <news>." in said
    assert "topic: 1 tokens get another index than in its own tokenizer: <news>." in said


def test_other_vocabularies_are_refused_in_words(pool):
    content = json.loads(Path("mood/tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    Path("mood/tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(IncompatibleExpertsError, match=r"2 tokens that only one .* for example bad, good"):
        open_experts(parse_file(Path(configured(tokenizer="union"))))
    for file in sorted(Path("base").glob("tokenizer*.json")):
        file.write_text("{")
        with pytest.raises(ConfigError, match=rf"base: expected a tokenizer in .*{file.name}, but transformers cannot"):
            open_experts(parse_file(Path(configured(tokenizer="union"))))
    for file in Path("base").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ConfigError, match="base: tokenizer: expected a tokenizer beside the weights, found none"):
        open_experts(parse_file(Path(configured(tokenizer="base"))))


def change(file, **parts):
    """Write other parts of a saved tokenizer."""
    content = json.loads(Path(file).read_text())
    Path(file).write_text(json.dumps({**content, **parts}))


@pytest.mark.parametrize("choice", ["union", "base"])
def test_a_tokenizer_that_divides_texts_otherwise_is_refused(pool, choice):
    """One tokenizer would feed this expert other tokens than it was trained on, without a word."""
    change("mood/tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(IncompatibleExpertsError, match=r"mood: .* normalizer.type 'Lowercase' instead of none"):
        open_experts(parse_file(Path(configured(tokenizer=choice))))


def test_settings_of_a_tokenizer_that_do_not_count_are_named(pool, main):
    """The end that two of the experts have is the merge's where all experts have it."""
    for task in ADDED:
        change(f"{task}/tokenizer_config.json", eos_token="bad", truncation_side="left" if task == "mood" else "right")
    for folder, kept in (("mood", True), ("topic", False)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([transformers.AddedToken("<x>", lstrip=kept)])
        tokenizer.save_pretrained(folder)
        add_row(folder)
    said = main("check", configured(tokenizer="union"), "--run_dir", "run")[1]
    other = "its texts are read by the tokenizer of the merge, which has other settings"
    assert f"mood: {other}: truncation_side 'right' instead of 'left'." in said
    assert f"topic: {other}: another way to find <x> in a text." in said
    assert f"plain: {other}" not in said
    assert "base: its texts are read by" in said
    experts = open_experts(parse_file(Path("changed.yaml")))
    assert transformers.AutoTokenizer.from_pretrained(experts.tasks["topic"].folder).eos_token == "bad"


def add_row(folder):
    """Give a saved model a row for one token more."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size + 1, mean_resizing=False)
    model.save_pretrained(folder)


def test_without_the_key_the_refusal_names_it(pool):
    with pytest.raises(IncompatibleExpertsError, match="set tokenizer: union"):
        open_experts(parse_file(Path(configured())))


def test_rows_that_fill_up_the_vocabulary_may_become_tokens(pool):
    """An expert whose model has as many rows as before, because its new tokens took some that no token had."""
    for folder in ("base", "mood"):
        add(Path(folder), [] if folder == "base" else ["<sad>"], rows=48)
    only = open_experts(parse_file(Path(configured(tokenizer="union", models=[{"model": "mood"}]))))
    assert only.base.shape("model.embed_tokens.weight") == (48, 16)
    start, expert = only.base["model.embed_tokens.weight"], only.tasks["mood"].weights["model.embed_tokens.weight"]
    assert torch.equal(start[40], expert[40])
    assert not torch.equal(start[41], expert[41])


def test_an_adapter_is_opened_over_the_base_with_all_tokens(pool, capsys):
    torch.manual_seed(0)
    options = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained("base"), options).save_pretrained("small")
    models = [{"model": "mood"}, {"model": "small"}]
    file = configured({"small": 1.0, "mood": 0.0}, tokenizer="union", models=models)
    assert cli.main(["fit", file, "--run_dir", "run"]) == 0
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained("base"), "small")
    ids = torch.tensor([[5, 6, 7]])
    merged = transformers.AutoModelForCausalLM.from_pretrained("run/merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits[..., :40], model(ids).logits, rtol=1e-5, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained("mood")
    tokenizer.save_pretrained("small")
    with pytest.raises(IncompatibleExpertsError, match="small: tokenizer: union: expected an adapter over the base"):
        open_experts(parse_file(Path(file)))


def test_an_adapter_that_holds_all_rows_is_refused_with_what_to_do(pool):
    options = peft.LoraConfig(
        r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False, modules_to_save=["embed_tokens"]
    )
    peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained("base"), options).save_pretrained("rows")
    file = configured(tokenizer="union", models=[{"model": "mood"}, {"model": "rows"}])
    with pytest.raises(IncompatibleExpertsError, match=r"rows: tokenizer: union: .* Merge the adapter into its model"):
        open_experts(parse_file(Path(file)))


@pytest.mark.parametrize("memory", ["mapped", "streamed"])
def test_rows_are_encoded_with_the_common_tokenizer_and_learned_from(pool, main, memory):
    for task in ("mood", "topic"):
        rows = [{"text": f"the film {token} was good"} for token in ADDED[task] * 6]
        Path(f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    models = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    trainer = {"max_steps": 2, "accelerator": "cpu"}
    file = configured(tokenizer="union", models=models, method="expert_merging", memory=memory, trainer=trainer)
    config = parse_file(Path(file))
    experts = open_experts(config)
    data = load_data(config, experts)
    words = transformers.AutoTokenizer.from_pretrained(experts.tasks["topic"].folder).get_vocab()
    ids = data.calibration["topic"].batch(torch.arange(2))[0]["input_ids"]
    assert (ids == words["<news>"]).any(1).all()
    assert main("fit", file, "--run_dir", "run")[0] == 0
    row = transformers.AutoModelForCausalLM.from_pretrained("run/merged").get_input_embeddings().weight[words["<news>"]]
    own = transformers.AutoModelForCausalLM.from_pretrained("topic").get_input_embeddings().weight[40]
    assert torch.equal(row, own)
