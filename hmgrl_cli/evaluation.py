"""Evaluate a trained model on the validation and test splits and write a report.

gamma and the temperature are those that training selected on validation; evaluation tunes nothing.
The labels are those of the data, which must be split as in training. Labels have the same texts as
in training on the same source, unless --label-text selects others.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from .arguments import add_model_arguments, positive_integer
from .data_arguments import add_split_arguments, load_data
from .distributed import configure_cpu

EXAMPLES = """\
examples:
  hmgrl evaluate --model runs/sample --source sample
  hmgrl evaluate --model user/name --revision v1 --source mnre --data-dir MNRE/mnre_txt \\
    --label-text verbalised --splits test --output mnre.json
  accelerate launch -m hmgrl evaluate --model runs/mine --source exported --data-dir user/data
"""

SPLITS = ("validation", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model_arguments(parser)
    splits = add_split_arguments(parser)
    splits.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=SPLITS,
        help="splits to evaluate (default: both)",
    )
    splits.add_argument(
        "--allow-other-labels",
        action="store_true",
        help="evaluate even if the model's seen labels are not those of the data; the result is "
        "then not generalized zero-shot",
    )
    splits.add_argument(
        "--allow-other-split",
        action="store_true",
        help="evaluate even if, according to the model's report, the same source was split "
        "differently in training, so that evaluation samples may have been training samples",
    )
    add = parser.add_argument_group("run").add_argument
    add(
        "--output",
        type=Path,
        default=Path("evaluation.json"),
        metavar="FILE",
        help="JSON report to write",
    )
    add(
        "--batch-size",
        type=positive_integer,
        default=64,
        metavar="N",
        help="number of samples in a batch, per process",
    )
    add(
        "--mixed-precision",
        choices=("no", "bf16", "fp16"),
        help="precision of everything except the hyperbolic parts, which remain in float32 "
        "(default: that of accelerate's launcher, or no)",
    )
    add(
        "--feature-dir",
        default=".cache/features",
        metavar="FOLDER",
        help="folder in which states of frozen encoders are cached",
    )
    add("--no-progress", action="store_true", help="disable progress bars")


def run(options: argparse.Namespace) -> None:
    """Evaluates the model, prints a table of scores and writes the report.

    Raises:
        UsageError: If options contradict each other.
        ValueError: If the data are invalid, or labels or splits differ from those of training.
        OSError: If the model or a file does not exist.
    """
    from modeling_hmgrl import HMGRLTrainingArguments  # noqa: PLC0415 - takes seconds, like these
    from modeling_hmgrl.metrics.label_sets import LabelSets  # noqa: PLC0415
    from modeling_hmgrl.reports.run_report import score_table, write_json  # noqa: PLC0415
    from modeling_hmgrl.training.evaluator import HMGRLEvaluator  # noqa: PLC0415

    from .model_loading import load_model, read_run_report  # noqa: PLC0415

    configure_cpu()
    model, processor = load_model(options.model, options.revision, not options.no_progress)
    trained = read_run_report(options.model, options.revision)
    options.label_text = options.label_text or label_text_of_training(trained, options.source)
    data = load_data(options)
    config, partition = model.config, data.partition
    check_labels(config, data, options.allow_other_labels)
    check_split(trained, data, options.allow_other_split)
    if options.no_images:
        processor.use_images = False
    labels = LabelSets.of(
        partition.seen,
        partition.validation_unseen,
        partition.test_unseen,
        [name for name in config.generator_labels or () if name not in partition.seen],
        data.label_texts,
    )
    arguments = HMGRLTrainingArguments(
        str(options.output.parent),
        eval_batch_size=options.batch_size,
        mixed_precision=options.mixed_precision,
        feature_dir=options.feature_dir,
        progress=not options.no_progress,
        tracker="none",
        seed=data.report.settings["seed"],
    )
    scored = {name: data.splits[name] for name in SPLITS if name in options.splits}
    names = data.splits["train"].features["label"].names
    evaluator = HMGRLEvaluator(model, processor, arguments, labels, scored, names)
    options.mixed_precision = evaluator.arguments.mixed_precision
    scores = {split: evaluator.evaluate(split) for split in SPLITS if split in options.splits}
    if not evaluator.accelerator.is_main_process:
        return
    missing = find_limitations(model, data, evaluator.use_images)
    for sentence in missing:
        print(f"{options.program}: {sentence}", file=sys.stderr)
    report = make_report(options, data, evaluator, scores, missing)
    write_json(options.output, report)
    print(f"Scores (%) of {options.model} on {data.report.source}, seed {arguments.seed}:")
    print(score_table(scores).replace("| method", "| split ", 1))
    print(f"Report: {options.output}")


def label_text_of_training(trained: dict[str, Any] | None, source: str) -> str | None:
    """Returns the value of --label-text with which a model was trained on the source, if known."""
    data = (trained or {}).get("data", {})
    return data.get("settings", {}).get("label_text") if data.get("source") == source else None


def check_labels(config: Any, data: Any, allowed: bool) -> None:
    """Checks that the task and the seen labels of a model are those of the data.

    Args:
        config: The model's config.
        data: The data.
        allowed: Whether other seen labels are accepted.

    Raises:
        ValueError: If the tasks differ, or the seen labels differ and this is not accepted.
    """
    if config.task != data.task:
        raise ValueError(
            f"--model: trained for the task {config.task!r}, but the task of the data is "
            f"{data.task!r}"
        )
    if allowed:
        return
    hint = (
        "(--allow-other-labels evaluates anyway, but the result is then not generalized zero-shot)"
    )
    if config.seen_labels is None:
        raise ValueError(
            f"--model: the config contains no seen labels, expected those of the data {hint}"
        )
    of_model, of_data = set(config.seen_labels), set(data.partition.seen)
    if of_model != of_data:
        raise ValueError(
            f"--model: the seen labels are not those of the data: only the model has "
            f"{_list_names(of_model - of_data)}, only the data have "
            f"{_list_names(of_data - of_model)}; expected the same data, --split-seed, --counts or "
            f"--partition as in training {hint}"
        )


def check_split(trained: dict[str, Any] | None, data: Any, allowed: bool) -> None:
    """Checks that the training data of a model are split as they were in training.

    Args:
        trained: The report of the training run, or None if there is none.
        data: The data.
        allowed: Whether another split is accepted.

    Raises:
        ValueError: If the splits differ and this is not accepted.
    """
    training_data = (trained or {}).get("data", {})
    if allowed or training_data.get("source") != data.report.source:
        return
    before, now = training_data.get("settings", {}), data.report.settings
    for name in ("seed", "protocol_version", "group_by", "partition"):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"--model: trained on the same source with another split ({name}: got "
                f"{_shorten(now.get(name))}, in training {_shorten(before.get(name))}), so that "
                "evaluation samples may have been training samples; expected the same split "
                "(--allow-other-split evaluates anyway)"
            )


def find_limitations(model: Any, data: Any, images_used: bool) -> list[str]:
    """Lists what limits the scores, such as missing images, one sentence each."""
    config, report, found = model.config, data.report, []
    images = report.images
    absent = {name: images.get(name, 0) for name in ("missing", "unreadable", "none")}
    if config.vision_config is None:
        if images.get("found", 0):
            found.append(f"images: {images['found']:,} not used, the model reads text only")
    elif not images_used:
        found.append("images: not used, although the model reads them")
    elif any(absent.values()):
        counts = ", ".join(f"{count:,} {name}" for name, count in absent.items() if count)
        found.append(f"images: {counts} for {report.records_out:,} records")
    if report.records_left_out:
        found.append(f"records: {report.records_left_out:,} of {report.records_in:,} left out")
    other = [
        name
        for name in data.partition.seen
        if config.text_of(name) != data.label_texts.get(name, name)
    ]
    if other:
        name = other[0]
        found.append(
            f"label texts: {len(other)} seen labels have other texts than in training, such as "
            f"{name!r}: {data.label_texts.get(name, name)!r} instead of {config.text_of(name)!r} "
            "(--label-text)"
        )
    if not getattr(model, "uses_generator_labels", True):  # trained without unseen names
        return found
    known = set(config.generator_labels or ())
    if config.generator_labels is None:
        found.append("generator: the model's config does not list the unseen labels it was given")
    elif unknown := set(data.partition.test_unseen) - known:
        found.append(
            f"generator: {len(unknown)} of {len(data.partition.test_unseen)} test-unseen labels "
            "were unknown in training"
        )
    return found


def make_report(
    options: argparse.Namespace,
    data: Any,
    evaluator: Any,
    scores: dict[str, Any],
    missing: list[str],
) -> dict[str, Any]:
    """Makes the content of the JSON report."""
    from modeling_hmgrl.reports.run_report import describe_run  # noqa: PLC0415 - takes seconds

    from .model_loading import commit_hash, method_name  # noqa: PLC0415

    config = evaluator.model.config
    report = describe_run(
        method_name(config),
        config,
        evaluator.arguments,
        evaluator.labels,
        scores,
        temperature=config.probability_temperature,
        model={
            "name": options.model,
            "revision": options.revision,
            "commit": commit_hash(options.model, options.revision),
            "seen_labels": config.seen_labels,
            "generator_labels": config.generator_labels,
        },
        data=data.report.to_dict(),
        images_used=evaluator.use_images,
        missing=missing,
        processes=evaluator.accelerator.num_processes,
    )
    names = ("splits", "batch_size", "mixed_precision", "no_images", "allow_other_labels",
             "allow_other_split")  # fmt: skip
    report["arguments"] = {name: getattr(options, name) for name in names}
    report["arguments"]["split_seed"] = data.report.settings["seed"]
    return report


def _list_names(names: set[str]) -> str:
    return f"{sorted(names)[:5]}{' and others' if len(names) > 5 else ''}" if names else "none"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"
