"""Cells of the comparison: one method on one split, trained and scored, kept as one JSON file.

A cell that is there is not run again, so that a grid goes on where it stopped. gamma comes from
validation; the best gamma on test stands beside it as "oracle" and chooses nothing.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from tqdm.auto import tqdm

from dataset_scripts import GZSData, load_gzs
from hmgrl.train import make_model
from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.baselines import METHODS, label_similarity, majority
from modeling_hmgrl.metrics.calibration import best_gamma
from modeling_hmgrl.metrics.label_sets import LabelSets
from modeling_hmgrl.reports.run_report import write_json
from modeling_hmgrl.training.trainer import REPORT_NAME

REFERENCES = ("label_similarity", "majority")
"""Methods without training."""

SCORINGS: dict[str, dict[str, Any]] = {
    # as published: dot products, ranking loss, label names as they are, projections at random
    "published": {
        "score_function": "dot",
        "classification_loss": "ranking",
        "projection_init": "random",
    },
    # as recommended: cosine with a learnt temperature, cross-entropy, labels in words, projections
    # that start at plain label similarity
    "corrected": {},
    # the same, with relations compared by parts: head, tail and what lies between
    "parts": {"label_parts": True},
}
"""Settings of every method, in three ways of scoring."""


RECIPES: dict[str, dict[str, Any]] = {
    # chosen on the validation parts of the splits 100 to 103, which no table reports
    "hmgrl": {"weight_unseen": 1.0, "weight_alignment": 1.0, "generator_samples": 8}
}
"""What a method sets otherwise than its defaults, in all scorings but the published one."""


@dataclass(frozen=True)
class Setting:
    """Encoders and budget that all methods of a table share.

    Attributes:
        text: Folder or Hub name of the text encoder.
        vision: Folder or Hub name of the image encoder; None for texts alone.
        model: Fields of every method's configuration.
        arguments: Arguments of every run.
        paper: Whether all else is as in the paper too (lengths, settings, loss weights).
    """

    text: str
    vision: str | None
    model: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: bool = False


_SMALL = {"batch_size": 32, "learning_rate": 5e-5, "head_learning_rate": 1e-4, "patience": 0}

_FROZEN = Setting(
    "encoders/minilm",
    "encoders/vit-s",
    {"freeze_text": True, "freeze_vision": True},
    _SMALL | {"max_steps": 400, "head_learning_rate": 5e-4},
)

SETTINGS: dict[str, Setting] = {
    # the encoders run once for all methods and seeds
    "frozen": _FROZEN,
    "fine_tuned": Setting("encoders/minilm", "encoders/vit-s", {}, _SMALL | {"max_steps": 300}),
    # the same, all else as in the paper: what its switch does without its encoders and lengths of
    # training
    "frozen_paper": replace(_FROZEN, paper=True),
    # for a GPU of 24 GB
    "paper": Setting("bert-base-cased", "google/vit-base-patch16-384", paper=True),
}
"""Settings by name."""


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        source: Source of the data, as of :func:`dataset_scripts.load_gzs`.
        method: Name in :data:`baselines.METHODS`, or one of :data:`REFERENCES`.
        split: Seed of the split, or WikiDiverse's rotation.
        seed: Seed of the run.
        scoring: Name in :data:`SCORINGS`.
        setting: Name in :data:`SETTINGS`.
        vocabulary: Which unseen names the generator sees.
        label_text: What encoders are shown of a label; None for what goes with scoring and method.
        changes: Further fields of the method's configuration, as for an ablation.
    """

    source: str
    method: str
    split: int
    seed: int
    scoring: str = "corrected"
    setting: str = "frozen"
    vocabulary: str = "transductive"
    label_text: str | None = None
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Name of its file."""
        recipe = None if self.scoring == "published" else RECIPES.get(self.method)
        told = json.dumps(
            asdict(self) | {"setting": asdict(SETTINGS[self.setting]), "recipe": recipe}
        )
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        parts = [self.source, self.method, self.scoring, self.setting]
        return f"{'-'.join(parts)}-split{self.split}-seed{self.seed}-{digest}"

    @property
    def shown_label_text(self) -> str:
        """What the encoder is shown of a label."""
        if self.label_text is not None:
            return self.label_text
        if self.scoring == "published" or SETTINGS[self.setting].paper:
            return "described" if self.method == "dbzfet" else "raw"
        if self.scoring == "parts":
            return "verbalised" if self.method == "zs_ska" else "parts"
        return {"dbzfet": "described", "re_matching": "parts"}.get(self.method, "verbalised")


@dataclass(frozen=True)
class Place:
    """Where things lie.

    Attributes:
        out: Folder of the cells.
        data_dir: Folder of the source's data; None for the embedded sample.
        image_dir: Folder of its pictures, if there is one.
        cache: Folder of what frozen encoders said.
    """

    out: Path
    data_dir: str | None = None
    image_dir: str | None = None
    cache: str = ".cache/features"


@lru_cache(maxsize=2)
def _data(source: str, split: int, label_text: str, place: Place) -> GZSData:
    texts: Any = label_text
    options: dict[str, Any] = {"label_text": texts}
    if source == "wikidiverse" and split in (1, 2, 3):
        options["rotation"] = split
    return load_gzs(source, place.data_dir, place.image_dir, seed=split, **options)


def run_cells(cells: Iterable[Cell], place: Place) -> list[dict[str, Any]]:
    """Runs the cells that are not there yet and returns all of them.

    Args:
        cells: The cells.
        place: Where things lie.

    Returns:
        The content of each cell's file, in order.
    """
    wanted = list(dict.fromkeys(cells))
    found = []
    for cell in tqdm(wanted, desc="Cells", unit="cell"):
        path = _report_path(cell, place)
        if not path.is_file():
            tqdm.write(cell.name, file=sys.stderr)
            _run_and_write(cell, place)
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def kept_run(cell: Cell, place: Place) -> Path:
    """Trains a cell, unless its model is there, and keeps the model.

    Returns:
        The folder of the model.
    """
    folder = _run_folder(cell, place)
    if not (folder / REPORT_NAME).is_file():
        _run_and_write(cell, place, keep=True)
    return folder


def _run_and_write(cell: Cell, place: Place, keep: bool = False) -> None:
    place.out.mkdir(parents=True, exist_ok=True)
    write_json(_report_path(cell, place), run_cell(cell, place, keep))


def _report_path(cell: Cell, place: Place) -> Path:
    return place.out / f"{cell.name}.json"


def _run_folder(cell: Cell, place: Place) -> Path:
    return place.out / "runs" / cell.name


def run_cell(cell: Cell, place: Place, keep: bool = False) -> dict[str, Any]:
    """Trains and scores one cell.

    Args:
        cell: The cell.
        place: Where things lie.
        keep: Whether the trained model stays, in its run's folder.

    Returns:
        The run's report, with ``cell``, ``seconds`` and ``oracle``: the overall test score under
        the gamma that is best on test.
    """
    started = time.perf_counter()
    setting = SETTINGS[cell.setting]
    data = _data(cell.source, cell.split, cell.shown_label_text, place)
    labels = LabelSets.of(
        data.partition.seen,
        data.partition.validation_unseen,
        data.partition.test_unseen,
        cell.vocabulary,  # type: ignore[arg-type]
        data.label_texts,
    )
    if cell.method in REFERENCES:
        report = _reference(cell, setting, labels, data)
    else:
        report = _trained(cell, setting, labels, data, place)
        if not keep:
            shutil.rmtree(_run_folder(cell, place), ignore_errors=True)
    return {"cell": asdict(cell), "seconds": time.perf_counter() - started, **report}


def _scoring(cell: Cell) -> dict[str, Any]:
    """Settings of a cell's scoring; a method that has parts of its own, or none, keeps to that."""
    settings = dict(SCORINGS[cell.scoring])
    if cell.scoring != "published":
        settings |= RECIPES.get(cell.method, {})
    takes_parts = METHODS[cell.method].takes_label_parts
    return settings if takes_parts else settings | {"label_parts": False}


