"""What an export will say of the ends of turns, before anything is written."""

from collections.abc import Iterator

from adamerge.experts.experts import Experts
from adamerge.experts.token_ids import with_settings
from adamerge.results.adapter_beside import not_of_base
from adamerge.results.beside import Beside, read_beside
from adamerge.results.generation_settings import ends_named
from adamerge.results.whose_files import from_disk, plan_of


def turn_notes(experts: Experts, *, adapter: bool) -> list[str]:
    """Say where an export's generation will stop because a chat template ends a turn there, and where it cannot.

    Args:
        experts: Base and experts.
        adapter: Whether an adapter is exported, which brings the templates that are not the base's.
    """
    if not from_disk(experts):
        return []
    lines: list[str] = []
    for label, beside, settings in _folders(experts, adapter=adapter):
        folder = next((file.parent for file in beside.tokenizer.values()), None)
        if folder is not None:
            _, notes = ends_named(folder, beside.templates, beside.generation or None, settings)
            lines += [type(note)(f"note: {label}: {note}") for note in notes]
    return lines


def _folders(experts: Experts, *, adapter: bool) -> Iterator[tuple[str, Beside, dict[str, object]]]:
    """Yield name, files and content of config.json of every folder that an export has for language models."""
    assert experts.checkpoint is not None
    plan, base = plan_of(experts), read_beside(experts.checkpoint)
    speaking = [task for task, expert in experts.tasks.items() if expert.kind.language_model]
    roots = [task for task in experts.tasks if task not in plan.tasks]
    label = ", ".join(roots) if adapter else "the merged checkpoint"
    folders = {label: plan.root} if speaking and label else {}
    folders |= {task: plan.tasks[task] for task in speaking if task in plan.tasks}
    for name, own in folders.items():
        beside = not_of_base(own, base) if adapter else own
        one = experts.checkpoint if own is plan.root or adapter else experts.tasks[name].checkpoint
        settings = dict(one.settings()) if one is not None else {}
        yield name, beside, with_settings(settings, own.token_ids)
