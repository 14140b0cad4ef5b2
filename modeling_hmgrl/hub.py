"""Export of a model to the Hub: the pipeline's code, and names without local paths."""

import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

TASK = "multimodal-zero-shot-typing"
"""Task name of the pipeline in transformers."""

CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_hmgrl.ZeroShotTypingPipeline", "pt": ["AutoModel"]}}
"""Field of ``config.json`` from which transformers loads the pipeline without this package."""

_PIPELINE_FILE = Path(__file__).with_name("pipeline_hmgrl.py")
_HUB_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")


def is_remote() -> bool:
    """Whether this code was loaded from a checkpoint instead of the installed package."""
    return __name__.split(".", 1)[0] == TRANSFORMERS_DYNAMIC_MODULE_NAME


def save_pipeline_code(folder: str | Path, source: Path = _PIPELINE_FILE) -> dict[str, Any]:
    """Copies the pipeline's module and the modules it imports to the folder of a model.

    A model that was loaded from the Hub without its pipeline is saved without it.

    Args:
        folder: Folder of the model, created if it does not exist.
        source: The pipeline's module; by default the file beside this one.

    Returns:
        The configuration's ``custom_pipelines``, empty if nothing was copied.
    """
    if not source.exists():
        return {}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in (source, *map(Path, get_relative_import_files(source))):
        shutil.copyfile(file, folder / file.name)
    return CUSTOM_PIPELINES


def is_hub_name(name: str | None) -> bool:
    """Whether an encoder's name is a repository name on the Hub and not a local folder."""
    return bool(name and _HUB_NAME.fullmatch(name)) and not Path(str(name)).exists()


def public_name(name: str) -> str:
    """Removes local paths from the name of an encoder.

    Args:
        name: A name on the Hub, or a folder.

    Returns:
        A name on the Hub unchanged; for a folder "./" and its last component, which is not a valid
        name on the Hub.
    """
    if not name or is_hub_name(name):
        return name
    return f"./{PurePosixPath(name.replace(chr(92), '/')).name}"


__all__ = [
    "CUSTOM_PIPELINES", "TASK", "is_hub_name", "is_remote", "public_name", "save_pipeline_code",
]  # fmt: skip
