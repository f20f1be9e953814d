"""Alignment of language models in small: experts of three domains, merged below task arithmetic's perplexity."""

from pathlib import Path

import pytest
from language import Recipe, align, arithmetic, open_family
from language_family import DOMAINS, Training, make_family

from adamerge.cli import parse_file
from adamerge.data.settings import PseudoAnswers
from adamerge.data.text_rows import Prompts
from adamerge.results.evaluate import Evaluation
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data

SMALL = Training(
    words=384, width=48, layers=1, base_steps=150, expert_steps=150, batch=9, length=40, characters=150_000, rows=64
)
RECIPE = Recipe(rows=64, steps=20, rate=1e-1, blocks=48, batch=20)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    make_family(folder, SMALL)
    return folder


@pytest.mark.long
def test_alignment_is_below_task_arithmetic_at_its_best_scale_on_every_domain(family):
    model, data = open_family(family, RECIPE)
    evaluation = Evaluation(model, data.evaluation)
    base, experts = evaluation.base(), evaluation.experts()
    merged = evaluation.merged(align(model, data, RECIPE).coefficients)
    scales = arithmetic(model, data).values()  # the best scale of each domain alone
    for domain in DOMAINS:
        assert experts[domain] < 0.9 * base[domain]
        assert merged[domain] < min(scores[domain] for scores in scales)


@pytest.mark.long
def test_the_recipe_fits_the_family(family, tmp_path, monkeypatch):
    recipe = Path(__file__).parents[2] / "configs/language_models.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "language_family").symlink_to(family)
    config = parse_file(recipe)
    data = load_data(config, open_experts(config))
    assert config.data.pseudo_answers == PseudoAnswers(max_new_tokens=32, sample=True)
    assert all(isinstance(rows, Prompts) for rows in data.calibration.values())
    assert data.evaluation.keys() == set(DOMAINS)
