"""Labels, numbers, spans and vectors are stored, measured and learned as plain modules say of each row alone."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from support.families import WORDS, build, save_tokenizer

from adamerge import ConfigError, Expert, Merge
from adamerge.calibration.agreement import hold_out
from adamerge.calibration.row_scores import alike
from adamerge.calibration.targets import TargetSettings, compute_targets
from adamerge.experts.pooling import modes_of, pooled
from adamerge.merging.merged_model import MergedModel, uniform

SEVERAL = {"num_labels": 3, "problem_type": "multi_label_classification"}
FORMS = {
    "labels": ("RobertaForSequenceClassification", "roberta", SEVERAL),
    "numbers": ("BertForSequenceClassification", "bert", {"num_labels": 1}),
    "spans": ("BertForQuestionAnswering", "bert", {}),
    "vectors": ("BertModel", "bert", {}),
}  # fmt: skip
TEXTS = [" ".join(WORDS[i : i + 3 + 2 * (i % 3)]) for i in range(8)]
TRAINER = {"accelerator": "cpu", "max_steps": 3}


def models_of(form):
    architecture, family, options = FORMS[form]
    base = build(architecture, family, 0, **options)
    experts = {}
    for seed, task in enumerate("ab", 1):
        expert = copy.deepcopy(base)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        experts[task] = expert
    return base, experts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    save_tokenizer(folder, end="[SEP]")
    return transformers.AutoTokenizer.from_pretrained(folder)


def merge(form, tokenizer, evaluation=None, **settings):
    base, experts = models_of(form)
    rows = {"calibration": TEXTS, **({"evaluation": evaluation} if evaluation else {})}
    chosen = [Expert(model, task=task, **rows) for task, model in experts.items()]
    usual = {"method": "expert_merging", "data": {"held_out": 0.5, "batch_size": None}, "trainer": TRAINER}
    return Merge(base, chosen, processor=tokenizer, **{**usual, **settings})


@pytest.fixture(autouse=True)
def _quiet():
    """Random experts are far from their base, which is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def plain(form, module, tokenizer):
    """What a module says of every text, alone."""
    found = []
    for text in TEXTS:
        output = module(**tokenizer(text, return_tensors="pt"))
        if form == "spans":
            found.append(torch.stack([output.start_logits[0], output.end_logits[0]]))
        elif form == "vectors":
            vector = output.last_hidden_state[0].mean(0)
            found.append(vector / vector.norm())
        else:
            found.append(output.logits[0])
    return found


def by_definition(form, merged, expert):
    """Divergence of each row, (N,)."""
    if form == "spans":
        logs = [(z.log_softmax(-1), t.log_softmax(-1)) for z, t in zip(merged, expert, strict=True)]
        return torch.stack([(t.exp() * (t - z)).sum(-1).sum() for z, t in logs])
    z, t = torch.stack(merged), torch.stack(expert)
    if form == "labels":
        p, q = t.sigmoid(), z.sigmoid()
        return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1)
    variance = t.var(0, correction=0)
    return (
        (z - t).square().sum(-1) / (2 * variance.sum())
        if form == "vectors"
        else ((z - t) ** 2 / (2 * variance)).sum(-1)
    )


@pytest.mark.parametrize("form", FORMS)
def test_held_out_rows_are_measured_as_each_row_alone(form, tokenizer):
    with torch.no_grad():
        result = merge(form, tokenizer, trainer={**TRAINER, "max_steps": 0}).learn()
        model, rows = result.model, result._opened.data.calibration
        targets = compute_targets(model, rows, TargetSettings(), 3, None)
        held_out = hold_out(model, rows, 5, targets)
        base, experts = models_of(form)
        said = {task: plain(form, expert, tokenizer) for task, expert in experts.items()}
        zero = held_out.judge(model, uniform(model, 0.0))
        streamed = MergedModel(model.experts, model.vectors, model.grouping, model.rounding, blocks=())
        for task, scores in held_out.judge(streamed, uniform(model, 0.0)).items():
            torch.testing.assert_close(scores.diverged, zero[task].diverged)
            assert scores.same.tolist() == zero[task].same.tolist()
        heads = [name for name, _ in base.named_parameters() if name.startswith(("classifier", "qa_outputs"))]
        for task, expert in experts.items():
            merged = copy.deepcopy(base)
            for name in heads:
                merged.get_parameter(name).copy_(expert.get_parameter(name))
            mine = plain(form, merged, tokenizer)
            expected = by_definition(form, mine, said[task])
            torch.testing.assert_close(zero[task].diverged.float(), expected, rtol=2e-3, atol=1e-4)
            if form in ("labels", "spans"):
                pick = (lambda z: z > 0) if form == "labels" else (lambda z: z.argmax(-1))
                same = [(pick(one) == pick(two)) for one, two in zip(mine, said[task], strict=True)]
                share = [own.all().item() for own in same] if form == "labels" else [own.sum().item() for own in same]
                assert zero[task].same.tolist() == share
        alone = torch.zeros(len(model.grouping), 2)
        alone[:, 0] = 1
        own = held_out.judge(model, alone)["a"]
        assert own.divergence == pytest.approx(0, abs=1e-5)
        assert own.agreement == 1


@pytest.mark.parametrize("form", FORMS)
def test_it_learns(form, tokenizer):
    settings = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.1}}, "lr_scheduler": None, "grouping": "task"}
    result = merge(form, tokenizer, watch={"every": 1}, **settings).learn()
    steps = [step["divergence"] for step in result.history]
    assert min(steps[1:]) < steps[0]
    assert result.moved