def _has_pictures(data: GZSData) -> bool:
    return bool(data.report.to_dict().get("images", {}).get("found", 0))


def _trained(
    cell: Cell, setting: Setting, labels: LabelSets, data: GZSData, place: Place
) -> dict[str, Any]:
    set_seed(cell.seed)
    scoring = {} if setting.paper else _scoring(cell)
    model, processor = make_model(
        cell.method,
        data.task,
        setting.text,
        setting.vision if _has_pictures(data) else None,
        scoring | setting.model | dict(cell.changes),
        setting.paper,
    )
    recipe = HMGRLTrainingArguments.paper(data.task) if setting.paper else {}
    arguments = HMGRLTrainingArguments(
        **{
            "output_dir": str(_run_folder(cell, place)),
            "seed": cell.seed,
            "tracker": "none",
            "save_epochs": 0,
            "feature_dir": place.cache,
            **recipe,
            **setting.arguments,
        }
    )
    trainer = HMGRLTrainer(
        model, processor, arguments, labels,
        data.splits["train"], data.splits["validation"], data.splits["test"],
        data_report=data.report.to_dict(), method=cell.method,
    )  # fmt: skip
    report = trainer.train()
    scores, truth = trainer.scores("test")
    oracle = best_gamma(scores, truth, labels.seen_mask("test"), metric=arguments.metric)
    report["oracle"] = {arguments.metric: oracle.value, "gamma": oracle.gamma}
    return report


def _reference(cell: Cell, setting: Setting, labels: LabelSets, data: GZSData) -> dict[str, Any]:
    train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
    if cell.method == "majority":
        report = majority(labels, train, validation, test)
    else:
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - only here

        encoder = AutoModel.from_pretrained(setting.text, add_pooling_layer=False)
        tokenizer = AutoTokenizer.from_pretrained(setting.text)
        report = label_similarity(encoder, tokenizer, labels, validation, test)
    described = {"method": cell.method, "task": data.task, "seed": cell.seed}
    return described | {"data": data.report.to_dict()} | report
