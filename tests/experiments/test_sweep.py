"""The search of settings: on validation alone, and it goes on where it stopped."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_trials_one_after_the_other(backbones, tmp_path):
    text, vision = backbones
    out = tmp_path / "sweep"
    passed = ["--text-encoder", str(text), "--vision-encoder", str(vision), "--no-images"]
    passed += ["--max-steps", "1", "--batch-size", "4", "--no-progress", "--eval-batch-size", "256"]

    def sweep(trials, *more):
        command = [sys.executable, str(ROOT / "experiments" / "sweep.py"), "--out", str(out)]
        command += ["--trials", str(trials), "--", *passed, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    first = sweep(1)
    assert first.returncode == 0, first.stderr[-2000:]
    second = sweep(2)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "best of 2 trials" in second.stdout
    assert "--set bottleneck_size=" in second.stdout
    folders = sorted(path.name for path in out.glob("trial-????"))
    assert folders == ["trial-0000", "trial-0001"]
    reports = [json.loads((out / name / "report.json").read_text()) for name in folders]
    assert all("test" not in report for report in reports)
    assert not list(out.rglob("*.safetensors"))
    with (out / "trials.csv").open() as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    assert values == sorted((r["validation"]["overall"]["f1"] for r in reports), reverse=True)
    other = sweep(3, "--seed", "1")
    assert other.returncode != 0
    assert "contains a study with other arguments" in other.stderr
