"""Tunes d_z, d_v, eta and zeta on validation, as in the paper's figures 3, 4, 5b and 5c.

Everything after `--` is passed to train.py; the test split is never evaluated. Each trial runs in a
separate process and has a folder with its report. The study is stored in a file: the same command
resumes it and repeats an interrupted trial.

    python experiments/sweep.py --trials 30 --out runs/sweep -- --source mnre --data-dir MNRE \
      --no-images --label-text verbalised --text-encoder encoders/minilm --max-steps 300
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import optuna

ROOT = Path(__file__).parents[1]

# Includes this package's defaults (eta = zeta = 0.1) and the authors' (1 and 10).
SPACE = {
    "bottleneck_size": (32, 64, 128, 256, 512),
    "generator_latent_size": (32, 64, 128, 256, 512),
    "weight_unseen": (0.01, 0.1, 0.5, 1.0, 5.0, 10.0),
    "weight_alignment": (0.01, 0.1, 0.5, 1.0, 5.0, 10.0),
}


def run_trial(trial: optuna.Trial, out: Path, passed: list[str]) -> float:
    """Trains with the settings of a trial and returns the overall validation score."""
    settings = {name: trial.suggest_categorical(name, values) for name, values in SPACE.items()}
    folder = out / f"trial-{trial.number:04d}"
    command = [sys.executable, str(ROOT / "train.py"), *passed, "--no-test"]
    command += ["--output-dir", str(folder), "--save-epochs", "0", "--tracker", "none"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    with (out / f"trial-{trial.number:04d}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"trial {trial.number} failed; see {log.name}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for weights in folder.glob("*.safetensors"):  # only the report of a trial is kept
        weights.unlink()
    scores = report["validation"]
    trial.set_user_attr("ausuc", scores["ausuc"])
    trial.set_user_attr("command", report["command"])
    return float(scores["overall"][report["arguments"]["metric"]])


def main() -> None:
    """Runs trials up to the requested number and prints the best one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=30, help="total number of trials, including finished ones"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder of the study")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search")
    parser.add_argument("passed", nargs="*", metavar="-- ARGUMENTS", help="arguments of train.py")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{arguments.out / 'study.db'}"
    study = optuna.create_study(
        storage=storage,
        study_name="hmgrl",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=arguments.seed),
    )
    known = study.user_attrs.get("arguments", arguments.passed)
    if known != arguments.passed:
        sys.exit(f"{arguments.out}: contains a study with other arguments: {' '.join(known)}")
    study.set_user_attr("arguments", arguments.passed)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        # Interrupted earlier: its settings are queued again, before new ones.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    finished = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
    missing = max(0, arguments.trials - finished)
    study.optimize(lambda trial: run_trial(trial, arguments.out, arguments.passed), missing)
    table = study.trials_dataframe(attrs=("number", "value", "params", "user_attrs"))
    table.sort_values("value", ascending=False).to_csv(arguments.out / "trials.csv", index=False)
    best = study.best_trial
    print(f"best of {len(study.get_trials())} trials: validation {100 * best.value:.1f}")
    print(" ".join(f"--set {name}={value}" for name, value in best.params.items()))


if __name__ == "__main__":
    main()
