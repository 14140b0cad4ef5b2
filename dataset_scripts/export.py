"""Exports splits as Parquet with a dataset card, and loads exported splits.

An export contains one folder for each configuration (e.g. each seed) with the Parquet files of the
three splits, including images, and `gzs.json` with the groups of labels, their texts and the
report. `datasets.load_dataset(folder_or_repo, config)` loads the splits without this package;
`load_exported` loads the whole `GZSData`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets.table import embed_table_storage
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from pyarrow import parquet

from .builder import OUTCOME_FILE, GZSData, make_features
from .dataset_card import make_card
from .files import load_json, write_json
from .parquet_files import check_parquet
from .protocol import SPLITS

# The Hub's viewer loads a row group at a time, and images make rows large.
_GROUP_ROWS = 100
_SHARD_BYTES = 400 * 1024 * 1024
_CONFIG_NAME = re.compile(r"\w[\w.-]*")


def export(
    data: GZSData | Mapping[str, GZSData],
    folder: str | Path,
    *,
    title: str | None = None,
    license: str = "unknown",
    overwrite: bool = False,
) -> Path:
    """Writes splits as Parquet with a dataset card.

    The folder is created only once its content is complete.

    Args:
        data: The splits by name of their configuration; splits without a name become "default".
        folder: The folder to create.
        title: Title of the card; None derives it from the source.
        license: Licence identifier of the Hub, e.g. "cc-by-4.0". It is determined by the authors of
            the texts and images, not by the exporter.
        overwrite: Whether to replace an existing folder.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is False.
        ValueError: If there is no configuration, or the name of one is invalid.
    """
    configs = {"default": data} if isinstance(data, GZSData) else dict(data)
    if not configs:
        raise ValueError("data: expected at least one configuration, got none")
    for name in configs:
        if not _CONFIG_NAME.fullmatch(name):
            raise ValueError(
                f"configuration {name!r}: expected letters, digits, dots, dashes and underscores"
            )
    given = Path(folder).expanduser()
    target = given.resolve()
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target}: exists already; expected a new folder, or the option to overwrite"
        )
    if given.is_symlink() or target.exists():
        _check_export(given, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as part:
        new = Path(part) / target.name
        sizes: dict[str, dict[str, int]] = {}
        for name, gzs in configs.items():
            (new / name).mkdir(parents=True)
            sizes[name] = {
                split: _write_split(gzs.splits[split], new / name, split, f"Writing {name}/{split}")
                for split in SPLITS
            }
            write_json(new / name, OUTCOME_FILE, gzs.outcome())
        card = make_card(configs, title, license, sizes)
        (new / "README.md").write_text(card, encoding="utf-8")
        if target.exists():
            target.replace(Path(part) / "replaced")  # deleted with the temporary folder
        new.replace(target)
    return target


def _check_export(given: Path, target: Path) -> None:
    """Rejects the replacement of anything other than a folder that an export wrote.

    Raises:
        FileExistsError: Naming the folder and what it contains.
    """
    if given.is_symlink() or not target.is_dir():
        raise FileExistsError(f"{given}: expected a folder, got a link or a file")
    if target == Path.home() or Path.cwd().is_relative_to(target):
        raise FileExistsError(f"{target}: the home or working folder is not replaced")
    files = [path for path in target.rglob("*") if not path.is_dir() or path.is_symlink()]
    foreign = [
        path
        for path in files
        if path != target / "README.md"
        and not (
            path.parent.parent == target
            and (path.name == OUTCOME_FILE or path.suffix == ".parquet")
            and not path.is_symlink()
        )
    ]
    if foreign or not any(path.name == OUTCOME_FILE for path in files):
        found = f"also {foreign[0].relative_to(target)}" if foreign else "no export"
        raise FileExistsError(
            f"{target}: contains {found}; only a folder that an export wrote is replaced"
        )


def _write_split(rows: datasets.Dataset, folder: Path, split: str, what: str) -> int:
    """Writes one split, including images, into as few files as the size limit allows.

    Returns:
        Its size in memory, in bytes.
    """
    schema = rows.features.arrow_schema
    paths: list[Path] = []
    total = 0
    writer: parquet.ParquetWriter | None = None
    try:
        for table in datasets.utils.tqdm(
            _batches(rows), total=-(-len(rows) // _GROUP_ROWS), desc=what, unit=" groups"
        ):
            if writer is None:
                paths.append(folder / f"{split}-{len(paths):05d}.part")
                writer = parquet.ParquetWriter(paths[-1], schema)
                written = 0
            writer.write_table(table)
            written += table.nbytes
            total += table.nbytes
            if written > _SHARD_BYTES:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    for number, path in enumerate(paths):
        path.rename(folder / f"{split}-{number:05d}-of-{len(paths):05d}.parquet")
    return total


def _batches(rows: datasets.Dataset) -> Iterator[pa.Table]:
    arrow = rows.with_format("arrow")
    for start in range(0, len(arrow), _GROUP_ROWS):
        # Only the file name of an image's path is kept, so local folders are not disclosed.
        yield embed_table_storage(arrow[start : start + _GROUP_ROWS], remote_files=False)


def push_export(
    folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes an exported folder to the Hub in a single commit.

    The commit also deletes the Parquet files of an earlier push of the same configurations, which
    would otherwise be loaded together with the new ones.

    Args:
        folder: The folder.
        repo_id: Repository of the data set, "user/name"; created if it does not exist.
        private: Whether a new repository is private.
        token: Token of the Hub; None takes the stored one.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: If the folder was not written by `export`.
    """
    configs = sorted(path.parent.name for path in Path(folder).glob(f"*/{OUTCOME_FILE}"))
    if not configs or not (Path(folder) / "README.md").is_file():
        raise FileNotFoundError(
            f"{folder}: expected a folder written by export, with its README.md"
        )
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=str(folder),
        # Files that are uploaded again are not deleted.
        delete_patterns=[f"{name}/{split}-*.parquet" for name in configs for split in SPLITS],
        commit_message=f"Generalized zero-shot splits: {', '.join(configs)}",
    )
    return commit.commit_url


