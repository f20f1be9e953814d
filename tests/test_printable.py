"""What the command prints: what matters, in one piece, on a screen."""

import fcntl
import io
import json
import os
import pty
import struct
import termios

import torch
import transformers
from support.mistakes import edit_tensors
from support.processes import start

from adamerge import cli
from adamerge.printable import print_anything


def test_a_run_prints_only_relevant_lines(finished):
    said = (finished / "log.txt").read_text()
    for noise in ("litlogger", "GPU", "TPU", "Warning", "warning", "weights_only", "Loading", "Trainer.fit", "it/s"):
        assert noise not in said
    looks = [line for line in said.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in looks] == ["0", "3", "6"]
    for word in ("loss", "agreement", "s/step", "c_min", "c_max"):
        assert word in looks[1]


def test_an_expert_from_another_base_is_warned_about(family, main):
    edit_tensors(
        family / "topic/model.safetensors", lambda t: [tensor.copy_(torch.randn_like(tensor)) for tensor in t.values()]
    )
    code, said, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run", "--trainer.max_steps", "1")
    assert (code, complaint) == (0, "")
    assert "warning: topic (topic): ‖expert − base‖ is" in said
    assert "mood (mood)" not in said


def test_mixed_precision_prints_no_warning(family, main):
    assert main("fit", "--config", "merge.yaml", "--run_dir", "run", "--trainer.precision", "bf16-mixed")[::2] == (
        0,
        "",
    )


def test_a_long_list_of_problems_fits_on_a_screen(family, main):
    another = transformers.BertConfig(**{**json.loads((family / "base/config.json").read_text()), "hidden_size": 8})
    transformers.BertForSequenceClassification(another).save_pretrained(family / "mood")
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert len(complaint.splitlines()) == cli.SCREEN
    assert "more; `adamerge check` lists all" in complaint


def test_a_long_path_stays_in_one_piece(family, main):
    run_dir = "a_folder_with_a_rather_long_name/" * 4 + "run"
    code, said, _ = main("fit", "--config", "merge.yaml", "--run_dir", run_dir, "--trainer.max_steps", "1")
    assert code == 0
    assert f"mood: {run_dir}/merged/mood\n" in said
    complaint = main("fit", "--config", "merge.yaml", "--run_dir", run_dir)[2]
    assert f"error: {run_dir}: already exists" in complaint


def test_a_terminal_shows_a_bar(family):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(["fit", "--config", "merge.yaml", "--run_dir", "run"], family, os.ttyname(theirs))
    shown = b""
    while process.is_alive() or os.get_blocking(ours):
        os.set_blocking(ours, False)
        try:
            shown += os.read(ours, 2**16)
        except BlockingIOError:
            process.join(0.05)
            if not process.is_alive():
                break
    os.close(theirs)
    os.close(ours)
    assert process.exitcode == 0, shown.decode()
    bars = [line for line in shown.decode().replace("\n", "\r").split("\r") if line.startswith("6/6 ")]
    assert bars
    for word in ("loss=", "agreement=", "s/step=", "c_min=", "c_max="):
        assert word in bars[-1]
    assert max(map(len, bars)) <= 80
    assert "step 3 " not in shown.decode()


def test_output_in_ascii_is_spelled(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    print_anything()
    print("3 × 2 …, ‖é‖, \udcff")
    assert raw.getvalue() == b"3 x 2 ..., ||e||, \\udcff\n"
