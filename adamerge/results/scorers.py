"""One task's score from its model's outputs, or from the answers that it generates (torchmetrics)."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.text import Perplexity
from torchmetrics.text.rouge import ROUGEScore
from typing_extensions import override

from adamerge.batch import Batch, Outputs
from adamerge.data.answers import named, normalised, words
from adamerge.data.questions import Choices, Pairs, Question, Questions, Spans
from adamerge.data.rows import Rows
from adamerge.objectives import cross_entropy


class Scorer(ABC):
    """Collects the outputs of one task's model on its labeled rows."""

    @abstractmethod
    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch with labels."""

    @abstractmethod
    def value(self) -> float:
        """Return the score, without the factor 100 of a percentage."""


class Classified(Scorer):
    """Accuracy of classes, or perplexity of tokens, by torchmetrics."""

    def __init__(self) -> None:
        self._metric: Metric | None = None

    @override
    def update(self, outputs: Outputs, batch: Batch) -> None:
        logits = outputs.logits.float()  # torchmetrics takes the softmax in the dtype that they have
        self._metric = self._metric or _metric(logits).to(logits.device)
        self._metric.update(logits, batch.labels)

    @override
    def value(self) -> float:
        assert self._metric is not None  # rows are at least one
        return self._metric.compute().item()


class Numbered(Scorer):
    """Mean squared error or a correlation of numbers, or F1 over all labels of all rows, by torchmetrics."""

    def __init__(self, metric: str) -> None:
        self._name = metric
        self._found: list[Tensor] = []
        self._right: list[Tensor] = []

    @override
    def update(self, outputs: Outputs, batch: Batch) -> None:
        assert batch.labels is not None
        self._found.append(outputs.logits.float().cpu())
        self._right.append(batch.labels.float().cpu())

    @override
    def value(self) -> float:
        found, right = (torch.cat(own).flatten() for own in (self._found, self._right))
        return _numeric_value(self._name, found, right)


class Paired(Scorer):
    """Correlation of the cosines of pairs with their scores."""

    def __init__(self, rows: Pairs) -> None:
        self._rows, self._vectors = rows, dict[int, Tensor]()

    @override
    def update(self, outputs: Outputs, batch: Batch) -> None:
        self._vectors.update(zip(batch.rows.tolist(), outputs.logits.float().cpu(), strict=True))

    @override
    def value(self) -> float:
        count = len(self._rows.scores)
        one, other = (torch.stack([self._vectors[i + start] for i in range(count)]) for start in (0, count))
        cosines = torch.cosine_similarity(one, other)
        return _numeric_value(self._rows.metric or "spearman", cosines, torch.tensor(self._rows.scores))


class Spanned(Scorer):
    """Share of rows whose likeliest span has the words of a right answer, or the mean F1 of its words.

    The span maximises the sum of the logits of its start and its end, which is not before the start.

    Reference:
        Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, 2016, section 6.1.
    """

    def __init__(self, rows: Spans) -> None:
        self._rows, self._found = rows, dict[int, float]()

    @override
    def update(self, outputs: Outputs, batch: Batch) -> None:
        masks = batch.inputs["attention_mask"].bool()
        for row, ids, mask, logits in zip(
            batch.rows.tolist(), batch.inputs["input_ids"], masks, outputs.logits, strict=True
        ):
            start, end = likeliest_span(logits[:, : int(mask.sum())])
            said = str(self._rows.tokenizer.decode(ids[mask][start : end + 1].tolist(), skip_special_tokens=True))
            score = exact_words if self._rows.metric == "exact_match" else f1_of_words
            self._found[row] = max(score(said, right) for right in self._rows.answers[row])

    @override
    def value(self) -> float:
        return mean(list(self._found.values()))


def likeliest_span(logits: Tensor) -> tuple[int, int]:
    """Find the start and the end with the highest sum of logits, the end not before the start.

    Args:
        logits: Of start and end, (2, S).

    Example:
        >>> likeliest_span(torch.tensor([[0.0, 1.0, 5.0], [4.0, 3.0, 0.0]]))
        (2, 2)
    """
    sums = logits[0][:, None] + logits[1]  # (S, S)
    after = torch.ones_like(sums).triu().bool()
    start, end = divmod(int(sums.masked_fill(~after, -torch.inf).argmax()), len(sums))
    return start, end


def exact_words(said: str, right: str) -> float:
    """Return 1 if two answers have the same words, else 0."""
    return float(words(said) == words(right))


def f1_of_words(said: str, right: str) -> float:
    """Compute the F1 of the words of two answers; two without words are equal.

    Example:
        >>> f1_of_words("the red film", "red film"), f1_of_words("", "")
        (0.8, 1.0)
    """
    one, other = Counter(words(said)), Counter(words(right))
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


class Chosen(Scorer):
    """Share of questions whose right choice is the likeliest as a whole, Σ log p of its tokens; of equals the first."""

    def __init__(self, rows: Choices) -> None:
        self._rows = rows
        self._likelihoods = torch.full((len(rows),), -torch.inf, dtype=torch.float64)

    @override
    def update(self, outputs: Outputs, batch: Batch) -> None:
        assert batch.labels is not None
        lost = cross_entropy(outputs.logits.float(), batch.labels).sum(-1)
        self._likelihoods[batch.rows.cpu()] = -lost.double().cpu().nan_to_num(torch.inf)

    @override
    def value(self) -> float:
        best: dict[int, tuple[float, bool]] = {}
        found = zip(self._rows.questions, self._likelihoods.tolist(), self._rows.right, strict=True)
        for question, likelihood, right in found:
            if question not in best or likelihood > best[question][0]:
                best[question] = likelihood, right
        return mean([float(right) for _, right in best.values()])


def scorer_of(rows: Rows) -> Scorer:
    """Return what collects the outputs on a task's rows."""
    if isinstance(rows, Choices):
        return Chosen(rows)
    if isinstance(rows, Pairs):
        return Paired(rows)
    if isinstance(rows, Spans):
        return Spanned(rows)
    return Numbered(rows.metric) if rows.metric and rows.metric in _NUMERIC else Classified()


