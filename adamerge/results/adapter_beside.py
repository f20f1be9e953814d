"""Files that accompany an exported adapter: tokenizer, templates, settings and modules unlike the base's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adamerge.experts.experts import Experts
from adamerge.merging.merged_model import MergedModel
from adamerge.results.beside import Beside, contents, read_beside
from adamerge.results.generation_settings import name_ends_of_turns
from adamerge.results.whose_files import Plan, plan_of
from adamerge.results.write_beside import copy_module_weights, write_beside, write_module_weights
from adamerge.types import Coefficients


def write_beside_adapters(
    model: MergedModel, coefficients: Coefficients, folder: Path, places: Mapping[str, Path]
) -> list[str]:
    """Write beside each adapter what its readers cannot take from the base.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Folder of the export.
        places: Folder of each task's adapter.

    Returns:
        Notes for the user.
    """
    experts = model.experts
    assert experts.checkpoint is not None
    plan, base = plan_of(experts), read_beside(experts.checkpoint)
    notes: list[str] = []
    for place, tasks in _tasks_by_place(places).items():
        whole = plan.root if place == folder else plan.tasks[tasks[0]]
        beside = not_of_base(whole, base)
        write_beside(beside, place)
        if place == folder:
            notes += write_module_weights(plan.weights, model, coefficients, place)
        else:
            copy_module_weights(beside, place)
        notes += [f"note: {', '.join(tasks)}: {note}" for note in _notes(experts, tasks[0], beside, base, place)]
    return notes + _differing_settings(plan, base)


def _tasks_by_place(places: Mapping[str, Path]) -> dict[Path, list[str]]:
    return {place: [task for task, own in places.items() if own == place] for place in places.values()}


def not_of_base(own: Beside, base: Beside) -> Beside:
    """Keep what readers look for beside an adapter: all of tokenizer, processor and templates if any differs.

    sentence-transformers takes all of it from the adapter's folder.
    """
    files = ((own.tokenizer, base.tokenizer), (own.processor, base.processor))
    same = own.templates == base.templates and all(contents(mine) == contents(theirs) for mine, theirs in files)
    if same and own.modules is None:
        own = replace(own, tokenizer={}, processor={}, templates={})
        own = own if own.generation != base.generation else replace(own, generation={})
    return replace(own, others={}, token_ids={})


def _notes(experts: Experts, task: str, own: Beside, base: Beside, place: Path) -> list[str]:
    """Name the end of a turn, and say what loading an adapter does not read."""
    assert experts.checkpoint is not None
    notes = list[str]()
    if own.templates and experts.tasks[task].kind.language_model:
        notes = name_ends_of_turns(place, experts.checkpoint.settings())
    if own.modules is None and (own.tokenizer or own.processor):
        notes.append("tokenizer, processor and templates differ from the base's: load them from the adapter's folder.")
    if (place / "generation_config.json").exists():
        notes.append(
            "generation_config.json is beside the adapter, where PEFT and transformers do not read it: they generate "
            "by the base's settings unless given GenerationConfig.from_pretrained of this folder."
        )
    return notes


def _differing_settings(plan: Plan, base: Beside) -> list[str]:
    """Say which token ids of config.json an adapter, which has none, cannot carry."""
    found = [key for key, value in plan.root.token_ids.items() if base.token_ids.get(key) != value]
    if not found:
        return []
    return [f"note: {', '.join(found)}: the experts' config.json differs from the base's, and an adapter has none."]
