"""The Python example of the package (and of the README) runs as it stands."""

import os
import re
import textwrap
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

import adamerge

README = Path(__file__).parent.parent / "README.md"
EXAMPLE = textwrap.dedent(adamerge.__doc__.partition("::\n")[2].partition("\n`adamerge.api`")[0]).strip()
IN_README = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("code", dict.fromkeys([EXAMPLE, *(code.strip() for code in IN_README)]))
def test_example_learns_and_exports(code, demo_folder, tmp_path, monkeypatch):
    (tmp_path / "demo").symlink_to(demo_folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "example", "exec"), names)
    learned = names["learned"]
    assert learned.coefficients.shape == (len(names["model"].grouping), 4)
    assert learned.best_step > 0
    assert AutoModelForImageClassification.from_pretrained("merged/rotated").config.id2label[9] == "9"
    assert not [name for name in os.listdir() if name not in ("demo", "merged")]


def test_example_is_about_ten_lines():
    body = EXAMPLE.partition("\ntasks = ")[2].splitlines()
    assert len(body) <= 10
