"""Sections of the model card, each from the report of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from .citations import Paper
from .hub_results import RESULTS_FILE, task_ids
from .run_report import markdown_table, score_table, spread

_MOST_ROWS = 200
_FEW_RUNS = 5

_SOURCES = {
    "sample": "the sample included in the package `hmgrl`, with 30 entity types (the package lists "
    "its licences)",
    "mnre": "[MNRE](https://github.com/thecharm/MNRE)",
    "wikidiverse": "[WikiDiverse](https://github.com/wangxw5/wikiDiverse)",
    "records": "own records",
    "bio": "own files with token tags (BIO)",
}

Report = Mapping[str, Any]


def protocol_of(report: Report, trains_on_unseen: bool = True) -> tuple[str, str]:
    """Name and description of the protocol.

    Args:
        report: Content of a run's ``report.json``.
        trains_on_unseen: Whether the method's training uses the names of labels without samples.
            If not, the protocol is inductive, whichever names the run was given.

    Returns:
        Name of the protocol, and what it implies.
    """
    labels = report["labels"]
    unseen = labels["test_unseen"]
    known = set(labels["known_to_generator"] if trains_on_unseen else ())
    known_unseen = [name for name in unseen if name in known]
    if not unseen:
        return "no unseen labels in test", "All test labels had training samples."
    if len(known_unseen) == len(unseen):
        name = "class-transductive"
        text = (
            "Class-transductive, as in HMGRL: training used no samples of the unseen test labels, "
            "but their names were used to generate synthetic samples. The scores of labels whose "
            "names were not used in training may be lower than those in the table."
        )
    elif known_unseen:
        name = "partly class-transductive"
        text = (
            f"Partly class-transductive: training used no samples of the {len(unseen)} unseen test "
            f"labels, but of {len(known_unseen)} the names were: {_names(known_unseen)}. The other "
            "labels first occur in the test."
        )
    else:
        name = "inductive"
        text = "Inductive: training used neither samples nor names of the unseen test labels."
    validation = labels["validation_unseen"]
    if validation:
        text += (
            f" {len(validation)} other labels without training samples"
            + (", whose names were also used in training," if known.issuperset(validation) else "")
            + " are the unseen part of the validation set, on which the checkpoint and the "
            "calibration were chosen. Nothing was chosen on the test set."
        )
    return name, text


def usage(report: Report, config: Any, trains_on_unseen: bool = True) -> str:
    """Inputs of the pipeline; ``trains_on_unseen`` as for :func:`protocol_of`."""
    known = len(config.seen_labels or ()) + len(config.generator_labels or ())
    which = "whose names were used in training" if trains_on_unseen else "of its configuration"
    mention = (
        "`mention` is a string that occurs in the text; `spans=[[start, end]]` may replace it"
        if report["task"] == "typing"
        else "`mention` is the pair (head, tail); `spans=[[start, end], [start, end]]` may replace "
        "it"
    )
    image = (
        "This model takes text only."
        if config.vision_config is None
        else "`image` is a path, bytes, a PIL image or an array, and is optional."
    )
    return (
        f"{mention}. {image} `labels` are any names, or a mapping of names to descriptions; by "
        f"default, the {known} labels {which} are used. A list of dicts with these fields is "
        "predicted in batches."
    )


def results(report: Report, config: Any, runs: Sequence[Report]) -> str:
    """Scores of test and validation, of several runs if given, and their calibration."""
    parts = []
    for split in ("test", "validation"):
        if split not in report:
            continue
        supports = {True: [0, 0], False: [0, 0]}
        for row in report[split]["per_class"]:
            supports[row["seen"]][0] += 1
            supports[row["seen"]][1] += row["support"]
        (seen, n_seen), (unseen, n_unseen) = supports[True], supports[False]
        rows: dict[str, Any] = {f"{report['method']}, these weights": report[split]}
        several = [run[split] for run in runs if split in run]
        if len(several) > 1:
            rows[f"{report['method']}, {len(several)} runs"] = several
        references = report.get("references", {})
        rows |= {name: scores[split] for name, scores in references.items() if split in scores}
        parts.append(
            f"**{split.capitalize()}**: {n_seen:,} samples of {seen} seen labels, {n_unseen:,} of "
            f"{unseen} unseen ones.\n\n{score_table(rows)}"
        )
    if "test" not in report:
        parts.append("No test was run.")
    parts.append(
        "All values are in percent. Every sample is predicted over the union of the seen and the "
        "unseen labels of its split. F1 is weighted by support, overall is the harmonic mean of "
        "seen and unseen, and AUSUC is the area under the curve of seen against unseen accuracy "
        "over all values of gamma."
    )
    parts.append(_spread(report, runs))
    parts.append(_calibration(report, config))
    if "label similarity" in report.get("references", {}):
        variant = report["references"]["label similarity"].get("variant")
        parts.append(
            "*label similarity* is training-free: the cosine between the encodings of "
            f"{variant or 'the mention'} and of the label by the pretrained text encoder."
        )
    if "majority" in report.get("references", {}):
        parts.append("*majority* always predicts the most frequent training label.")
    parts.append(_machine_readable(report))
    return "\n\n".join(parts)


def _spread(report: Report, runs: Sequence[Report]) -> str:
    if len(runs) < 2:
        return (
            f"One run ({_seeds(report)}): it does not show how much the scores vary with the seed "
            "or with the split of the labels."
        )
    seeds = "; ".join(_seeds(run) for run in runs)
    return (
        f"± is the sample standard deviation over n = {len(runs)} runs ({seeds}). The weights here "
        f"are those of {_seeds(report)}."
    )


def _seeds(report: Report) -> str:
    split = report["data"].get("settings", {}).get("seed")
    return f"seed {report['seed']}" + ("" if split is None else f", split {split}")


def _calibration(report: Report, config: Any) -> str:
    text = (
        f"gamma = {config.calibration_gamma:.4g} is subtracted from the scores of seen labels, and "
        f"probabilities are the softmax of the scores over the temperature "
        f"{config.probability_temperature:.4g}"
    )
    errors = {
        split: report[split]["calibration_error"]
        for split in ("test", "validation")
        if "calibration_error" in report.get(split, {})
    }
    if not errors:
        return (
            f"{text}. gamma was chosen on validation; the temperature was not, and no calibration "
            "error was measured: the probabilities are uncalibrated."
        )
    shown = ", ".join(f"{spread([100 * error], 1)} on {split}" for split, error in errors.items())
    return (
        f"{text}; both were chosen on validation. Expected calibration error of the probabilities "
        f"(15 bins, percentage points): {shown}."
    )


def _machine_readable(report: Report) -> str:
    hub = report["data"].get("hub")
    if "test" not in report:
        return "`report.json` contains all scores."
    if hub:
        return (
            f"`report.json` contains all scores, also per label; `{RESULTS_FILE}` contains those "
            f"of the test, as results on {_dataset_link(hub)}. The Hub shows them only if that "
            "data set is registered as a benchmark whose `eval.yaml` has the tasks "
            f"{', '.join(f'`{task}`' for task in task_ids(hub))}; this was not checked."
        )
    return (
        "`report.json` contains all scores, also per label. There is no `.eval_results`: its "
        "entries require a benchmark that is registered on the Hub, and the data of this run are "
        "not there. Instead, the metadata of this card contain the test scores (`model-index`), "
        "reported by the author."
    )


def label_table(report: Report) -> str:
    """Labels with their role, their encoder input, number of samples and test F1."""
    labels, splits = report["labels"], report["data"].get("splits", {})
    texts = labels.get("texts") or {}
    rows_of_test = {row["name"]: row for row in report.get("test", {}).get("per_class", ())}
    roles = {
        "seen": labels["seen"],
        "unseen, validation": labels["validation_unseen"],
        "unseen, test": labels["test_unseen"],
    }
    differ = any(text != name for name, text in texts.items())
    head = ["label", "role"] + ["encoder input"] * differ
    lines = [[*head, "training samples", "test samples", "test F1"]]
    for role, names in roles.items():
        for name in names:
            row = rows_of_test.get(name)
            lines.append(
                [_cell(name), role]
                + [_cell(texts.get(name, name))] * differ
                + [str(splits["train"].get(name, 0)) if "train" in splits else "?"]
                + (["-", "-"] if row is None else [str(row["support"]), f"{100 * row['f1']:.1f}"])
            )
    sentence = f"{len(labels['seen'])} seen, {len(labels['validation_unseen'])} unseen in "
    sentence += f"validation, {len(labels['test_unseen'])} unseen in test. "
    style = report["data"].get("settings", {}).get("label_text")
    if not differ:
        sentence += "The encoder input of a label is its name."
    else:
        sentence += f"Labels have a text as encoder input{f' ({style})' if style else ''}."
    if len(lines) > _MOST_ROWS + 1:
        sentence += f" The table shows the first {_MOST_ROWS}; `report.json` contains all."
    return f"{sentence}\n\n{markdown_table(lines[: _MOST_ROWS + 1])}"


def data(report: Report) -> str:
    """Data of the run: source, omitted records, and overlap of the splits."""
    found = report["data"]
    source = found.get("source")
    hub = found.get("hub")
    settings = found.get("settings", {})
    lines = [f"- source: {_SOURCES.get(source) or _cell(source or 'own data')}"]
    if hub:
        where = _dataset_link(hub)
        revision = f", revision `{hub['revision']}`" if hub.get("revision") else ""
        lines.append(f"- on the Hub: {where}, configuration {hub.get('config', '?')}{revision}")
    if "records_in" in found:
        left = ", ".join(f"{n}: {one['count']:,}" for n, one in found.get("left_out", {}).items())
        lines.append(
            f"- {found['records_in']:,} records read, {found['records_out']:,} used"
            + (f"; omitted: {left}" if left else "")
        )
    sizes = {name: sum(counts.values()) for name, counts in found.get("splits", {}).items()}
    if sizes:
        lines.append("- splits: " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()))
    if "seed" in settings:
        lines.append(
            f"- labels and samples split with seed {settings['seed']}, grouped by "
            f"{settings.get('group_by', 'none')} (protocol version "
            f"{settings.get('protocol_version', '?')})"
        )
    if images := found.get("images"):
        lines.append(
            f"- records by image: {images.get('found', 0):,} found, "
            f"{images.get('missing', 0):,} missing, {images.get('unreadable', 0):,} unreadable, "
            f"{images.get('none', 0):,} without one"
        )
    overlap = found.get("overlap", {})
    for split in ("validation", "test"):
        if one := overlap.get(split):
            seen = overlap.get(f"{split}_seen")
            lines.append(
                f"- of {one['samples']:,} {split} samples {one['text']:,} share their sentence "
                f"with a training sample and {one['image']:,} their image"
                + (
                    f"; of the {seen['samples']:,} with seen labels {seen['either']:,} share one "
                    "or both"
                    if seen
                    else ""
                )
            )
    if len(lines) == 1:
        lines.append("- the report contains no further information about the data")
    return "\n".join(lines)


def limitations(report: Report, config: Any, runs: Sequence[Report]) -> str:
    """Limitations of the model and of its evaluation."""
    found = report["data"]
    lines = [
        "The model always predicts one of the given labels, even if none applies.",
        "The scores vary by many points with the choice of unseen labels. The splits and encoders "
        "differ from those of the method's paper, so that its scores are not comparable.",
        "Probabilities are calibrated, if at all, for labels and texts like those of the "
        "validation set.",
        "The model inherits the language, the maximum length and the biases of its encoders. It "
        "was evaluated on the data above alone; do not use it for decisions about people.",
    ]
    if len(runs) < _FEW_RUNS:
        count = "One run is" if len(runs) == 1 else f"{len(runs)} runs are"
        lines.insert(1, f"{count} not enough for reliable comparisons.")
    overlap = found.get("overlap", {}).get("test_seen")
    if overlap and overlap["either"]:
        lines.append(
            f"{overlap['either']:,} of {overlap['samples']:,} test samples of seen labels share "
            "their sentence or image with training samples: memorisation inflates the seen scores."
        )
    if config.vision_config is None or not report.get("images_used"):
        lines.append("No images were used in training.")
    else:
        lines.append("The contribution of the images was not measured in this run.")
    return "\n".join(f"- {line}" for line in lines)


def departures(config: Any, paper: Paper) -> str:
    """Departures of the model from the method's paper, in implementation and settings.

    Args:
        config: The model's configuration.
        paper: The paper.

    Returns:
        Up to two sentences; empty without departures.
    """
    parts = []
    if paper.departures:
        parts.append(f"Departs from its paper: {paper.departures}.")
    published = type(config).paper_settings(config.task)
    others = [
        f"{name} {_setting(getattr(config, name))} (published: {_setting(value)})"
        for name, value in published.items()
        if getattr(config, name) != value
    ]
    if others:
        parts.append(f"Settings other than the published ones: {', '.join(others)}.")
    return " ".join(parts)


def _setting(value: Any) -> str:
    return "not set" if value is None else str(value)


def procedure(report: Report) -> str:
    """Date, processes, revision and versions of the run."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    revision = report.get("git_revision")
    lines = [
        "Paths in the command are shortened to their last component.",
        f"Finished {report['date']}." if "date" in report else "",
        f"Processes: {report.get('processes', 1)}.",
        f"Revision of the package: `{revision}`"
        + (" (+: with uncommitted changes)." if str(revision).endswith("+") else ".")
        if revision
        else "The package was not run from a repository.",
        f"Versions: {versions}.",
    ]
    return " ".join(line for line in lines if line)


def _dataset_link(hub: Mapping[str, Any]) -> str:
    return f"[{hub['id']}](https://huggingface.co/datasets/{hub['id']})"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(_cell(name) for name in names[:_MOST_ROWS])
    return shown + (", …" if len(names) > _MOST_ROWS else "")


def _cell(text: str) -> str:
    """Escapes a label or text, so that it neither breaks a table nor adds markup."""
    text = " ".join(str(text).split())
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;")):
        text = text.replace(character, escaped)
    return text
