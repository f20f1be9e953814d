"""Model cards: metadata that the hub's own library reads back, honest licences, tables, and code that loads."""

import json
import re

import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.utils import validate_repo_id
from support.families import TASKS

from adamerge import Expert, Merge
from adamerge.experts.origin import hub_id_of, licence_in
from adamerge.results.loading import Loading
from adamerge.results.model_card import CardFacts, Source, card, licence_of, metadata
from adamerge.runs.cards import as_json, from_json

MIT = {"license": "mit"}
OTHER = {"license": "other", "license_name": "llama3", "license_link": "https://example.org/a"}
LOADING = Loading("AutoModelForSequenceClassification", "AutoTokenizer", "text-classification")


def facts(licences, *, ids=("org/base", "org/news", None), tasks=("news", "a|b")):
    names = ["base", *tasks]
    sources = [
        Source(name, f"/models/{name}", hub_id, (), licence)
        for name, hub_id, licence in zip(names, ids, licences, strict=True)
    ]
    scores = {"expert": {"news": 90.0, "a|b": 80.0, "mean": 85.0}, "learned": {"news": 81.0, "a|b": None, "mean": None}}
    relative = {"expert": dict.fromkeys(scores["expert"], 100.0), "learned": {"news": 90.0, "a|b": None, "mean": None}}
    return CardFacts(sources, "adamerging++", ["learned by Adam"], "accuracy, %", scores, relative, version="1")


def read(text, tmp_path):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return ModelCard.load(tmp_path / "README.md"), metadata_load(tmp_path / "README.md")


def test_metadata_is_what_the_hubs_library_reads(tmp_path):
    found, raw = read(card(facts([MIT] * 3), {"": LOADING, "news": LOADING}, None, "merged"), tmp_path)
    assert raw["base_model"] == ["org/base", "org/news"]
    assert all(validate_repo_id(name) is None for name in raw["base_model"])
    assert raw["base_model_relation"] == "merge"
    assert (raw["library_name"], raw["license"], raw["pipeline_tag"]) == ("transformers", "mit", "text-classification")
    assert raw["tags"] == ["merge", "adamerge", "adamerging++"]
    (result,) = found.data.eval_results  # the model-index is parsed and validated
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("news", "accuracy", 0.81)
    assert found.data.to_dict() == metadata(facts([MIT] * 3), LOADING, None, "merged").to_dict()


@pytest.mark.parametrize(
    ("licences", "licence", "reason"),
    [
        ([MIT, MIT, MIT], MIT, None),
        ([OTHER, OTHER, OTHER], OTHER, None),
        ([MIT, MIT, {}], {}, "a|b: not stated"),
        ([{}, MIT, MIT], {}, "base: not stated"),
        ([MIT, MIT, {"license": "apache-2.0"}], {}, "a|b: apache-2.0"),
        ([OTHER, OTHER, OTHER | {"license_name": "gemma"}], {}, "a|b: gemma"),
        ([{}, {}, {}], {}, "no source states a licence"),
    ],
)
def test_a_licence_is_stated_where_all_sources_agree(tmp_path, licences, licence, reason):
    found, why = licence_of(facts(licences).sources)
    assert found == licence
    text = card(facts(licences), {"": LOADING}, None, "merged")
    _, raw = read(text, tmp_path)
    assert {key: raw[key] for key in OTHER if key in raw} == licence
    assert (why is None) == (reason is None) == ("**Licence:" not in text)
    assert reason is None or reason in why


