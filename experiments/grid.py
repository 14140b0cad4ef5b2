"""The grid of the comparison: each cell is one method on one split, stored as one JSON file.

Existing cells are not run again, so an interrupted grid can be resumed. gamma is selected on
validation; the best gamma on test is reported as "oracle" and not used.
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
from hmgrl_cli.train import make_model
from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.baselines import METHODS, label_similarity, majority
from modeling_hmgrl.metrics.calibration import best_gamma
from modeling_hmgrl.metrics.label_sets import LabelSets
from modeling_hmgrl.reports.run_report import write_json
from modeling_hmgrl.training.trainer import REPORT_NAME

REFERENCES = ("label_similarity", "majority")
"""Training-free baselines."""

SCORINGS: dict[str, dict[str, Any]] = {
    # as published: dot products, ranking loss, raw label names, random initialisation
    "published": {
        "score_function": "dot",
        "classification_loss": "ranking",
        "projection_init": "random",
        "label_parts": False,
        "weight_unseen": 0.1,
        "weight_alignment": 0.1,
        "generator_samples": 0,
    },
    # cosine with a learned temperature, cross-entropy, verbalised labels, and projections
    # initialised to plain label similarity
    "corrected": {"label_parts": False},
    # the defaults of the package: relations compared by parts (head, relation and tail)
    "parts": {},
}
"""Settings of every method, where it has the field, for three variants of scoring."""


@dataclass(frozen=True)
class Setting:
    """Encoders and budget that all methods of a table share.

    Attributes:
        text: Folder or Hub name of the text encoder.
        vision: Folder or Hub name of the image encoder; None for text only.
        model: Fields of every method's configuration.
        arguments: Arguments of every run.
        paper: Whether all other settings are as in the paper (lengths, loss weights, ...).
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
    # the encoders' states are computed once for all methods and seeds
    "frozen": _FROZEN,
    "fine_tuned": Setting("encoders/minilm", "encoders/vit-s", {}, _SMALL | {"max_steps": 300}),
    # the same, otherwise as in the paper, except for its encoders and length of training
    "frozen_paper": replace(_FROZEN, paper=True),
    # for a GPU of 24 GB
    "paper": Setting("bert-base-cased", "google/vit-base-patch16-384", paper=True),
}
"""Settings by name."""


@dataclass(frozen=True)
class Cell:
    """A cell of the grid: one run.

    Attributes:
        source: Source of the data, as in :func:`dataset_scripts.load_gzs`.
        method: Name in :data:`baselines.METHODS`, or one of :data:`REFERENCES`.
        split: Seed of the split, or WikiDiverse's rotation.
        seed: Seed of the run.
        scoring: Name in :data:`SCORINGS`.
        setting: Name in :data:`SETTINGS`.
        vocabulary: Which unseen names the generator is given.
        label_text: Text that represents a label; None for the default of scoring and method.
        changes: Further fields of the method's configuration, e.g. for an ablation.
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
        """Name of the cell's file."""
        content = json.dumps(
            asdict(self)
            | {"setting": asdict(SETTINGS[self.setting]), "settings": SCORINGS[self.scoring]}
        )
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        parts = [self.source, self.method, self.scoring, self.setting]
        return f"{'-'.join(parts)}-split{self.split}-seed{self.seed}-{digest}"

    @property
    def effective_label_text(self) -> str:
        """Text that represents a label, with the default resolved."""
        if self.label_text is not None:
            return self.label_text
        if self.scoring == "published" or SETTINGS[self.setting].paper:
            return "described" if self.method == "dbzfet" else "raw"
        if self.scoring == "parts":
            return "verbalised" if self.method == "zs_ska" else "parts"
        return {"dbzfet": "described", "re_matching": "parts"}.get(self.method, "verbalised")


@dataclass(frozen=True)
class Paths:
    """Input and output folders.

    Attributes:
        out: Folder of the cells.
        data_dir: Folder of the source's data; None for the embedded sample.
        image_dir: Folder of the source's images, or None.
        cache: Folder in which states of frozen encoders are cached.
    """

    out: Path
    data_dir: str | None = None
    image_dir: str | None = None
    cache: str = ".cache/features"


@lru_cache(maxsize=2)
def _data(source: str, split: int, label_text: str, paths: Paths) -> GZSData:
    texts: Any = label_text
    options: dict[str, Any] = {"label_text": texts}
    if source == "wikidiverse" and split in (1, 2, 3):
        options["rotation"] = split
    return load_gzs(source, paths.data_dir, paths.image_dir, seed=split, **options)


