"""The Python example of the package (and of the README) runs as it stands."""

import os
import re
import textwrap
from pathlib import Path

from transformers import AutoModelForImageClassification

import adamerge

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLE, *_ = (code.strip() for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))


def test_example_learns_and_exports(demo_folder, tmp_path, monkeypatch):
    (tmp_path / "demo").symlink_to(demo_folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(EXAMPLE, "README.md", "exec"), names)
    learned = names["learned"]
    assert learned.coefficients.shape == (len(names["model"].grouping), 4)
    assert learned.best_step > 0
    assert AutoModelForImageClassification.from_pretrained("merged/rotated").config.id2label[9] == "9"
    assert not [name for name in os.listdir() if name not in ("demo", "merged")]


def test_example_is_about_ten_lines():
    _, _, body = EXAMPLE.partition("\ntasks = ")
    assert len(body.splitlines()) <= 10


def test_package_shows_the_same_example():
    assert textwrap.indent(EXAMPLE, "    ", lambda line: bool(line.strip())) in adamerge.__doc__