def test_tables_have_a_cell_per_column(tmp_path):
    text = card(facts([{}] * 3), {"": LOADING}, None, "merged")
    (table,) = re.findall(r"(?:^\| task .*\n)(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert {line.count("|") for line in table.splitlines()} == {4}
    assert "| news | 90.0 | 81.0 (90) |" in table
    assert "| a&#124;b | 80.0 | – |" in table


def test_facts_survive_json():
    given = facts([MIT, {}, OTHER])
    assert from_json(json.loads(json.dumps(as_json(given)))).sources == [
        Source(s.name, s.source, s.hub_id, [], s.licence) for s in given.sources
    ]
    again = from_json(json.loads(json.dumps(as_json(given))))
    assert card(again, {"": LOADING}, None, "m") == card(given, {"": LOADING}, None, "m")


@pytest.mark.parametrize("name", ["Our Licence, V2", "our_licence", "-x-", "LLaMA 3.1"])
def test_names_of_licences_are_as_the_hub_takes_them(name):
    for stated in ({"license": "other", "license_name": name}, {"license": name}):
        found = licence_in(stated)
        assert found["license"] == "other" or "license_name" not in found
        assert re.fullmatch(r"[a-z0-9.-]+", found.get("license_name", "mit"))


def test_ids_of_local_folders_are_not_guessed(tmp_path):
    (tmp_path / "bert-base-uncased").mkdir()
    assert hub_id_of(str(tmp_path / "bert-base-uncased"), tmp_path / "bert-base-uncased") is None
    assert hub_id_of("../experts/news", tmp_path) is None
    assert hub_id_of("org/model@main", tmp_path) == "org/model"


def test_an_export_has_a_card_in_every_folder_and_its_code_runs(in_finished):
    merged = in_finished / "run/merged"
    folders = [merged, *(merged / task for task in TASKS)]
    for folder in folders:
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert metadata_load(folder / "README.md")["library_name"] == "transformers"
        for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            exec(code.replace("PATH_OR_ID", str(merged)), found := {})
            assert found["model"].config.architectures == ["BertForSequenceClassification"]
            assert found["processor"]("good")["input_ids"]


def test_the_card_tells_rows_that_were_learned_from_and_those_held_out(in_finished):
    text = (in_finished / "run/merged/README.md").read_text(encoding="utf-8")
    assert "\n- calibration rows: mood 24, topic 24\n" in text  # of 32
    assert "\n- rows held out of calibration, to choose by and to measure agreement: mood 8, topic 8\n" in text
    assert "\n- start of the coefficients: 0.3\n" in text


def test_what_local_folders_say_they_were_made_from(in_finished):
    from adamerge.experts.checkpoint import open_checkpoint
    from adamerge.experts.origin import origin_of

    (in_finished / "mood/README.md").write_text("---\nbase_model: org/base\nlicense: mit\n---\n# Mood\n")
    found = origin_of(open_checkpoint(str(in_finished / "mood")))
    assert (found.hub_id, found.ancestors, found.licence) == (None, ("org/base",), MIT)
    (in_finished / "mood/README.md").write_text("---\n: [broken\n---\n")
    assert origin_of(open_checkpoint(str(in_finished / "mood"))).licence == {}


def test_an_export_from_python_has_cards(family):
    Merge("base", ["mood", "topic"], method="task_arithmetic").learn().export("merged")
    for folder in ("merged", "merged/mood", "merged/topic"):
        assert metadata_load(f"{folder}/README.md")["tags"] == ["merge", "adamerge", "task_arithmetic"]
        assert "Not measured when this was exported." in (family / folder / "README.md").read_text(encoding="utf-8")


def test_a_task_that_is_called_base_does_not_replace_the_base(family):
    done = Merge("base", [Expert("mood", task="base"), Expert("topic")], method="task_arithmetic").learn().export("out")
    text = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "2 fine-tuned experts (base, topic)" in text
    rows = [line for line in text.splitlines() if line.startswith("| base |")]
    assert rows == ["| base | base (local folder) | not stated |", "| base | mood (local folder) | not stated |"]


@pytest.mark.parametrize(
    ("folders", "task", "said"), [({"", "news"}, None, True), ({"", "news"}, "news", True), ({""}, None, False)]
)
def test_that_folders_share_files_is_said_where_there_are_several(folders, task, said):
    text = card(facts([MIT] * 3), dict.fromkeys(folders, LOADING), task, "merged")
    assert ("--no_links" in text) is said
