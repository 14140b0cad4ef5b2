"""Train HMGRL or a compared method and evaluate it on the validation and test splits."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from modeling_hmgrl import HMGRLTrainingArguments
from modeling_hmgrl.baselines import METHODS

from .arguments import UsageError, attribute_docs
from .cli import run_alone
from .data_arguments import add_split_arguments, load_data
from .distributed import configure_cpu

EXAMPLES = """\
examples:
  hmgrl train --source sample --output-dir runs/sample
  hmgrl train --source mnre --data-dir MNRE/mnre_txt --image-dir MNRE/img --label-text verbalised
  hmgrl train --source sample --output-dir runs/sample --resume
  hmgrl train --source sample --output-dir runs/sample --seed 1 --overwrite-output-dir
  accelerate launch -m hmgrl train --source records --data-dir mine.jsonl --set dropout=0.2
"""
INTERRUPTED = "Run the same command with --resume to continue from the last checkpoint, if any."

DEFAULT_FOLDER = "runs/latest"

# Lengths in tokens to which the authors' code pads and truncates.
PAPER_LENGTHS = {
    "typing": {"max_length": 128, "label_max_length": 5},
    "relation": {"max_length": 128, "label_max_length": 16},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    splits = add_split_arguments(parser)
    splits.add_argument(
        "--vocabulary",
        choices=("transductive", "inductive"),
        default="transductive",
        help="whether the generator is given the names of the test-unseen labels (transductive, "
        "the paper's protocol) or not; without effect for methods without a generator",
    )
    splits.add_argument(
        "--generator-labels",
        nargs="+",
        metavar="LABEL",
        help="unseen labels whose names the generator is given, instead of --vocabulary",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="hmgrl",
        help="HMGRL or a compared method",
    )
    model.add_argument(
        "--text-encoder",
        default="bert-base-cased",
        metavar="NAME",
        help="text encoder, such as BERT, RoBERTa, XLM-R, DeBERTa-v3, MPNet or ModernBERT, as "
        "a folder or a name on the Hub",
    )
    model.add_argument(
        "--vision-encoder",
        default="google/vit-base-patch16-384",
        metavar="NAME",
        help="image encoder, such as ViT, DINOv2, CLIP or SigLIP, as a folder or a name on the "
        "Hub; not used with --no-images or by text-only methods",
    )
    model.add_argument(
        "--paper", action="store_true", help="use the settings of the paper unless given here"
    )
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of the method's configuration, such as score_function=dot; may be "
        "repeated",
    )
    model.add_argument(
        "--max-length",
        type=int,
        metavar="TOKENS",
        help="maximum number of tokens in a text (default: 128)",
    )
    run_group = parser.add_argument_group("run")
    _add_training_arguments(run_group)
    run_group.add_argument(
        "--references", action="store_true", help="also evaluate two training-free baselines"
    )
    run_group.add_argument(
        "--no-test",
        action="store_true",
        help="evaluate on validation only, for example to select settings",
    )
    run_group.add_argument(
        "--push-to-hub", metavar="USER/NAME", help="repository on the Hub to push the run to"
    )


def _add_training_arguments(group: argparse._ArgumentGroup) -> None:
    """Adds an option for each field of HMGRLTrainingArguments.

    Options that are not given fall back to --paper and then to the defaults of the class.
    """
    texts, kinds = attribute_docs(HMGRLTrainingArguments), get_type_hints(HMGRLTrainingArguments)
    for field in fields(HMGRLTrainingArguments):
        default: Any = DEFAULT_FOLDER if field.name == "output_dir" else field.default
        name, kind = "--" + field.name.replace("_", "-"), kinds[field.name]
        shown = default if kind is not bool else "yes" if default else "no"
        text = _help_text(texts[field.name]).replace("%", "%%")
        if default is not None:  # otherwise the text says what applies
            text += f" (default: {shown})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            group.add_argument(name, action=argparse.BooleanOptionalAction, **options)
        elif choices := _choices(kind):
            group.add_argument(name, choices=choices, **options)
        else:
            other = "FOLDER" if field.name.endswith("_dir") else "NAME"
            metavar = {int: "N", float: "X"}.get(kind, other)
            group.add_argument(name, type=kind, metavar=metavar, **options)


def _choices(kind: Any) -> tuple[str, ...]:
    """The values of a Literal, which may be optional; empty for any other type."""
    kinds = [part for part in get_args(kind) if get_origin(part) is Literal] or [kind]
    return get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()


def _help_text(description: str) -> str:
    """Formats a sentence of a docstring as the help of an option."""
    text = description.removesuffix(".").replace("``", "`")
    return text[0].lower() + text[1:] if text[1:2].islower() else text


def parse_settings(pairs: list[str], method: str = "hmgrl") -> dict[str, Any]:
    """Parses FIELD=VALUE pairs; a value that is not valid JSON is taken as a string.

    Args:
        pairs: The pairs.
        method: Name of the method whose configuration the fields belong to.

    Raises:
        UsageError: If a pair is malformed or its field unknown.
    """
    settings, fields_of_method = {}, METHODS[method].config_class.field_names()
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in fields_of_method:
            known = ", ".join(sorted(fields_of_method))
            raise UsageError(f"--set {pair}: expected FIELD=VALUE with a field among {known}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def make_model(
    method: str,
    task: str,
    text: str,
    vision: str | None,
    settings: dict[str, Any],
    paper: bool = False,
    max_length: int | None = None,
) -> tuple[Any, Any]:
    """Makes an untrained model of a method, and its processor.

    Args:
        method: Name in :data:`baselines.METHODS`.
        task: "typing" or "relation".
        text: Folder or Hub name of the text encoder.
        vision: Folder or Hub name of the image encoder, or None; ignored by text-only methods.
        settings: Fields of the method's configuration.
        paper: Whether all other settings, including the lengths, are as published.
        max_length: Maximum number of tokens in a text; 128 if None.

    Returns:
        Model and processor.
    """
    from modeling_hmgrl import HMGRLProcessor  # noqa: PLC0415 - not needed for help
    from modeling_hmgrl.backbones import encoder_config  # noqa: PLC0415

    kind: Any = METHODS[method]
    vision = vision if kind.uses_images else None
    for side, encoder in (("text", text), ("image", vision)):
        if encoder is not None:  # checked before the tokenizer, whose errors would be less clear
            encoder_config(encoder, side)
    lengths: dict[str, Any] = {"max_length": 128}
    if paper:
        lengths = PAPER_LENGTHS[task] | {"pad_to_max_length": True}
    if max_length is not None:
        lengths["max_length"] = max_length
    lengths |= kind.processor_settings
    processor = HMGRLProcessor.from_backbones(text, vision, task=task, **lengths)
    model = kind.from_backbones(
        text, vision, processor=processor, paper_settings=paper, task=task, **settings
    )
    return model, processor


def run(options: argparse.Namespace) -> None:
    """Trains the model, writes the folder of the run and prints the scores.

    Raises:
        UsageError: If options contradict each other.
        ValueError: If data or settings are invalid.
        OSError: If files or encoders do not exist, the folder contains an earlier run or is in use,
            or it cannot be written.
        FloatingPointError: If the loss is not finite.
    """
    from accelerate.utils import set_seed  # noqa: PLC0415 - not needed for help, like these

    from modeling_hmgrl import HMGRLTrainer  # noqa: PLC0415
    from modeling_hmgrl.metrics.label_sets import LabelSets  # noqa: PLC0415
    from modeling_hmgrl.reports.run_report import score_table  # noqa: PLC0415
    from modeling_hmgrl.training.run_folder import checked_folder  # noqa: PLC0415

    if options.references and options.no_test:
        raise UsageError("--references, --no-test: expected at most one of them")
    if options.generator_labels and not METHODS[options.method].uses_generator_labels:
        raise UsageError(
            f"--generator-labels: expected a method with a generator, got --method {options.method}"
        )
    configure_cpu()
    given = {n: getattr(options, n) for n in HMGRLTrainingArguments.names() if n in options}
    if int(os.environ.get("RANK", "0")) == 0:
        # Before the data are loaded; training checks it again.
        with checked_folder(HMGRLTrainingArguments(**{"output_dir": DEFAULT_FOLDER} | given)):
            pass
    settings = parse_settings(options.set, options.method)
    if options.label_text is None and options.source != "exported":
        options.label_text = METHODS[options.method].config_class.label_text(options.paper)
    data = load_data(options)
    if int(os.environ.get("RANK", "0")) == 0:
        print(data.report.summary(), file=sys.stderr)
    given = {n: getattr(options, n) for n in HMGRLTrainingArguments.names() if n in options}
    profile = HMGRLTrainingArguments.paper(data.task) if options.paper else {}
    arguments = HMGRLTrainingArguments(**{"output_dir": DEFAULT_FOLDER} | profile | given)
    labels = LabelSets.of(
        data.partition.seen,
        data.partition.validation_unseen,
        data.partition.test_unseen,
        options.generator_labels or options.vocabulary,
        data.label_texts,
    )
    set_seed(arguments.seed)  # determines the initialisation of new parameters
    model, processor = make_model(
        options.method,
        data.task,
        options.text_encoder,
        None if options.no_images else options.vision_encoder,
        settings,
        options.paper,
        options.max_length,
    )
    references: dict[str, Any] = {}
    if options.references:
        references = _evaluate_baselines(model, processor, labels, data, arguments.metric)
    trainer = HMGRLTrainer(
        model,
        processor,
        arguments,
        labels,
        data.splits["train"],
        data.splits["validation"],
        None if options.no_test else data.splits["test"],
        data_report=data.report.to_dict(),
        method=options.method,
    )
    with redirect_stdout(sys.stderr):  # the lines printed for each epoch are not the result
        report = trainer.train(extra={"references": references})
    if not trainer.accelerator.is_main_process:
        return
    split = "validation" if options.no_test else "test"
    rows = {options.method: report[split]}
    rows |= {name: scores[split] for name, scores in references.items()}
    title = f"{split.capitalize()} scores (%)"
    print(f"\n{title}, {report['data']['source']}, seed {report['seed']}:")
    print(score_table(rows))
    print(f"Model, logs and report: {Path(arguments.output_dir)}")
    if options.push_to_hub:
        print(f"Pushed: {trainer.push_to_hub(options.push_to_hub)}")


def _evaluate_baselines(
    model: Any, processor: Any, labels: Any, data: Any, metric: Any
) -> dict[str, dict[str, Any]]:
    """Scores of the training-free baselines, by their name."""
    from modeling_hmgrl.baselines import label_similarity, majority  # noqa: PLC0415

    train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
    return {
        "label similarity": label_similarity(
            model.encoders.text_model, processor.tokenizer, labels, validation, test, metric
        ),
        "majority": majority(labels, train, validation, test),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs this command on its own, as `train.py` does; see :func:`cli.run_alone`."""
    return run_alone("train", Path(sys.argv[0]).name, sys.argv[1:] if argv is None else argv)
