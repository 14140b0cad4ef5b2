"""Trains HMGRL: data, model, trainer. Run by `python` or by `accelerate launch`."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from dataset_scripts import GZSData, load_gzs
from dataset_scripts.arguments import add_source_arguments, source_choices
from dataset_scripts.export import load_exported
from modeling_hmgrl import (
    HMGRLConfig,
    HMGRLForZeroShotTyping,
    HMGRLProcessor,
    HMGRLTrainer,
    HMGRLTrainingArguments,
)
from modeling_hmgrl.baselines import label_similarity, majority
from modeling_hmgrl.labels import LabelSets
from modeling_hmgrl.reporting import score_table

# Lengths to which the authors' code pads and cuts.
PAPER_LENGTHS = {
    "typing": {"max_length": 128, "label_max_length": 5},
    "relation": {"max_length": 128, "label_max_length": 16},
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_source_arguments(parser, "exported")
    data = parser.add_argument_group("splits")
    data.add_argument("--split-seed", type=int, default=0, help="seed of the split")
    data.add_argument(
        "--data-config",
        metavar="NAME",
        help="configuration of --source exported, whose --data-dir is a folder or repository",
    )
    data.add_argument("--no-images", action="store_true", help="leave pictures out")
    data.add_argument(
        "--vocabulary",
        choices=("transductive", "inductive"),
        default="transductive",
        help="whether the generator sees the names of the test labels (the paper's protocol)",
    )
    data.add_argument(
        "--generator-labels",
        nargs="+",
        metavar="LABEL",
        help="unseen labels whose names the generator sees, in place of --vocabulary",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--text-encoder", default="bert-base-cased", help="folder or Hub name")
    model.add_argument(
        "--vision-encoder", default="google/vit-base-patch16-384", help="folder or Hub name"
    )
    model.add_argument("--paper", action="store_true", help="all settings as in the paper")
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any field of HMGRLConfig, such as score_function=dot; may be repeated",
    )
    model.add_argument("--max-length", type=int, default=128, help="most tokens of a text")
    run = parser.add_argument_group("run")
    # What the command line does not give is left to --paper and then to the class's own defaults.
    for field in fields(HMGRLTrainingArguments):
        name = "--" + field.name.replace("_", "-")
        default = "runs/latest" if field.name == "output_dir" else field.default
        kind = type(default)
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f"(default: {default})"}
        if kind is bool:
            run.add_argument(name, action=argparse.BooleanOptionalAction, **options)
        else:
            run.add_argument(name, type=kind, **options)
    run.add_argument("--references", action="store_true", help="add the untrained references")
    run.add_argument(
        "--no-test", action="store_true", help="validation alone, as for choosing settings"
    )
    run.add_argument("--push-to-hub", metavar="USER/NAME", help="repository to push the run to")
    return parser.parse_args(argv)


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """Reads FIELD=VALUE pairs; values are JSON, or else taken as text.

    Raises:
        SystemExit: If a pair is malformed or its field unknown.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in HMGRLConfig.field_names():
            known = ", ".join(sorted(HMGRLConfig.field_names()))
            raise SystemExit(f"--set {pair}: expected FIELD=VALUE with a field among {known}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def load_data(options: argparse.Namespace) -> GZSData:
    """Loads a source and splits it, or loads exported splits as they are."""
    choices = source_choices(options)
    if options.source == "exported":
        if options.data_dir is None:
            raise SystemExit("--source exported: expected --data-dir, a folder or repository")
        fixed = ("image_dir", "counts", "seen", "rotation", "label_descriptions")
        if any(choices.get(name) is not None for name in fixed) or options.group_by != "none":
            raise SystemExit(
                "--source exported: the splits are made; expected no --image-dir, --counts, "
                "--partition, --rotation, --group-by or --label-descriptions"
            )
        return load_exported(options.data_dir, options.data_config)
    return load_gzs(**choices, seed=options.split_seed)


def main(argv: list[str] | None = None) -> None:
    """Trains, prints the scores and leaves the run's folder behind."""
    options = parse_arguments(argv)
    data = load_data(options)
    given = {n: getattr(options, n) for n in HMGRLTrainingArguments.names() if n in options}
    recipe = HMGRLTrainingArguments.paper(data.task) if options.paper else {}
    arguments = HMGRLTrainingArguments(**{"output_dir": "runs/latest"} | recipe | given)
    labels = LabelSets.of(
        data.partition.seen,
        data.partition.validation_unseen,
        data.partition.test_unseen,
        options.generator_labels or options.vocabulary,
        data.label_texts,
    )
    from accelerate.utils import set_seed  # noqa: PLC0415 - new parameters follow the seed

    set_seed(arguments.seed)
    vision = None if options.no_images else options.vision_encoder
    lengths: dict[str, Any] = {"max_length": options.max_length}
    if options.paper:
        lengths = PAPER_LENGTHS[data.task] | {"pad_to_max_length": True}
    processor = HMGRLProcessor.from_backbones(
        options.text_encoder, vision, task=data.task, **lengths
    )
    model = HMGRLForZeroShotTyping.from_backbones(
        options.text_encoder,
        vision,
        processor=processor,
        paper_settings=options.paper,
        task=data.task,
        **settings_of(options.set),
    )
    references: dict[str, Any] = {}
    if options.references and not options.no_test:
        references["label similarity"] = label_similarity(
            model.encoders.text_model,
            processor.tokenizer,
            labels,
            data.splits["validation"],
            data.splits["test"],
            arguments.metric,
        )
        references["majority"] = majority(
            labels, data.splits["train"], data.splits["validation"], data.splits["test"]
        )
    trainer = HMGRLTrainer(
        model,
        processor,
        arguments,
        labels,
        data.splits["train"],
        data.splits["validation"],
        None if options.no_test else data.splits["test"],
        data_report=data.report.to_dict(),
    )
    report = trainer.train(extra={"references": references})
    if trainer.accelerator.is_main_process:
        split = "validation" if options.no_test else "test"
        rows = {"HMGRL": report[split]}
        rows |= {name: scores[split] for name, scores in references.items()}
        title = f"{split.capitalize()} scores (%)"
        print(f"\n{title}, {report['data']['source']}, seed {report['seed']}:")
        print(score_table(rows))
        print(f"Model, logs and report: {Path(arguments.output_dir)}")
        if options.push_to_hub:
            print(f"Pushed: {trainer.push_to_hub(options.push_to_hub)}")


if __name__ == "__main__":
    main(sys.argv[1:])
