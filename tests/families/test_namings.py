"""Files of every class, in each naming that transformers' tables know, are read alike and exported in today's."""

import pytest
from families.document import FILE
from families.namings import BARE, FORMER, OWN, PARTS, WHOLE, line, namings, stored
from families.others import OTHERS
from families.table import TABLE

MEMBERS = {getattr(member, "title", member.architecture): member for member in [*OTHERS, *TABLE]}
TEXT = FILE.read_text(encoding="utf-8").partition("| class | other namings |\n|---|---|\n")[2]
LINES = {text.partition(" | ")[0].removeprefix("| "): text for text in TEXT.splitlines()}
SAMPLE = [  # every class with a rule of its own, and every fourth of the others, as building one takes time
    title for place, (title, text) in enumerate(LINES.items()) if OWN in text or PARTS in text or place % 4 == 0
]


@pytest.mark.parametrize("title", SAMPLE)
def test_each_naming_is_read_and_exported_alike(title):
    assert line(MEMBERS[title], MEMBERS[title].build(0)) == LINES[title]


@pytest.mark.parametrize(
    ("title", "kind", "now", "other"),
    [
        ("BertForMaskedLM", FORMER, "bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.beta"),
        ("BertForMaskedLM", BARE, "bert.embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias"),
        ("Qwen3Model (sentence encoder)", WHOLE, "norm.weight", "model.norm.weight"),
        ("MixtralForCausalLM", OWN, "model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.gate.weight"),
        (
            "CLIPForImageClassification", PARTS, "vision_model.post_layernorm.bias",
            "vision_model.vision_model.post_layernorm.bias",
        ),
    ],
)  # fmt: skip
def test_other_names_are_those_of_files(title, kind, now, other):
    model = MEMBERS[title].build(0)
    assert namings(model, list(stored(model)))[kind][now] == other


def test_the_document_has_a_line_for_every_class():
    assert LINES.keys() == MEMBERS.keys()
    assert len(SAMPLE) > 40
