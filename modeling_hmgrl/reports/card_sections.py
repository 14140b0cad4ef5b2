"""Sections of the model card, each from the report of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from .citations import Paper
from .hub_results import RESULTS_FILE, task_ids
from .run_report import markdown_table, score_table, spread

_MOST_ROWS = 200
_FEW_RUNS = 5

_SOURCES = {
    "sample": "the embedded sample of the package `hmgrl`, 30 types of things (its licences are "
    "listed beside it)",
    "mnre": "[MNRE](https://github.com/thecharm/MNRE)",
    "wikidiverse": "[WikiDiverse](https://github.com/wangxw5/wikiDiverse)",
    "records": "own records",
    "bio": "own files tagged by token",
}

Report = Mapping[str, Any]


def protocol_of(report: Report, imagines: bool = True) -> tuple[str, str]:
    """Name of the protocol and what it means, in plain words.

    Args:
        report: Content of a run's ``report.json``.
        imagines: Whether the method's training makes use of labels that have no samples; where it
            does not, no name of an unseen label was used, whichever were offered.
    """
    labels = report["labels"]
    unseen, known = labels["test_unseen"], set(labels["known_to_generator"] if imagines else ())
    met = [name for name in unseen if name in known]
    if not unseen:
        return "no unseen labels in test", "All test labels had training samples."
    if len(met) == len(unseen):
        name = "class-transductive"
        text = (
            "Class-transductive, as in HMGRL: of the unseen test labels no sample was used in "
            "training, but their names were: samples were imagined for them. A label whose name "
            "was not there in training may do worse than the table says."
        )
    elif met:
        name = "partly class-transductive"
        text = (
            f"Partly class-transductive: of the {len(unseen)} unseen test labels no sample was "
            f"used in training, but of {len(met)} the names were: {_names(met)}. The others were "
            "met in the test for the first time."
        )
    else:
        name = "inductive"
        text = (
            "Inductive: neither samples nor names of the unseen test labels were used in training."
        )
    validation = labels["validation_unseen"]
    if validation:
        text += (
            f" {len(validation)} other labels without training samples"
            + (", whose names training knew too," if known.issuperset(validation) else "")
            + " made up the unseen part of the validation set, on which checkpoint and calibration "
            "were chosen. The test set chose nothing."
        )
    return name, text


def usage(report: Report, config: Any, imagines: bool = True) -> str:
    """How a call of the pipeline is meant; ``imagines`` as of :func:`protocol_of`."""
    known = len(config.seen_labels or ()) + len(config.generator_labels or ())
    which = "whose names were used in training" if imagines else "that its configuration names"
    mention = (
        "`mention` is a string of the text, or `spans=[[start, end]]` in its place"
        if report["task"] == "typing"
        else "`mention` is the pair (head, tail), or `spans=[[start, end], [start, end]]`"
    )
    picture = (
        "This model takes text alone."
        if config.vision_config is None
        else "`image=` takes a path, bytes, a PIL picture or an array, and may be left out."
    )
    return (
        f"{mention}. {picture} `labels` may be any names, or a mapping of names to descriptions; "
        f"without it, the {known} labels {which} are taken. A list of dicts with these fields "
        "predicts many at once."
    )


def results(report: Report, config: Any, runs: Sequence[Report]) -> str:
    """Scores of test and validation, of several runs if given, and how they were calibrated."""
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
        "Percent. Every sample is predicted over the seen and the unseen labels of its split "
        "together. F1 is weighted by support, overall is the harmonic mean of seen and unseen, "
        "AUSUC the area under the curve of seen against unseen accuracy over all gammas."
    )
    parts.append(_spread(report, runs))
    parts.append(_calibration(report, config))
    if "label similarity" in report.get("references", {}):
        variant = report["references"]["label similarity"].get("variant")
        parts.append(
            "*label similarity* needs no training: cosine of the untrained text encoder's state of "
            f"{variant or 'the mention'} with that of the label."
        )
    if "majority" in report.get("references", {}):
        parts.append("*majority* always answers with the most frequent training label.")
    parts.append(_machine_readable(report))
    return "\n\n".join(parts)


def _spread(report: Report, runs: Sequence[Report]) -> str:
    if len(runs) < 2:
        return (
            f"One run ({_seeds(report)}): how far another seed or another division of the labels "
            "would move these figures is not known from it."
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
        f"gamma = {config.calibration_gamma:.4g} is taken off the scores of seen labels, and "
        f"probabilities are a softmax of scores over the temperature "
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
            "error was measured: do not read the probabilities as such."
        )
    shown = ", ".join(f"{spread([100 * error], 1)} on {split}" for split, error in errors.items())
    return (
        f"{text}; both were chosen on validation. Expected calibration error of the probabilities "
        f"(15 bins, points of 100): {shown}."
    )


def _machine_readable(report: Report) -> str:
    hub = report["data"].get("hub")
    if "test" not in report:
        return "`report.json` has all figures."
    if hub:
        return (
            f"`report.json` has all figures, per label too; `{RESULTS_FILE}` those of the test, as "
            f"results on {_dataset_link(hub)}. The Hub counts them only where that data set is "
            "registered as a benchmark whose `eval.yaml` has the tasks "
            f"{', '.join(f'`{task}`' for task in task_ids(hub))}; this was not checked."
        )
    return (
        "`report.json` has all figures, per label too. There is no `.eval_results`: its entries "
        "must name a benchmark registered on the Hub, and the data of this run are not there. The "
        "test scores stand in this card's metadata instead (`model-index`), reported by the author."
    )


def label_table(report: Report) -> str:
    """Labels with their role, the text that the encoder was shown, samples and test F1."""
    labels, splits = report["labels"], report["data"].get("splits", {})
    texts = labels.get("texts") or {}
    rows_of_test = {row["name"]: row for row in report.get("test", {}).get("per_class", ())}
    roles = {
        "seen": labels["seen"],
        "unseen, validation": labels["validation_unseen"],
        "unseen, test": labels["test_unseen"],
    }
    differ = any(text != name for name, text in texts.items())
    head = ["label", "role"] + ["shown to the encoder as"] * differ
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
    way = report["data"].get("settings", {}).get("label_text")
    if not differ:
        sentence += "The encoder is shown each label's name as it is."
    else:
        sentence += f"The encoder is shown a text for each label{f' ({way})' if way else ''}."
    if len(lines) > _MOST_ROWS + 1:
        sentence += f" The first {_MOST_ROWS}; all are in `report.json`."
    return f"{sentence}\n\n{markdown_table(lines[: _MOST_ROWS + 1])}"


def data(report: Report) -> str:
    """What the run was trained and tested on, what was left out, what the splits share."""
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
            + (f"; left out: {left}" if left else "")
        )
    sizes = {name: sum(counts.values()) for name, counts in found.get("splits", {}).items()}
    if sizes:
        lines.append("- splits: " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()))
    if "seed" in settings:
        lines.append(
            f"- labels and samples divided with seed {settings['seed']}, grouped by "
            f"{settings.get('group_by', 'none')} (protocol version "
            f"{settings.get('protocol_version', '?')})"
        )
    if images := found.get("images"):
        lines.append(
            f"- records by picture: {images.get('found', 0):,} found, "
            f"{images.get('missing', 0):,} missing, {images.get('unreadable', 0):,} unreadable, "
            f"{images.get('none', 0):,} without"
        )
    overlap = found.get("overlap", {})
    for split in ("validation", "test"):
        if one := overlap.get(split):
            seen = overlap.get(f"{split}_seen")
            lines.append(
                f"- of {one['samples']:,} {split} samples {one['text']:,} share their sentence "
                f"with a training sample and {one['image']:,} their picture"
                + (
                    f"; of the {seen['samples']:,} with seen labels {seen['either']:,} share one "
                    "or both"
                    if seen
                    else ""
                )
            )
    if len(lines) == 1:
        lines.append("- the run recorded no more about its data")
    return "\n".join(lines)


def limits(report: Report, config: Any, runs: Sequence[Report]) -> str:
    """What the figures do not show and the model does not do."""
    found = report["data"]
    lines = [
        "The model answers with one of the labels it is given, also where none fits.",
        "Which labels happen to be unseen moves the scores by many points; the splits and encoders "
        "are not those of the method's paper, whose figures cannot be set beside these.",
        "Probabilities hold, if at all, for labels and texts like those of the validation set.",
        "It inherits the language, the length limit and the biases of its encoders. It was tried "
        "on the data above and on nothing else; do not let it decide about people.",
    ]
    if len(runs) < _FEW_RUNS:
        lines.insert(
            1, "One run proves little." if len(runs) == 1 else f"{len(runs)} runs prove little."
        )
    overlap = found.get("overlap", {}).get("test_seen")
    if overlap and overlap["either"]:
        lines.append(
            f"{overlap['either']:,} of {overlap['samples']:,} test samples of seen labels share "
            "sentence or picture with training: seen scores are flattered by what was memorised."
        )
    if config.vision_config is None or not report.get("images_used"):
        lines.append("Pictures took no part in training.")
    else:
        lines.append("How much the pictures contribute was not measured in this run.")
    return "\n".join(f"- {line}" for line in lines)


def departures(config: Any, paper: Paper) -> str:
    """Where the model departs from the method's paper, by its make and by its settings.

    Args:
        config: The model's configuration.
        paper: The paper.

    Returns:
        A sentence or two; empty where it departs in nothing.
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


def made(report: Report) -> str:
    """When and with what the run was made."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    revision = report.get("git_revision")
    lines = [
        "Paths in the command are shortened to their last part.",
        f"Finished {report['date']}." if "date" in report else "",
        f"Processes: {report.get('processes', 1)}.",
        f"Revision of the package: `{revision}`"
        + (" (+: with changes that are not in it)." if str(revision).endswith("+") else ".")
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
    """A label or text that cannot break a table or bring markup of its own."""
    text = " ".join(str(text).split())
    for sign, stands in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;")):
        text = text.replace(sign, stands)
    return text