def run_cells(cells: Iterable[Cell], paths: Paths) -> list[dict[str, Any]]:
    """Runs the missing cells and returns all of them.

    Args:
        cells: The cells.
        paths: Input and output folders.

    Returns:
        The content of each cell's file, in order.
    """
    wanted = list(dict.fromkeys(cells))
    found = []
    for cell in tqdm(wanted, desc="Cells", unit="cell"):
        path = _report_path(cell, paths)
        if not path.is_file():
            tqdm.write(cell.name, file=sys.stderr)
            _run_and_write(cell, paths)
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def train_and_keep(cell: Cell, paths: Paths) -> Path:
    """Trains a cell and keeps its model, unless the model exists.

    Returns:
        The folder of the model.
    """
    folder = _run_folder(cell, paths)
    if not (folder / REPORT_NAME).is_file():
        _run_and_write(cell, paths, keep=True)
    return folder


def _run_and_write(cell: Cell, paths: Paths, keep: bool = False) -> None:
    paths.out.mkdir(parents=True, exist_ok=True)
    write_json(_report_path(cell, paths), run_cell(cell, paths, keep))


def _report_path(cell: Cell, paths: Paths) -> Path:
    return paths.out / f"{cell.name}.json"


def _run_folder(cell: Cell, paths: Paths) -> Path:
    return paths.out / "runs" / cell.name


def run_cell(cell: Cell, paths: Paths, keep: bool = False) -> dict[str, Any]:
    """Trains and evaluates a cell.

    Args:
        cell: The cell.
        paths: Input and output folders.
        keep: Whether to keep the trained model in the folder of the run.

    Returns:
        The run's report, with ``cell``, ``seconds`` and ``oracle``: the overall test score with
        the best gamma on test.
    """
    started = time.perf_counter()
    setting = SETTINGS[cell.setting]
    data = _data(cell.source, cell.split, cell.effective_label_text, paths)
    labels = LabelSets.of(
        data.partition.seen,
        data.partition.validation_unseen,
        data.partition.test_unseen,
        cell.vocabulary,  # type: ignore[arg-type]
        data.label_texts,
    )
    if cell.method in REFERENCES:
        report = _evaluate_baseline(cell, setting, labels, data)
    else:
        report = _train(cell, setting, labels, data, paths)
        if not keep:
            shutil.rmtree(_run_folder(cell, paths), ignore_errors=True)
    return {"cell": asdict(cell), "seconds": time.perf_counter() - started, **report}


def _scoring(cell: Cell) -> dict[str, Any]:
    """Settings of a cell's scoring that the method has."""
    fields = METHODS[cell.method].config_class.field_names()
    return {name: value for name, value in SCORINGS[cell.scoring].items() if name in fields}


def _has_images(data: GZSData) -> bool:
    return bool(data.report.to_dict().get("images", {}).get("found", 0))


def _train(
    cell: Cell, setting: Setting, labels: LabelSets, data: GZSData, paths: Paths
) -> dict[str, Any]:
    set_seed(cell.seed)
    scoring = {} if setting.paper else _scoring(cell)
    model, processor = make_model(
        cell.method,
        data.task,
        setting.text,
        setting.vision if _has_images(data) else None,
        scoring | setting.model | dict(cell.changes),
        setting.paper,
    )
    profile = HMGRLTrainingArguments.paper(data.task) if setting.paper else {}
    arguments = HMGRLTrainingArguments(
        **{
            "output_dir": str(_run_folder(cell, paths)),
            "seed": cell.seed,
            "tracker": "none",
            "save_epochs": 0,
            "feature_dir": paths.cache,
            **profile,
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


def _evaluate_baseline(
    cell: Cell, setting: Setting, labels: LabelSets, data: GZSData
) -> dict[str, Any]:
    train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
    if cell.method == "majority":
        report = majority(labels, train, validation, test)
    else:
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - only here

        encoder = AutoModel.from_pretrained(setting.text, add_pooling_layer=False)
        tokenizer = AutoTokenizer.from_pretrained(setting.text)
        report = label_similarity(encoder, tokenizer, labels, validation, test)
    header = {"method": cell.method, "task": data.task, "seed": cell.seed}
    return header | {"data": data.report.to_dict()} | report