@pytest.mark.parametrize(
    ("form", "method", "steps"), [("numbers", "adamerging", 1), ("vectors", "adamerging", 1), ("labels", "fisher", 0)]
)
def test_what_has_no_meaning_is_refused_with_a_way_on(form, method, steps, tokenizer):
    with pytest.raises(ConfigError, match=r"alone .* has a meaning, but .* predicts .*LogitAlignment"):
        merge(form, tokenizer, method=method, trainer={**TRAINER, "max_steps": steps}).learn()


def test_numbers_are_alike_in_the_share_of_pairs_in_one_order():
    draw = torch.Generator().manual_seed(0)
    merged, expert = torch.randn(9, 1, generator=draw), torch.randn(9, 1, generator=draw)
    every = [
        sum((merged[i] > expert[j]) == (expert[i] > expert[j]) for j in range(9) if j != i).item() / 8 for i in range(9)
    ]
    assert alike(merged, expert, "numbers", expert).tolist() == pytest.approx(every)
    assert alike(2 * expert + 0, expert, "numbers", expert).mean() < 1
    assert alike(expert, expert, "numbers", expert).tolist() == [1] * 9


LABELED = {
    "numbers": ({"text": TEXTS, "label": [0.5 * i for i in range(8)]}, {}),
    "labels": ({"text": TEXTS, "label": [[0], [1, 2], [], [2], [0, 1], [], [1], [0, 2]]}, {}),
    "vectors": ({"text": TEXTS, "other": TEXTS[::-1], "label": [5, 1, 4, 2, 3, 0, 1.5, 2.5]}, {"text_pair": "other"}),
}


def expected_score(form, said, columns):
    if form == "numbers":
        return (torch.stack(said).squeeze(-1) - torch.tensor(columns["label"])).square().mean().item()
    if form == "labels":
        right = torch.tensor([[int(c in own) for c in range(3)] for own in columns["label"]])
        found = (torch.stack(said) > 0).int()
        hits = (found * right).sum()
        return 100 * (2 * hits / (found.sum() + right.sum())).item()
    one = torch.stack(said)
    cosines = (one * one.flip(0)).sum(-1)
    ranks = [
        torch.tensor([float((x < v).sum()) + float((x == v).sum() - 1) / 2 for v in x])
        for x in (cosines, torch.tensor(columns["label"]))
    ]
    return 100 * torch.corrcoef(torch.stack(ranks))[0, 1].item()


@pytest.mark.parametrize("metric", ["exact_match", "f1"])
def test_answers_of_spans_are_measured_by_their_words(metric, tokenizer, tmp_path):
    said = []
    with torch.no_grad():
        for (begin, end), text in zip(plain("spans", models_of("spans")[1]["a"], tokenizer), TEXTS, strict=True):
            every = [(begin[i] + end[j], i, j) for i in range(len(begin)) for j in range(i, len(begin))]
            _, i, j = max(every)
            said.append(tokenizer.decode(tokenizer(text)["input_ids"][i : j + 1], skip_special_tokens=True))
    labels = [[one, "x"] if i % 2 else {"text": ["x y"], "answer_start": [0]} for i, one in enumerate(said)]
    file = tmp_path / "test.jsonl"
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluation = {"path": file, "metric": metric}
    result = merge("spans", tokenizer, evaluation, trainer={**TRAINER, "max_steps": 0}).learn()
    assert result.compare().scores["expert"]["a"] == pytest.approx(50)


@pytest.mark.parametrize("form", LABELED)
def test_labeled_rows_are_measured_by_what_suits_the_model(form, tokenizer, tmp_path):
    columns, more = LABELED[form]
    file = tmp_path / "test.jsonl"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = merge(form, tokenizer, {"path": file, **more}, trainer={**TRAINER, "max_steps": 0}).learn()
    comparison = result.compare()
    with torch.no_grad():
        said = plain(form, models_of(form)[1]["a"], tokenizer)
    assert comparison.scores["expert"]["a"] == pytest.approx(expected_score(form, said, columns), rel=1e-3, abs=1e-3)
    assert comparison.metric == {"numbers": "mse", "labels": "f1", "vectors": "spearman"}[form]
    if form == "numbers":
        worse, own = comparison.scores["average"]["a"], comparison.scores["expert"]["a"]
        assert comparison.relative()["average"]["a"] == pytest.approx(100 * own / worse)
        assert "lower is better" in comparison.unit


def test_vectors_are_pooled_as_sentence_transformers_does():
    pooling = pytest.importorskip("sentence_transformers.sentence_transformer.modules.pooling")
    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for masks in (
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
        [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    ):
        mask = torch.tensor(masks)
        for mode in pooling.Pooling.POOLING_MODES:
            theirs = pooling.Pooling(4, pooling_mode=mode)({"token_embeddings": states, "attention_mask": mask})
            torch.testing.assert_close(pooled(states, mask, (mode,)), theirs["sentence_embedding"])


def test_the_pooling_is_read_in_both_spellings(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    entry = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    Path(tmp_path / "modules.json").write_text(json.dumps([entry]))
    for settings, expected in (
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, ("cls", "mean")),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": "unheard of"}, ()),
    ):
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(settings))
        assert modes_of([tmp_path]) == expected
