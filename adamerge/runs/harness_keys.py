"""Print the metric keys of lm-eval's tasks; needs lm-eval alone, and lm_eval.sh of a run has a copy."""

import fnmatch
import sys
from collections.abc import Iterator, Mapping
from typing import Any

LATER = "others that its code names"
"""Stands for the keys of tasks whose metrics are code, which only a run tells."""

UNKNOWN = "lm-eval knows no task of this name"


def keys_of(name: str, index: Mapping[str, Any], defaults: Mapping[str, list[str]]) -> list[str]:
    """List the keys of a task in lm-eval's results, or those of all tasks of a group, tag or pattern (mmlu_*).

    Args:
        name: Name of the task.
        index: `task_index` of lm-eval's TaskManager: entries with a kind and the task's configuration, cfg.
        defaults: Metrics per type of output, of tasks that name none.
    """
    names = fnmatch.filter(index, name) if "*" in name else [name]
    return list(dict.fromkeys(key for one in names for key in _keys(one, index, defaults)))


def _keys(name: str, index: Mapping[str, Any], defaults: Mapping[str, list[str]]) -> Iterator[str]:
    entry = index.get(name)
    if entry is None:
        yield from [LATER] if "/" in name else []  # a file
        return
    kind, cfg = entry.kind.name, entry.cfg or {}
    if kind == "TASK":
        filters = [one["name"] for one in cfg.get("filter_list") or [{"name": "none"}]]
        named = [one["metric"] for one in cfg.get("metric_list") or []] or defaults.get(cfg.get("output_type", ""), [])
        yield from (LATER if _is_code(one) else f"{one},{own}" for own in filters for one in named)
    elif kind in ("GROUP", "TAG"):
        yield from (f"{one['metric']},none" for one in cfg.get("aggregate_metric_list") or [])
        members = cfg.get("task") or [] if kind == "GROUP" else sorted(entry.tags)
        for one in [members] if isinstance(members, str) else members:
            yield from _keys(one if isinstance(one, str) else str(one.get("task")), index, defaults)
    else:
        yield LATER


def _is_code(metric: object) -> bool:
    return not isinstance(metric, str) or "/" in metric or "." in metric


if __name__ == "__main__":
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY  # pyright: ignore
    from lm_eval.tasks import TaskManager  # pyright: ignore

    found = TaskManager().task_index
    for task in sys.argv[1].split(","):
        print(f"{task}: {'  '.join(keys_of(task, found, DEFAULT_METRIC_REGISTRY)) or UNKNOWN}")
