"""Pseudo-answers: each expert's generated answers to its own prompts, stored as JSON lines under a cache key."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from transformers import GenerationConfig

from adamerge.calibration.cache_keys import digest_of_expert, key_of
from adamerge.data.rows import Rows, move
from adamerge.data.settings import PseudoAnswers
from adamerge.data.text_rows import Prompts
from adamerge.data.turns import AnswerEnd, generation_config, generation_stops, until_the_end
from adamerge.experts.experts import Expert
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.work import Generate
from adamerge.storage.atomic_files import write_text
from adamerge.storage.kept import SILENT, Keeper


def answer(
    model: MergedModel,
    rows: Mapping[str, Rows],
    how: PseudoAnswers | None,
    *,
    seed: int = 0,
    size: int,
    folder: Path | None = None,
    keeper: Keeper = SILENT,
) -> dict[str, Rows]:
    """Generate each expert's answers to its own prompts, one expert at a time, or read stored answers.

    `folder/<task>.jsonl` has one line per row: the prompt as it was given, the answer as text, and its token ids,
    including the end-of-text token if the expert generated it. `folder/<task>.key.json` holds the cache key.

    Args:
        model: Runs the experts.
        rows: Rows per task; rows that are not prompts are returned unchanged.
        how: Options of generation; required if there are prompts.
        seed: Random seed of sampled answers.
        size: Rows per forward pass of learning; see `generated_together`.
        folder: Folder of the stored answers; None keeps them in memory only.
        keeper: Stores the answers under their cache key.

    Returns:
        The rows per task, with the answers as their completions.
    """
    found: dict[str, Rows] = dict(rows)
    for task, own in rows.items():
        if isinstance(own, Prompts):
            assert how is not None  # rows become prompts only if it is set
            found[task] = own.answered(_kept_or_made(model, task, own, how, seed, size, folder, keeper))
    return found


def _kept_or_made(
    model: MergedModel,
    task: str,
    prompts: Prompts,
    how: PseudoAnswers,
    seed: int,
    size: int,
    folder: Path | None,
    keeper: Keeper,
) -> list[list[int]]:
    generation = generation_of(model.experts.models[task], prompts, how)
    if folder is None:
        return _made(model, task, prompts, generation, seed, size)
    settings = [asdict(how), seed, size, generation.eos_token_id, prompts.end.text, str(model.vectors.dtype)]
    key = key_of(digest_of_expert(model.experts.models[task]), {task: prompts}, settings, size)

    def write(path: Path) -> None:
        write_text(path, _lines(prompts, _made(model, task, prompts, generation, seed, size)))

    return keeper(folder / f"{task}.jsonl", key, write, _tokens)


def _lines(prompts: Prompts, answers: Sequence[list[int]]) -> str:
    """Format prompts and answers as JSON lines."""
    rows = zip(prompts.shown, _texts(prompts, answers), answers, strict=True)
    lines = ({"prompt": shown, "answer": text, "tokens": tokens} for shown, text, tokens in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _tokens(file: Path) -> list[list[int]]:
    """Read the answers' token ids from JSON lines; only a line feed ends a line."""
    return [json.loads(line)["tokens"] for line in file.read_bytes().decode().split("\n")[:-1]]


def _made(
    model: MergedModel, task: str, prompts: Prompts, how: GenerationConfig, seed: int, size: int
) -> list[list[int]]:
    device = model.vectors.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return answers_by(model.expert(task).generate, model, prompts, how, size)


def answers_by(
    generate: Generate, model: MergedModel, prompts: Prompts, how: GenerationConfig, size: int
) -> list[list[int]]:
    """Generate an answer to every prompt.

    Args:
        generate: Generates token ids (B, S) to a batch of prompts.
        model: Says where and in which dtype.
        prompts: The prompts.
        how: Options of generation.
        size: Rows per forward pass of learning; see `generated_together`.

    Returns:
        The token ids of each answer, up to and including what ends it.
    """
    answers: dict[int, list[int]] = {}
    end = AnswerEnd(tuple(cast(list[int] | None, how.eos_token_id) or ()), prompts.end.text)
    for batch in prompts.batches(generated_together(size)):
        batch = move(batch, model.vectors.device, model.vectors.dtype)
        generated = generate(batch.inputs, how)
        begin = 1 if prompts.start is not None else batch.inputs["input_ids"].shape[1]
        for row, tokens in zip(batch.rows.tolist(), generated[:, begin:].tolist(), strict=True):
            answers[row] = until_the_end(prompts.tokenizer, tokens, end)
    return [answers[row] for row in range(len(prompts))]


def generated_together(size: int) -> int:
    """Compute the rows per call of `generate`: eight times those of a forward pass in learning, at most 64 or those.

    A call's time is mostly that of reading the weights once per token, however few rows there are. Of a row it keeps
    keys, values and the logits of one position; learning keeps every activation, and the logits of all positions.

    Args:
        size: Rows per forward pass of learning.

    Example:
        >>> [generated_together(size) for size in (1, 4, 64, 256)]
        [8, 32, 64, 256]
    """
    return max(size, min(8 * size, 64))


def generation_of(expert: Expert, prompts: Prompts, how: PseudoAnswers) -> GenerationConfig:
    """Combine an expert's special tokens with our generation options; its other generation settings are ignored.

    Args:
        expert: The task's expert.
        prompts: Its prompts, which say what else ends an answer.
        how: Options of generation.
    """
    own = generation_config(expert)
    drawing = {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0} if how.sample else {}
    return GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        do_sample=how.sample,
        num_beams=1,
        bos_token_id=own.bos_token_id,
        eos_token_id=list(dict.fromkeys([*generation_stops(expert), *prompts.end.tokens])) or None,
        pad_token_id=prompts.tokenizer.pad_token_id,
        decoder_start_token_id=prompts.start,
        forced_bos_token_id=own.forced_bos_token_id,
        **drawing,
    )


def _texts(prompts: Prompts, answers: Sequence[list[int]]) -> list[str]:
    return [str(prompts.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in answers]
