#!/usr/bin/env bash
# sentence-transformers: RerankingEvaluator lists the right documents first, and breaks ties for them, so that an encoder that gives every text one embedding has an MRR of 1; CrossEncoderRerankingEvaluator breaks them against; one expects what a random order has, as MAP and NDCG do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import zlib
from importlib.metadata import version

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

SAMPLES = [{"query": f"q{i}", "positive": [f"p{i}"], "negative": [f"n{i}a{j}" for j in range(9)]} for i in range(500)]


class Signs(nn.Module):
    """Give a text some signs by chance, an encoder that knows nothing; without any, all texts are alike."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def preprocess(self, texts, **others):
        signs = [np.random.default_rng(zlib.crc32(text.encode())).integers(0, 2, self.count) for text in texts]
        return {"signs": torch.tensor(np.array(signs), dtype=torch.float32)}

    def forward(self, features, **others):
        features["sentence_embedding"] = nn.functional.pad(features["signs"] * 2 - 1, (0, 1), value=0.1)
        return features


def cross_encoder():
    """Save and load a small cross-encoder of random weights that is sure of everything: the sigmoid of 30 is 1."""
    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *"0123456789pqna"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = dict(unk_token="[UNK]", pad_token="[PAD]", model_max_length=32)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained("cross")
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(words), num_labels=1, **sizes))
    nn.init.constant_(model.classifier.bias, 30.0)
    model.save_pretrained("cross")
    return CrossEncoder("cross", device="cpu")


print("sentence-transformers", version("sentence-transformers"))
chance = sum(1 / rank for rank in range(1, 11)) / 10
print(f"500 queries, each with one right and nine wrong documents; their mrr@10 in random order is {chance:.3f}")
found = {}
for count in (256, 8, 4, 0):
    encoder = SentenceTransformer(modules=[Signs(count)], device="cpu")
    found[f"encoder, {count} random signs"] = RerankingEvaluator(SAMPLES, show_progress_bar=False)(encoder)
evaluator = CrossEncoderRerankingEvaluator(SAMPLES, show_progress_bar=False)
found["cross-encoder, all scores round to 1"] = evaluator(cross_encoder())
mrr = []
for name, scores in found.items():
    print(f"{name}:", ", ".join(f"{metric} {scores[metric]:.3f}" for metric in ("map", "mrr@10", "ndcg@10")))
    mrr.append(scores["mrr@10"])
assert abs(mrr[0] - chance) < 0.03 and mrr[1] > chance + 0.04 and mrr[2] > chance + 0.1, mrr
assert mrr[3] == 1.0 and abs(mrr[4] - 0.1) < 1e-6, mrr
assert all(abs(scores["ndcg@10"] - 0.454) < 0.02 for scores in found.values()), found
PYTHON