def score_of_texts(questions: Questions, answers: Sequence[str]) -> float:
    """Score generated answers, 0 to 1.

    Args:
        questions: What they are compared with, and by which metric.
        answers: One per question.
    """
    asked, metric = questions.asked, questions.source.metric
    if metric == "rouge":
        return rouge(answers, [one.right for one in asked])
    same = _same if metric == "exact_match" else _names
    return mean([float(same(answer, one)) for answer, one in zip(answers, asked, strict=True)])


def rouge(answers: Sequence[str], right: Sequence[str]) -> float:
    """Compute the mean F-measure of ROUGE-L, of words of any script.

    Reference:
        Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, section 3.

    Example:
        >>> round(rouge(["the cat sat"], ["the cat"]), 3), rouge(["今天"], ["今天"])
        (0.8, 1.0)
    """
    metric = ROUGEScore(rouge_keys="rougeL", normalizer=str, tokenizer=words)
    metric.update(list(answers), list(right))
    return metric.compute()["rougeL_fmeasure"].item()


def mean(values: Sequence[float]) -> float:
    """Compute the mean by torchmetrics."""
    metric = MeanMetric()
    metric.update(torch.tensor(values))
    return metric.compute().item()


def _same(answer: str, one: Question) -> bool:
    return normalised(answer, one.normalise) == normalised(one.right, one.normalise)


def _names(answer: str, one: Question) -> bool:
    return named(answer, one.choices, one.normalise) == one.place


def _numeric_value(name: str, found: Tensor, right: Tensor) -> float:
    metric = _NUMERIC[name]()
    if name == "f1":
        found, right = (found > 0).int(), right.int()
    metric.update(found, right)
    return metric.compute().item()


_NUMERIC: Mapping[str, Callable[[], Metric]] = {
    "mse": MeanSquaredError,
    "pearson": PearsonCorrCoef,
    "spearman": SpearmanCorrCoef,
    "f1": BinaryF1Score,
}


def _metric(logits: torch.Tensor) -> Metric:
    if logits.ndim == 3:
        return Perplexity(ignore_index=-100)
    return MulticlassAccuracy(num_classes=logits.shape[-1], average="micro")
