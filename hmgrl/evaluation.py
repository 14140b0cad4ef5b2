"""Scores a trained model on validation and test, and reports on them.

gamma and the temperature are those that training chose on validation; nothing is chosen here. The
labels are those of the data, which must be divided as they were in training.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from .arguments import add_model_arguments, positive
from .data_arguments import add_split_arguments, load_data
from .distributed import on_cpu

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
        "--splits", nargs="+", choices=SPLITS, default=SPLITS, help="what is scored (default: both)"
    )
    splits.add_argument(
        "--allow-other-labels",
        action="store_true",
        help="score although the model was trained with other seen labels than those of the data; "
        "the result is not generalized zero-shot then",
    )
    splits.add_argument(
        "--allow-other-split",
        action="store_true",
        help="score although the model's report says that the same source was split otherwise in "
        "training, so that scored samples may have been trained on",
    )
    add = parser.add_argument_group("run").add_argument
    add(
        "--output",
        type=Path,
        default=Path("evaluation.json"),
        metavar="FILE",
        help="report to write",
    )
    add("--batch-size", type=positive, default=64, metavar="N", help="samples at once, per process")
    add(
        "--mixed-precision",
        choices=("no", "bf16", "fp16"),
        default="no",
        help="precision of all but the hyperbolic parts",
    )
    add(
        "--feature-dir",
        default=".cache/image_features",
        metavar="FOLDER",
        help="where states of frozen encoders are kept",
    )
    add("--no-progress", action="store_true", help="show no progress bars")


def run(options: argparse.Namespace) -> None:
    """Scores, prints a table and writes the report.

    Raises:
        UsageError: If options do not go together.
        ValueError: If the data are faulty, or labels or splits are not those of training.
        OSError: If model or files are absent.
    """
    from modeling_hmgrl import HMGRLTrainingArguments  # noqa: PLC0415 - takes seconds, like these
    from modeling_hmgrl.metrics.label_sets import LabelSets  # noqa: PLC0415
    from modeling_hmgrl.reports.run_report import score_table, write_json  # noqa: PLC0415
    from modeling_hmgrl.training.evaluator import HMGRLEvaluator  # noqa: PLC0415

    from .model_loading import load_model, run_report  # noqa: PLC0415

    on_cpu()
    model, processor = load_model(options.model, options.revision, not options.no_progress)
    data = load_data(options)
    config, partition = model.config, data.partition
    check_labels(config, data, options.allow_other_labels)
    trained = run_report(options.model, options.revision)
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
        seed=options.split_seed,
    )
    scored = {name: data.splits[name] for name in SPLITS if name in options.splits}
    names = data.splits["train"].features["label"].names
    evaluator = HMGRLEvaluator(model, processor, arguments, labels, scored, names)
    scores = {split: evaluator.evaluate(split) for split in SPLITS if split in options.splits}
    if not evaluator.accelerator.is_main_process:
        return
    missing = what_is_missing(model, data, evaluator.use_images)
    for sentence in missing:
        print(f"{options.program}: {sentence}", file=sys.stderr)
    report = describe(options, data, evaluator, scores, missing)
    write_json(options.output, report)
    print(f"Scores (%) of {options.model} on {data.report.source}, seed {options.split_seed}:")
    print(score_table(scores).replace("| method", "| split ", 1))
    print(f"Report: {options.output}")


def check_labels(config: Any, data: Any, allowed: bool) -> None:
    """Checks that task and seen labels of a model are those of the data.

    Args:
        config: The model's config.
        data: The data.
        allowed: Whether other seen labels are accepted.

    Raises:
        ValueError: If the task is another, or the seen labels are others and that is not accepted.
    """
    if config.task != data.task:
        raise ValueError(
            f"--model: trained for the task {config.task!r}, the data are of {data.task!r}"
        )
    if allowed:
        return
    how = "(--allow-other-labels scores all the same; the result is not generalized zero-shot then)"
    if config.seen_labels is None:
        raise ValueError(
            f"--model: its config names no seen labels, expected those of the data {how}"
        )
    model, here = set(config.seen_labels), set(data.partition.seen)
    if model != here:
        raise ValueError(
            f"--model: its seen labels are not those of the data: only the model has "
            f"{_some(model - here)}, only the data {_some(here - model)}; expected the same data, "
            f"--split-seed, --counts or --partition as in training {how}"
        )


def check_split(trained: dict[str, Any] | None, data: Any, allowed: bool) -> None:
    """Checks that data which a model was trained on are split as they were then.

    Args:
        trained: The model's own report, or None if there is none.
        data: The data.
        allowed: Whether another split is accepted.

    Raises:
        ValueError: If the split is another and that is not accepted.
    """
    then = (trained or {}).get("data", {})
    if allowed or then.get("source") != data.report.source:
        return
    before, now = then.get("settings", {}), data.report.settings
    for name in ("seed", "protocol_version", "group_by", "partition"):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"--model: trained on the same source with another split ({name}: "
                f"{_short(before.get(name))} then, {_short(now.get(name))} now), so that scored "
                "samples may have been trained on; expected the same (--allow-other-split scores "
                "all the same)"
            )


def what_is_missing(model: Any, data: Any, images_used: bool) -> list[str]:
    """Says what the scores had to do without, a sentence each."""
    config, report, found = model.config, data.report, []
    images = report.images
    absent = {name: images.get(name, 0) for name in ("missing", "unreadable", "none")}
    if config.vision_config is None:
        if images.get("found", 0):
            found.append(f"pictures: the model is of text alone, {images['found']:,} are not used")
    elif not images_used:
        found.append("pictures: none was used, though the model takes them")
    elif any(absent.values()):
        counts = ", ".join(f"{count:,} {name}" for name, count in absent.items() if count)
        found.append(f"pictures: of {report.records_out:,} records {counts}")
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
            f"label texts: {len(other)} seen labels are shown otherwise than in training, such as "
            f"{name!r} by {data.label_texts.get(name, name)!r} instead of {config.text_of(name)!r} "
            "(--label-text)"
        )
    if not getattr(
        model, "uses_generator_labels", True
    ):  # unseen names have no part in its training
        return found
    met = set(config.generator_labels or ())
    if config.generator_labels is None:
        found.append("generator: the model's config does not say which unseen labels it knew")
    elif strange := set(data.partition.test_unseen) - met:
        found.append(
            f"generator: of {len(data.partition.test_unseen)} test-unseen labels {len(strange)} "
            "were not known in training"
        )
    return found


def describe(
    options: argparse.Namespace,
    data: Any,
    evaluator: Any,
    scores: dict[str, Any],
    missing: list[str],
) -> dict[str, Any]:
    """Makes the content of the report."""
    from modeling_hmgrl.reports.run_report import describe_run  # noqa: PLC0415 - takes seconds

    from .model_loading import commit_of, method_name  # noqa: PLC0415

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
            "commit": commit_of(options.model, options.revision),
            "seen_labels": config.seen_labels,
            "generator_labels": config.generator_labels,
        },
        data=data.report.to_dict(),
        images_used=evaluator.use_images,
        missing=missing,
        processes=evaluator.accelerator.num_processes,
    )
    names = ("splits", "batch_size", "mixed_precision", "no_images", "allow_other_labels",
             "allow_other_split", "split_seed")  # fmt: skip
    report["arguments"] = {name: getattr(options, name) for name in names}
    return report


def _some(names: set[str]) -> str:
    return f"{sorted(names)[:5]}{' and further' if len(names) > 5 else ''}" if names else "none"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"
