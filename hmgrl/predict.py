"""Types mentions, or names relations: JSON Lines in, JSON Lines out.

A line of the input is an object with the fields `text`, `mention` or `spans`, and perhaps
`occurrence`, `image` (a path inside --image-dir) and `labels`; its other fields are passed through,
so that records of a data set can be given as they are. A line of the output is the line of the
input with the field `prediction`: the best labels with scores and probabilities (six digits). Blank
lines are left out and counted. Memory does not grow with the input.
"""

import argparse
import sys
from pathlib import Path

from .arguments import (
    BAD_LINES,
    DONE,
    UsageError,
    add_model_arguments,
    existing_folder,
    positive,
)
from .distributed import Processes

EXAMPLES = """\
examples:
  hmgrl predict --model runs/sample --input lines.jsonl --output answers.jsonl
  echo '{"text": "Ada plays the lute", "mention": "lute"}' | hmgrl predict --model user/name \\
    --labels instrument food animal
  hmgrl predict --model runs/sample --input lines.jsonl --output answers.jsonl --resume \\
    --on-error skip
  accelerate launch -m hmgrl predict --model runs/sample --input lines.jsonl \\
    --output answers.jsonl --labels-file labels.json --label-cache labels

A run that was stopped, even killed, goes on with --resume, and ends in the file that an undisturbed
run writes, to the byte (on the same machine and number of threads, and where records bring no
labels of their own). The input may have changed after the lines that were answered, not before.
Several processes share the lines and write the same file as one.

From the standard input lines are answered --batch-size at a time; with 1 (and --num-workers 0) each
as it comes.

exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but for the lines that --on-error skip left (0
on several processes, whose launcher would take it for a failure), 130 stopped by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model_arguments(parser)
    add = parser.add_argument_group("lines").add_argument
    add("--input", default="-", metavar="FILE", help="JSON Lines; - is the standard input")
    add("--output", default="-", metavar="FILE", help="JSON Lines; - is the standard output")
    add(
        "--image-dir",
        type=existing_folder,
        metavar="FOLDER",
        help="folder of the pictures; by default that of the input",
    )
    add("--no-images", action="store_true", help="leave pictures out")
    add(
        "--image-hosts",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts from which pictures given by their address are fetched, as example.org or "
        "example.org:8080; none by default",
    )
    add(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="stop at the first bad line, or write it with the field `error` and go on",
    )
    add("--resume", action="store_true", help="go on with the output of a run that was stopped")
    add("--overwrite", action="store_true", help="replace the output")
    labels = parser.add_argument_group("labels")
    choice = labels.add_mutually_exclusive_group()
    choice.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="labels to choose from; by default those that the model knows from training. A "
        "record's own go before",
    )
    choice.add_argument(
        "--labels-file",
        type=Path,
        metavar="FILE",
        help="the same from a file: .json, a list or an object of label: description; else one a "
        "line",
    )
    labels.add_argument(
        "--seen",
        nargs="*",
        metavar="LABEL",
        help="labels that were seen in training, whose scores gamma is taken off; by default those "
        "of the model",
    )
    labels.add_argument(
        "--top-k",
        type=lambda text: None if text == "all" else positive(text),
        default=5,
        metavar="N",
        help="labels returned, or `all`",
    )
    labels.add_argument(
        "--label-cache",
        type=Path,
        metavar="FOLDER",
        help="where label vectors are kept for the next time",
    )
    add = parser.add_argument_group("run").add_argument
    add("--batch-size", type=positive, default=32, metavar="N", help="lines encoded at once")
    add(
        "--num-workers",
        type=int,
        metavar="N",
        help="threads that open pictures ahead; by default none on a CPU, up to 8 beside a GPU",
    )
    add("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    add("--no-progress", action="store_true", help="show no progress bars")


def check_usage(options: argparse.Namespace, processes: int) -> None:
    """Checks that options go together.

    Raises:
        UsageError: Naming those that do not.
    """
    if options.resume and options.overwrite:
        raise UsageError("--resume, --overwrite: expected at most one of them")
    if options.output == "-" and (options.resume or options.overwrite):
        raise UsageError("--resume, --overwrite: expected with --output FILE")
    if options.num_workers is not None and options.num_workers < 0:
        raise UsageError(f"--num-workers: got {options.num_workers}, expected 0 or more")
    if options.input != "-" and not Path(options.input).exists():
        raise FileNotFoundError(f"--input {options.input}: no such file")
    if Path(options.input).is_dir():
        raise IsADirectoryError(f"--input {options.input}: is a folder, expected a file")
    names = [name for name in (options.input, options.output) if name != "-"]
    if len(names) == 2 and Path(names[1]).exists() and Path(names[0]).samefile(names[1]):
        raise UsageError("--output: is the input, expected another file")
    if processes > 1:
        if options.output == "-" or not Path(options.input).is_file():
            raise UsageError("--input, --output: expected files where several processes share them")
        if options.device not in (None, "cpu"):
            raise UsageError("--device: expected none, or cpu, where several processes share them")


def run(options: argparse.Namespace) -> int:
    """Predicts.

    Returns:
        The exit code.

    Raises:
        UsageError: If options do not go together.
        ValueError: Naming file, line, field and what was expected; or if the output is of another
            run.
        OSError: If model or files are absent, or the output cannot be written.
    """
    processes = Processes.started(cpu=options.device == "cpu")
    check_usage(options, processes.count)
    from .predict_output import check_target  # noqa: PLC0415 - takes a second

    if options.output != "-":
        options.interrupted = "The same command with --resume goes on."
        if processes.is_main:
            check_target(Path(options.output), processes.count, options.resume, options.overwrite)
    from .model_loading import load_pipeline, read_labels  # noqa: PLC0415 - takes seconds, like this
    from .predict_job import Job  # noqa: PLC0415

    labels = options.labels if options.labels_file is None else read_labels(options.labels_file)
    pipe = load_pipeline(
        options.model,
        options.revision,
        options.device if processes.state is None else processes.state.device,
        show_progress=processes.is_main and not options.no_progress,
    )
    job = Job(options, processes, pipe, labels)
    job.encode_labels()
    processes.wait()  # until the main process has seen to what was there before
    progress = job.finished_before() or job.run()
    processes.leave()
    if not processes.is_main:
        return DONE
    print(f"{options.program}: {job.summary(progress)}", file=sys.stderr)
    return BAD_LINES if progress.bad and processes.count == 1 else DONE