def load_exported(
    path: str,
    config: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> GZSData:
    """Loads exported splits from a folder or from the Hub.

    Args:
        path: The folder, or a repository "user/name".
        config: The configuration; optional if there is only one.
        revision: Commit, tag or branch of the repository.
        cache_dir: Folder in which built data are cached; None takes the default of `datasets`.
        token: Token of the Hub; None takes the stored one.

    Returns:
        The splits, the partition, the label texts and the report, as they were exported.

    Raises:
        ValueError: If the configuration is unknown or ambiguous, the files are inconsistent (such
            as another number of rows than in the report), or an image is a path or URL instead of
            its content.
        FileNotFoundError: If the folder or repository does not exist or was not written by
            `export`.
    """
    local = Path(path).expanduser()
    where = str(local.resolve()) if local.is_dir() else path
    hub: dict[str, Any] = {} if local.is_dir() else {"revision": revision, "token": token}
    known = datasets.get_dataset_config_names(where, **hub)
    if config is None and len(known) == 1:
        config = known[0]
    if config is None or config not in known:
        raise ValueError(f"{path}: expected one of the configurations {known}, got {config!r}")
    outcome = _outcome(where, config, hub)
    _check_files(where, config, cache_dir, hub)
    # The numbers of rows are checked below, with an error that says what was expected.
    splits = datasets.load_dataset(
        where, config, cache_dir=cache_dir, verification_mode="no_checks", **hub
    )
    try:
        data = GZSData.of(splits, outcome)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}/{config}/{OUTCOME_FILE}: {type(error).__name__}: {error}"
        ) from None
    expected = make_features(data.partition)
    if set(splits) != set(SPLITS) or any(rows.features != expected for rows in splits.values()):
        raise ValueError(
            f"{path}, {config}: the columns or splits do not match {OUTCOME_FILE}; expected "
            f"{list(SPLITS)}, each with {list(expected)} and the labels of the partition"
        )
    for split, rows in splits.items():
        reported = sum(data.report.splits[split].values())
        if len(rows) != reported:
            raise ValueError(
                f"{path}, {config}/{split}: got {len(rows)} rows, expected {reported} as reported "
                f"in {OUTCOME_FILE}; check for Parquet files of another export"
            )
        _check_images(rows, f"{path}, {config}/{split}")
    return data


def _outcome(where: str, config: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a configuration's `gzs.json`."""
    folder = where
    if not Path(where).is_dir():
        try:
            file = hf_hub_download(where, f"{config}/{OUTCOME_FILE}", repo_type="dataset", **hub)
        except EntryNotFoundError:
            raise FileNotFoundError(
                f"{where}: contains no {config}/{OUTCOME_FILE}; expected data written by export"
            ) from None
        folder = str(Path(file).parents[1])
    path = Path(folder) / config / OUTCOME_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected data written by export")
    try:
        outcome: dict[str, Any] = load_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got: {error}") from None
    return outcome


def _check_files(where: str, config: str, cache_dir: str | None, hub: Mapping[str, Any]) -> None:
    """Rejects files that are not Parquet, such as archives, or expand out of proportion."""
    builder = datasets.load_dataset_builder(where, config, cache_dir=cache_dir, **hub)
    folder = None if cache_dir is None else str(Path(cache_dir) / "downloads")
    # Files of the Hub are found again by load_dataset.
    download = datasets.DownloadConfig(cache_dir=folder, token=hub.get("token"))
    manager = datasets.DownloadManager(download_config=download)
    for name in (
        str(file) for files in (builder.config.data_files or {}).values() for file in files
    ):
        if not name.endswith(".parquet"):
            raise ValueError(f"{where}, {config}: expected Parquet files only, got {name}")
        path = Path(manager.download(name))
        try:
            check_parquet(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: expected a Parquet file, got: {error}") from None


def _check_images(rows: datasets.Dataset, place: str) -> None:
    """Rejects images that are only paths, which `datasets` would open or fetch on access."""
    arrow = rows.with_format("arrow").select_columns("image")
    for start in range(0, len(arrow), _GROUP_ROWS):
        column = arrow[start : start + _GROUP_ROWS].column("image").combine_chunks()
        bare = pc.and_(pc.is_valid(column), pc.is_null(pc.struct_field(column, "bytes")))
        if pc.any(bare).as_py():
            number = start + pc.index(bare, True).as_py()
            raise ValueError(
                f"{place}, row {number + 1}, field 'image': expected the content, got a path"
            )
