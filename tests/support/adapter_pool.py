"""Adapters of every kind over tiny bases, their merges, and what PEFT makes of an exported one."""

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.families import build

from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

LLAMA = ("LlamaForCausalLM", "llama", {"tie_word_embeddings": False})
KINDS = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "r": 2},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"down_proj": 5},
    },
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
    "bias": {"target_modules": ["query"], "bias": "all"},
}
BASES = {
    "llama": LLAMA,
    "gpt2": ("GPT2LMHeadModel", "gpt2", {}),
    "vit": ("ViTModel", "vit", {}),
    "bert": ("BertModel", "bert", {}),
}


def save_adapter(base, place, options, seed, family=LLAMA):
    name, kind, more = family
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(build(name, kind, 0, **more), LoraConfig(**{"r": 4, "lora_alpha": 8, **options}))
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(place)
    return place


def model_of(pool, kinds, base="llama", grouping=None, centre=None, beside=()):
    opened = open_checkpoint(str(pool / base))
    experts = from_checkpoints(opened, {kind: open_expert(str(pool / kind), opened) for kind in kinds})
    others = {f"merge{number}": make(experts) for number, make in enumerate(beside)}
    vectors = task_vectors(experts, experts.shared, centre=centre and centre(experts), beside=others)
    return MergedModel(experts, vectors, (grouping or (lambda v: task_wise(v.shapes)))(vectors))


def coefficients_of(model, seed=0):
    shape = len(model.grouping), len(model.vectors.experts)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loaded(folder, kind="llama"):
    name, word, more = BASES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(build(name, word, 0, **more), folder).merge_and_unload().state_dict()


def merged_state(model, coefficients):
    rows = model.grouping.rows
    return {name: model.vectors.combine_exactly(name, coefficients, rows[name]) for name in model.vectors.shapes}


def assert_same(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)
