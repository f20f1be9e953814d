"""Every class of both tables: check, one step of learning, export, old names, and the naive merge.

python tests/families/sweep.py [architecture …]    # prints a table; without names, all classes
"""

import contextlib
import copy
import io
import json
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from families.namings import KINDS, namings, under
from families.others import IMAGES, OTHERS
from families.table import TABLE
from PIL import Image
from safetensors.torch import load_file, save_file
from support.families import WORDS, save_tokenizer

from adamerge import ConfigError, Expert, Merge, cli

COEFFICIENTS = {"a": 0.3, "b": 0.3}


def first_tensor(output):
    """The first floating-point tensor that a model returns: logits, start logits, the last hidden state."""
    logits = getattr(output, "logits", None)
    if logits is None:
        logits = getattr(output, "logits_per_image", None)
    found = (
        [logits] if isinstance(logits, torch.Tensor) else [t for t in output.values() if isinstance(t, torch.Tensor)]
    )
    return next(tensor for tensor in found if tensor.is_floating_point())


@torch.no_grad()
def answer(model, row):
    """What a fresh copy of a model returns for one row, always with the same random numbers."""
    torch.manual_seed(0)
    return first_tensor(copy.deepcopy(model)(**row))


def save_pool(member, folder):
    """Save a base and two experts near it, as `save_pretrained` does; returns base and experts."""
    base = member.build(0)
    models = {"base": base, "a": copy.deepcopy(base), "b": copy.deepcopy(base)}
    for seed, name in enumerate("ab", 1):
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in models[name].parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    for name, model in models.items():
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name, end="[SEP]")
        size = {"height": 16, "width": 16}
        transformers.ViTImageProcessor(size=size).save_pretrained(folder / name)
    return models


def loaded(member, folder):
    """A model as plain transformers loads it; nothing may be missing or unexpected."""
    cls = getattr(transformers, member.architecture)
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def naive(member, folder, head):
    """The merge as its formula says, of what `from_pretrained` gives; a head is the first expert's own."""
    base, *experts = (dict(loaded(member, folder / name).named_parameters()) for name in ("base", "a", "b"))
    merged = loaded(member, folder / "base")
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            own = base[name] + 0.3 * sum(expert[name] - base[name] for expert in experts)
            parameter.copy_(experts[0][name] if name in head else own)
    return merged


def rows_of(member):
    """Rows as a user has them: texts or images."""
    if getattr(member, "images", False) or getattr(member, "inputs", None) == IMAGES:
        return [Image.new("RGB", (16, 16), (40 * i, 255 - 30 * i, 90)) for i in range(6)]
    return [" ".join(WORDS[i : i + 4 + i % 3]) for i in range(6)]


def row_of(member):
    """Inputs of one row for a model."""
    if hasattr(member, "row"):
        return member.row()
    if member.images:
        return {"pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))}
    ids = torch.randint(4, 40, (1, 8), generator=torch.Generator().manual_seed(7))
    ids[:, -1] = 1  # encoder-decoders with a classifier need an end
    decoder = {"decoder_input_ids": ids[:, :3]} if member.prompts and "decoder_start_token_id" in member.options else {}
    return {"input_ids": ids, **decoder}


def merged(folder, rows=None, **settings):
    """Learn, or merge without data, and export; returns the result and the folder of task a."""
    shutil.rmtree(folder / "merged", ignore_errors=True)
    experts = [Expert(folder / name, calibration=rows) for name in "ab"]
    steps = {"max_steps": 1} if rows else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = Merge(folder / "base", experts, trainer={"accelerator": "cpu", **steps}, **settings).learn()
        done = result.export(folder / "merged")
    return result, done.checkpoints["a"]


def saved_rows(member, folder):
    """The rows as a file of texts, or a folder of images."""
    rows, place = rows_of(member), folder / "rows"
    if isinstance(rows[0], str):
        place = place.with_suffix(".txt")
        place.write_text("\n".join(rows))
        return place
    place.mkdir(exist_ok=True)
    for number, image in enumerate(rows):
        image.save(place / f"{number}.png")
    return place


def checks(member, folder, *, rows=True):
    """What `adamerge check` prints of a merge that learns from rows, or of a data-free one."""
    own = {"calibration": str(saved_rows(member, folder))} if rows else {}
    config = {
        "base_model": str(folder / "base"), "models": [{"model": str(folder / name), **own} for name in "ab"],
        "method": method_of(member) if rows else "task_arithmetic", "run_dir": str(folder / "run"),
        "trainer": {"accelerator": "cpu"},
    }  # fmt: skip
    (folder / "merge.yaml").write_text(json.dumps(config), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main(["check", "--config", str(folder / "merge.yaml")])
    return printed.getvalue()


def method_of(member):
    """A method with an objective for a class."""
    speaks = bool(getattr(member, "prompts", "")) or member.architecture.endswith(
        ("ForCausalLM", "Generation", "MaskedLM")
    )
    return "expert_merging" if speaks or "LMHead" in member.architecture else "adamerging"


def learns(member, folder):
    """One step on rows; returns "learns" or the message that refuses the rows."""
    data = {"held_out": 0.34, "batch_size": 2}
    try:
        result, _ = merged(folder, rows_of(member), method=method_of(member), data=data)
    except ConfigError as error:
        if "Use the objective LogitAlignment" not in str(error):
            return str(error)
        result, _ = merged(folder, rows_of(member), method="expert_merging", data=data)  # as the message says
    assert result.moved, "no coefficient has moved"
    return "learns"


def merges(member, folder):
    """Merge without data, load the export in plain transformers, and compare with the naive merge."""
    result, place = merged(folder, method="task_arithmetic")
    head = result.model.experts.tasks["a"].head
    row = row_of(member)
    found, expected = answer(loaded(member, place), row), answer(naive(member, folder, head), row)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    own = answer(loaded(member, folder / "a"), row)
    assert not torch.allclose(own, expected, rtol=1e-3), "the merge is an expert"


def renamed(member, folder, models, kind):
    """Rewrite the files of all models under other names, from which transformers still loads them."""
    for name, model in models.items():
        file = folder / name / "model.safetensors"
        tensors = load_file(file)
        save_file(under(namings(model, list(tensors))[kind], tensors), file, {"format": "pt"})
        loaded(member, folder / name)


def verdict(member, folder):
    """What `check` finds with rows, and without."""
    return " / ".join(checks(member, folder, rows=rows).splitlines()[-1] for rows in (True, False))


def renames(models, kind, member, folder):
    """The same merge of files in another naming, if the class has it."""
    for name, model in models.items():
        model.save_pretrained(folder / name)
    if kind not in namings(models["base"], load_file(folder / "base" / "model.safetensors")):
        return f"not {kind}"
    renamed(member, folder, models, kind)
    merges(member, folder)
    return f"equal {kind}"


def line(member):
    """One line of the table."""
    title = getattr(member, "title", member.architecture)
    start, verdicts = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = save_pool(member, folder)
        for step in (verdict, learns, merges, *(partial(renames, models, kind) for kind in KINDS)):
            try:
                verdicts.append(str(step(member, folder) or "equal")[:160])
            except Exception as error:
                verdicts.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
                if "-v" in sys.argv:
                    traceback.print_exc()
    return " | ".join([title, *verdicts, f"{time.perf_counter() - start:.1f} s"])


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    wanted = [word for word in sys.argv[1:] if word != "-v"]
    members = [*OTHERS, *TABLE]
    for member in members:
        if not wanted or member.architecture in wanted:
            print(line(member), flush=True)
