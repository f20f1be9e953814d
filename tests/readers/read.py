"""Compute logits with one reader, in a process whose path has that reader first: READER IDS.npy OUT CHECKPOINT …."""

import sys
import tempfile
from pathlib import Path

import numpy as np

TEXTS = ("good film", "bad plot of the book", "red")
"""What sentence encoders embed."""


def transformers(folder: str, ids: np.ndarray) -> np.ndarray:
    """Of the version on the path: 4.57 or 5."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    classifier = "Sequence" in (AutoConfig.from_pretrained(folder).architectures or [""])[0]
    cls = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    with torch.no_grad():
        return model.eval()(torch.from_numpy(ids)).logits.numpy()


def mlx(folder: str, ids: np.ndarray) -> np.ndarray:
    """mlx-lm on the CPU."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(folder))
    return np.array(model(mx.array(ids)).astype(mx.float32))


def ctranslate2(folder: str, ids: np.ndarray) -> np.ndarray:
    """Converted in fp32."""
    import ctranslate2 as ct2

    with tempfile.TemporaryDirectory() as out:
        ct2.converters.TransformersConverter(folder).convert(out, force=True)
        found = ct2.Generator(out, device="cpu").forward_batch(ids.tolist())
        return np.array(found)


def gguf(folder: str, ids: np.ndarray) -> np.ndarray:
    """llama.cpp's converter; not logits but everything in its file, as one row of numbers."""
    import runpy

    import conversion.base
    import gguf as package

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "default"  # it knows published ones alone
    with tempfile.TemporaryDirectory() as out:
        file = str(Path(out) / "model.gguf")
        script = str(Path(conversion.base.__file__).parents[1] / "convert_hf_to_gguf.py")
        sys.argv = [script, folder, "--outfile", file, "--outtype", "f32", "--model-name", "merged"]
        runpy.run_path(script, run_name="__main__")
        reader = package.GGUFReader(file)
        tensors = [tensor.data.astype(np.float32).ravel() for tensor in sorted(reader.tensors, key=lambda t: t.name)]
        keys = sorted(key for key in reader.fields if "rope" in key or "attention" in key)
        numbers = [np.array([f.contents()], dtype=object) for f in (reader.fields[key] for key in keys)]
        flat = [float(n) for row in numbers for n in row.ravel() if isinstance(n, int | float)]
        return np.concatenate([*tensors, np.array(flat, dtype=np.float32)])


def sentence_transformers(folder: str, ids: np.ndarray) -> np.ndarray:
    """Embeddings of three texts."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu").encode(list(TEXTS))


READERS = {one.__name__: one for one in (transformers, mlx, ctranslate2, gguf, sentence_transformers)}

if __name__ == "__main__":
    reader, ids, out, *checkpoints = sys.argv[1:]
    for number, checkpoint in enumerate(checkpoints):
        try:
            np.save(f"{out}/{number}.npy", READERS[reader](checkpoint, np.load(ids)))
        except (Exception, SystemExit) as error:  # whatever a reader says
            said = [line for line in str(error).splitlines() if line.strip()]
            Path(f"{out}/{number}.txt").write_text(f"{type(error).__name__}: {said[0] if said else error!r}")
