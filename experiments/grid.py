"""The grid of the comparison: each cell is one method on one split, stored as one JSON file.

Existing cells are not run again, so an interrupted grid can be resumed. The name of a file contains
a digest of everything that the result depends on: data, images, settings, encoders and code. A cell
is locked while it runs. gamma is selected on validation; the best gamma on test is reported as
"oracle" and not used.
"""

import ast
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import datasets
from accelerate.utils import set_seed
from tqdm.auto import tqdm
from transformers import AutoConfig

import dataset_scripts
import hmgrl_cli.train
import modeling_hmgrl
from dataset_scripts import SPLITS, GZSData, load_gzs
from dataset_scripts.files import content_digest
from hmgrl_cli.train import make_model
from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.baselines import METHODS, label_similarity, majority
from modeling_hmgrl.metrics.calibration import best_gamma
from modeling_hmgrl.metrics.label_sets import LabelSets
from modeling_hmgrl.reports.run_report import write_json
from modeling_hmgrl.training.locks import lock_path, locked
from modeling_hmgrl.training.run_folder import REPORT_NAME

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


def dependencies(cell: Cell, paths: Paths) -> dict[str, Any]:
    """Returns everything that the result of a cell depends on, as JSON values."""
    setting = SETTINGS[cell.setting]
    data, images = _data_digest(cell.source, cell.split, cell.effective_label_text, paths)
    return {
        "cell": json.loads(json.dumps(asdict(cell))),
        "setting": asdict(setting),
        "scoring": SCORINGS[cell.scoring],
        "data": data,
        "images": images,
        "text_encoder": _encoder_digest(setting.text),
        "vision_encoder": _encoder_digest(setting.vision) if images and setting.vision else None,
        "code": _code_digest(),
    }


def name_of(cell: Cell, paths: Paths) -> str:
    """Returns the name of a cell's file, which contains a digest of :func:`dependencies`."""
    content = json.dumps(dependencies(cell, paths), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return f"{_prefix(cell)}-{digest}"


def _prefix(cell: Cell) -> str:
    parts = [cell.source, cell.method, cell.scoring, cell.setting]
    return f"{'-'.join(parts)}-split{cell.split}-seed{cell.seed}"


@lru_cache(maxsize=256)
def _data_digest(source: str, split: int, label_text: str, paths: Paths) -> tuple[str, bool]:
    """Returns a digest of the rows, images and label texts, and whether there are images."""
    data = _data(source, split, label_text, paths)
    digest = hashlib.sha256()
    for name in SPLITS:
        for row in data.splits[name].cast_column("image", datasets.Image(decode=False)):
            image = row["image"]
            if image is not None:
                stored, path = image["bytes"], image["path"]
                image = _file_digest(path) if stored is None else hashlib.sha256(stored).hexdigest()
            digest.update(json.dumps({**row, "image": image}).encode())
    rest = [data.task, asdict(data.partition), data.label_texts]
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest(), _has_images(data)


@cache
def _file_digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _encoder_digest(name: str) -> str | None:
    """Returns a digest of the files of a folder, or the commit of a name on the Hub."""
    if Path(name).is_dir():
        return content_digest(path for path in Path(name).iterdir() if path.is_file())
    return AutoConfig.from_pretrained(name)._commit_hash


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Returns a digest of the code that trains and evaluates, without comments and docstrings."""
    packages = (
        Path(package.__file__ or "").parent for package in (modeling_hmgrl, dataset_scripts)
    )
    files = [path for package in packages for path in sorted(package.rglob("*.py"))]
    files += [Path(hmgrl_cli.train.__file__), Path(__file__)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.parent.name}/{file.name}".encode())
        digest.update(_code_of(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def _code_of(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                part
                for part in node.body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
    return ast.dump(tree)


def run_cells(cells: Iterable[Cell], paths: Paths) -> list[dict[str, Any]]:
    """Runs the missing cells and returns all of them.

    Results of the same cells with other data, settings, encoders or code are not used.

    Args:
        cells: The cells.
        paths: Input and output folders.

    Returns:
        The content of each cell's file, in order.

    Raises:
        BlockingIOError: If another process is running one of the cells.
    """
    wanted = list(dict.fromkeys(cells))
    found = []
    for cell in tqdm(wanted, desc="Cells", unit="cell"):
        path = _report_path(cell, paths)
        if not path.is_file():
            if others := _other_results(cell, paths):
                tqdm.write(
                    f"not used, as data, settings, encoders or code differ: {', '.join(others)}",
                    file=sys.stderr,
                )
            tqdm.write(path.stem, file=sys.stderr)
            _run_and_write(cell, paths)
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def _other_results(cell: Cell, paths: Paths) -> list[str]:
    """Returns the files of the same cell under other conditions."""
    own = json.loads(json.dumps(asdict(cell)))
    return [
        path.name
        for path in sorted(paths.out.glob(f"{_prefix(cell)}-*.json"))
        if json.loads(path.read_text(encoding="utf-8")).get("cell") == own
    ]


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
    path = _report_path(cell, paths)
    with locked(lock_path(path), f"cell {path}"):
        if keep or not path.is_file():  # another process may have finished it in the meantime
            report = {**run_cell(cell, paths, keep), "depends_on": dependencies(cell, paths)}
            write_json(path, report)


def _report_path(cell: Cell, paths: Paths) -> Path:
    return paths.out / f"{name_of(cell, paths)}.json"


def _run_folder(cell: Cell, paths: Paths) -> Path:
    return paths.out / "runs" / name_of(cell, paths)


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
            "overwrite_output_dir": True,  # of an interrupted cell
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
