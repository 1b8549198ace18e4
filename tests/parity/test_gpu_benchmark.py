"""The benchmark for full-size weights, at tiny size on a CPU: it runs and its numbers fit."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_full


def test_the_benchmark_runs_and_both_nets_agree(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    words = ["--tiny", "--rounds", "1", "--device", "cpu", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu_full.py", *words])
    with torch.compiler.set_stance("force_eager"):  # what is compiled is tested elsewhere
        gpu_full.main()
    report = json.loads(out.read_text())
    assert 0 < report["relative_error"] < 2e-6 and report["rate_tflops"] > 0
    assert len(report["cases"]) == 12  # two nets, eager and compiled, three numbers of contexts
    assert all(row["seconds"] > 0 for row in report["cases"].values())
    shown = capsys.readouterr().out
    assert "fp8: not here" in shown and "minikontext compiled, 2 contexts" in shown
