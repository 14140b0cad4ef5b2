"""Predict entity types or relations for JSON Lines.

Each input line is a JSON object with the fields `text` and `mention` or `spans`, and optionally
`occurrence`, `image` (a path inside --image-dir) and `labels`. Other fields are passed through, so
records of a data set can be used unchanged. Each output line is the input line with the additional
field `prediction`, which contains the best labels with their scores and probabilities (six
significant digits), and `warnings`, such as that a mention consists only of words unknown to the
model; the summary counts the lines that have some. Blank lines are skipped. Memory use does not
depend on the length of the input. The output must be neither a symbolic link nor a file that the
command reads.
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
    positive_integer,
)
from .distributed import Processes

EXAMPLES = """\
examples:
  hmgrl predict --model runs/sample --input lines.jsonl --output predictions.jsonl
  echo '{"text": "Ada plays the lute", "mention": "lute"}' | hmgrl predict --model user/name \\
    --labels instrument food animal
  hmgrl predict --model runs/sample --input lines.jsonl --output predictions.jsonl --resume \\
    --on-error skip
  accelerate launch -m hmgrl predict --model runs/sample --input lines.jsonl \\
    --output predictions.jsonl --labels-file labels.json --label-cache labels

resuming:
  An interrupted run, even a killed one, is resumed with --resume and then produces the same file,
  byte for byte, as an uninterrupted run (on the same machine with the same number of threads, and
  if records contain no labels of their own). Lines that were already processed must not have
  changed. Several processes share the input and write the same file as a single one. A second run
  into the same output ends with an error while the first one is running.

standard input:
  Lines are processed --batch-size at a time. With --batch-size 1 and --num-workers 0, each line is
  processed as soon as it arrives.

exit codes:
  0    success
  1    the run failed
  2    wrong usage
  3    success, except for invalid lines that --on-error skip marked (0 with several processes,
       since their launcher would report a failure)
  130  interrupted by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model_arguments(parser)
    add = parser.add_argument_group("input and output").add_argument
    add("--input", default="-", metavar="FILE", help="JSON Lines file, or - for standard input")
    add("--output", default="-", metavar="FILE", help="JSON Lines file, or - for standard output")
    add(
        "--image-dir",
        type=existing_folder,
        metavar="FOLDER",
        help="folder of the images (default: folder of the input file)",
    )
    add("--no-images", action="store_true", help="ignore images")
    add(
        "--image-hosts",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts from which images given by URL may be fetched, such as example.org or "
        "example.org:8080 (default: none)",
    )
    add(
        "--allow-private-addresses",
        action="store_true",
        help="permit these hosts to have a loopback or private address, as inside a network",
    )
    add(
        "--on-error",
        choices=("raise", "skip"),
        type=lambda text: "raise" if text == "fail" else text,  # its earlier name
        default="raise",
        help="stop at the first invalid line, or write it with the field `error` and continue",
    )
    add("--resume", action="store_true", help="continue the output of an interrupted run")
    add("--overwrite", action="store_true", help="replace an existing output")
    labels = parser.add_argument_group("labels")
    choice = labels.add_mutually_exclusive_group()
    choice.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="labels to choose from, unless a record contains its own (default: labels known from "
        "training)",
    )
    choice.add_argument(
        "--labels-file",
        type=Path,
        metavar="FILE",
        help="file of labels: a .json list, a .json object that maps labels to descriptions, or "
        "text with one label per line",
    )
    labels.add_argument(
        "--seen",
        nargs="*",
        metavar="LABEL",
        help="labels seen in training, from whose scores gamma is subtracted (default: those of "
        "the model)",
    )
    labels.add_argument(
        "--top-k",
        type=lambda text: None if text == "all" else positive_integer(text),
        default=5,
        metavar="N",
        help="number of labels to return, or `all`",
    )
    labels.add_argument(
        "--label-cache",
        type=Path,
        metavar="FOLDER",
        help="folder in which label vectors are cached between runs",
    )
    add = parser.add_argument_group("run").add_argument
    add(
        "--batch-size",
        type=positive_integer,
        default=32,
        metavar="N",
        help="number of lines in a batch",
    )
    add(
        "--num-workers",
        type=int,
        metavar="N",
        help="number of threads that load images in advance (default: 0 on a CPU, up to 8 with a "
        "GPU)",
    )
    add("--device", help="device, such as cpu, cuda or cuda:1 (default: a GPU if available)")
    add("--no-progress", action="store_true", help="disable progress bars")


def check_usage(options: argparse.Namespace, processes: int) -> None:
    """Checks that the options are compatible.

    Raises:
        UsageError: If options contradict each other.
        OSError: If the input does not exist or is a folder.
    """
    if options.resume and options.overwrite:
        raise UsageError("--resume, --overwrite: expected at most one of them")
    if options.output == "-" and (options.resume or options.overwrite):
        raise UsageError("--resume, --overwrite: require --output FILE")
    if options.num_workers is not None and options.num_workers < 0:
        raise UsageError(f"--num-workers: got {options.num_workers}, expected 0 or more")
    if options.input != "-" and not Path(options.input).exists():
        raise FileNotFoundError(f"--input {options.input}: no such file")
    if Path(options.input).is_dir():
        raise IsADirectoryError(f"--input {options.input}: is a folder, expected a file")
    if processes > 1:
        if options.output == "-" or not Path(options.input).is_file():
            raise UsageError("--input, --output: expected files when several processes share them")
        if options.device not in (None, "cpu"):
            raise UsageError("--device: expected none, or cpu, with several processes")


def run(options: argparse.Namespace) -> int:
    """Predicts the input and writes the output.

    Returns:
        The exit code.

    Raises:
        UsageError: If options contradict each other.
        ValueError: If a line is invalid (the message names file, line, field and what was
            expected), or the output belongs to another run.
        OSError: If the model or a file does not exist, the output cannot be written, or another
            process is writing it.
    """
    processes = Processes.join(cpu=options.device == "cpu")
    check_usage(options, processes.count)
    if options.output == "-":
        return _predict(options, processes)
    from .predict_output import check_files, check_target, lock_output  # noqa: PLC0415 - seconds

    output = Path(options.output)
    check_files(options, processes.count)
    with lock_output(output, processes.index, processes.count):
        options.interrupted = "Run the same command with --resume to continue."
        if processes.is_main:
            check_target(output, processes.count, options.resume, options.overwrite)
        return _predict(options, processes)


def _predict(options: argparse.Namespace, processes: Processes) -> int:
    """Predicts the input; the output is checked and locked."""
    from .model_loading import load_pipeline, read_labels  # noqa: PLC0415 - takes seconds, like this
    from .predict_job import PredictionJob  # noqa: PLC0415

    labels = options.labels if options.labels_file is None else read_labels(options.labels_file)
    pipe = load_pipeline(
        options.model,
        options.revision,
        options.device if processes.state is None else processes.state.device,
        show_progress=processes.is_main and not options.no_progress,
    )
    job = PredictionJob(options, processes, pipe, labels)
    job.encode_labels()
    processes.wait()  # until the main process has checked, or removed, an earlier output
    progress = job.completed_progress() or job.run()
    processes.shutdown()
    if not processes.is_main:
        return DONE
    print(f"{options.program}: {job.summary(progress)}", file=sys.stderr)
    return BAD_LINES if progress.bad and processes.count == 1 else DONE
