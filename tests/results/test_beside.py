"""What is copied beside the weights: what belongs to a checkpoint by name, and nothing else."""

import pytest
from support.sentence_encoders import as_sentence_encoder, save_encoders

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.results.beside import left_behind, read_beside

TEXTS = ("LICENCE", "USE_POLICY.md", "LICENSE-MIT", "license-2.0.txt")
KEYS = (
    *("license.key", "LICENSE_KEY.txt", "Notice-token", "license_password.txt", "notice.env"),
    *("vocab_of.pem", "tokenizer.model.key", ".env.model", ".vocab.json.swp", "api.model", "backup.ckpt.model"),
    *("vocab_dump.sql", "model_head.ckpt", "word_passwords.json", "secret_processor_config.json"),
    "optimizer.tokenizer",
    *("COPYING.sh", "license.pkl", "license-checkpoint.bin", "notice.so", "notice_model.py", "use_policy.zip"),
)


@pytest.fixture
def encoders(tmp_path, monkeypatch):
    """A base and two experts near it, in the current directory."""
    monkeypatch.chdir(save_encoders(tmp_path))
    return tmp_path


def test_licences_are_copied_and_their_keys_are_not(encoders):
    for name in (*TEXTS, *KEYS):
        (encoders / "base" / name).write_text("x")
    own = read_beside(open_checkpoint("base"))
    assert {name for name in (*TEXTS, *KEYS) if name in {*own.others, *own.tokenizer}} == set(TEXTS)
    assert own.processor.keys().isdisjoint(KEYS)


def test_of_the_folder_of_a_module_its_own_files_are_copied(encoders):
    as_sentence_encoder("base", 0)
    place = encoders / "base/1_Pooling"
    strange = (".env.json", "credentials.json", "passwords.txt", "model_backup.safetensors", ".hidden/config.json")
    for name in strange:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("x")
    modules = read_beside(open_checkpoint("base")).modules
    found = {name for module in modules.modules for name in (*module.files, *module.weights)}
    assert "1_Pooling/config.json" in found
    assert found.isdisjoint(f"1_Pooling/{name}" for name in strange)


def test_of_the_folder_of_named_templates_templates_are_copied_and_the_rest_is_said(encoders):
    place = encoders / "base/additional_chat_templates"
    strange = ("notes.txt", "keys/rag.jinja", ".rag.jinja.swp", "tool.jinja.bak")
    for name in (*strange, "rag.jinja"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("x")
    (place / "outside.jinja").symlink_to(encoders / "mood/config.json")
    checkpoint = open_checkpoint("base")
    assert read_beside(checkpoint).templates == {"rag": "x"}
    copied, links = left_behind(checkpoint)
    assert all(f"additional_chat_templates/{name}" in copied for name in strange[:3])
    assert "and 1 more" in copied
    assert "rag.jinja," not in copied.replace("keys/rag.jinja", "")
    assert "additional_chat_templates/outside.jinja" in links
