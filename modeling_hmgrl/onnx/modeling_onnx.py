"""Inference of an exported model with onnxruntime, as the model of the pipeline.

See :func:`export.export_onnx` for the export. The model itself is not created; all weights are in
the graphs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from packaging.version import Version
from torch import Tensor
from transformers.utils import ModelOutput

from ..configuration_hmgrl import HMGRLConfig
from ..hub import is_hub_name
from ..pipeline_hmgrl import ZeroShotTypingPipeline
from ..processing_hmgrl import HMGRLProcessor
from .graph_checks import check_graphs, check_output

MANIFEST = "onnx.json"
"""File that describes the graphs of a folder."""

FORMAT_VERSION = 1
"""Version of the names, inputs and outputs of the graphs."""

TEXT_ENCODER, IMAGE_ENCODER = "text_encoder", "image_encoder"

GRAPHS: dict[str, tuple[tuple[str, ...], str]] = {
    TEXT_ENCODER: (("input_ids", "attention_mask"), "states"),
    IMAGE_ENCODER: (("pixel_values",), "states"),
    "samples": (
        ("states", "span_positions", "attention_mask", "image_states", "image_mask"),
        "samples",
    ),
    "label_encodings": (("states", "attention_mask", "input_ids"), "encodings"),
    "label_vectors": (("encodings",), "vectors"),
    "scores": (("samples", "vectors"), "logits"),
}
"""Inputs and output of each graph, by the name of its file without the suffix ``.onnx``."""

LABEL_CHUNK = 256
"""Number of labels encoded at once and, for geodesic scores, scored at once."""

# The first version that rejects weights outside the folder of the graph.
_LEAST_ONNXRUNTIME = "1.24"

_DTYPES = {"tensor(int64)": torch.long, "tensor(float)": torch.float, "tensor(bool)": torch.bool}


def graph_inputs(name: str, images: bool, parts: bool) -> tuple[str, ...]:
    """Inputs of a graph, for a model with or without images and labels by parts."""
    names = GRAPHS[name][0]
    if name == "label_encodings" and not parts:  # token ids say where a part ends
        names = names[:-1]
    return names if images else tuple(one for one in names if not one.startswith("image_"))


def graph_names(images: bool) -> list[str]:
    """Names of the graphs of a model with or without images."""
    return [name for name in GRAPHS if images or name != IMAGE_ENCODER]


@dataclass
class EncodedSamples(ModelOutput):
    """Output of :meth:`ONNXZeroShotTyping.encode`.

    Attributes:
        samples: Sample vectors, which are compared with label vectors, shape (B, d_p), or
            (B, d_p + 1) for geodesic scores.
    """

    samples: Tensor = None  # type: ignore[assignment]


class ONNXZeroShotTyping:
    """An exported model with the interface that :class:`ZeroShotTypingPipeline` requires.

    :meth:`pipeline` creates a pipeline with the same predictions as that of the original model.
    Inputs and outputs are on the CPU; the execution providers determine where the graphs run.

    Args:
        folder: Folder that :func:`export.export_onnx` wrote.
        providers: Execution providers of onnxruntime in order of preference, each a name or
            (name, options); by default the CPU alone.
        threads: Number of threads of one operation; by default the number of cores.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is invalid.
        ImportError: If onnxruntime is missing, or too old for files from untrusted sources.

    Examples:
        >>> model = ONNXZeroShotTyping("exported")  # written by the example of export_onnx
        >>> pipe = model.pipeline()
        >>> prediction = pipe("the fox", mention="fox", labels=["animal", "tool"])
        >>> len(prediction["scores"]), round(sum(prediction["probabilities"]), 3)
        (2, 1.0)
    """

    device = torch.device("cpu")

    def __init__(
        self,
        folder: str | Path,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
        threads: int | None = None,
    ) -> None:
        runtime = _onnxruntime()
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads: got {threads!r}, expected 1 or more, or None")
        names = {one if isinstance(one, str) else one[0] for one in providers}
        if unknown := names - set(runtime.get_available_providers()):
            raise ValueError(
                f"providers: got {sorted(unknown)}, expected some of this onnxruntime's, "
                f"{runtime.get_available_providers()}"
            )
        self.config: Any = HMGRLConfig.from_pretrained(self.folder, local_files_only=True)
        self._images = self.config.vision_config is not None
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # errors are raised instead
        # Graphs run in turn, each with its own threads, so that idle threads must not spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = {
            name: _session(
                runtime,
                self._file(name),
                options,
                providers,
                graph_inputs(name, self._images, self.config.label_parts),
            )
            for name in graph_names(self._images)
        }
        self._weights_key: str | None = None
        shape = self._sessions[IMAGE_ENCODER].get_inputs()[0].shape if self._images else None
        check_graphs(self, shape and [size if isinstance(size, int) else 1 for size in shape])

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        subfolder: str = "",
        providers: Sequence[Any] = ("CPUExecutionProvider",),
        threads: int | None = None,
        **hub_options: Any,
    ) -> "ONNXZeroShotTyping":
        """Loads an exported model from a folder or the Hub.

        Only graphs and JSON files of a repository are downloaded. No code is executed other than
        the operators of the graphs, which read no file outside the folder.

        Args:
            name_or_path: A folder, or a name on the Hub.
            subfolder: Subfolder that contains the graphs.
            providers: As for the class.
            threads: As for the class.
            **hub_options: Options of ``huggingface_hub.snapshot_download``, such as ``revision``,
                ``token``, ``cache_dir``, ``local_files_only``.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such folder, or a file is missing.
            ValueError: If a file is invalid.
            ImportError: If onnxruntime is missing, or too old for files from untrusted sources.
        """
        folder = Path(name_or_path)
        if not folder.is_dir():
            if not is_hub_name(str(name_or_path)):
                raise FileNotFoundError(
                    f"{name_or_path}: no such folder, expected one, or a name on the Hub"
                )
            inside = f"{subfolder.strip('/')}/" if subfolder else ""
            names = ["*.json", *(f"{name}.onnx" for name in GRAPHS)]
            fetched = snapshot_download(
                str(name_or_path),
                allow_patterns=[f"{inside}{name}" for name in names],
                ignore_patterns=[f"{inside}*/*"],
                **hub_options,
            )
            folder = Path(fetched)
        return cls(folder / subfolder, providers, threads)

    def pipeline(self, **options: Any) -> ZeroShotTypingPipeline:
        """Creates the pipeline, with the processor from the folder of the graphs.

        Args:
            **options: As for :class:`ZeroShotTypingPipeline`.
        """
        processor = HMGRLProcessor.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
        return ZeroShotTypingPipeline(
            model=self, processor=processor, **{"device": self.device, **options}
        )

    def to(self, *_: Any, **__: Any) -> "ONNXZeroShotTyping":
        """Does nothing, as the execution providers determine the device."""
        return self

    def eval(self) -> "ONNXZeroShotTyping":
        """Does nothing, as the graphs were exported in evaluation mode."""
        return self

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encodes images.

        Args:
            pixel_values: Images of the processor's size, shape (B, 3, height, width).

        Returns:
            States of all tokens of the image encoder, shape (B, m, d').

        Raises:
            ValueError: If the model has no image encoder.
        """
        if not self._images:
            raise ValueError(
                "pixel_values: this model has no image encoder (vision_config is None)"
            )
        return self._run(IMAGE_ENCODER, pixel_values=pixel_values)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> EncodedSamples:
        """Encodes samples.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 for tokens and 0 for padding, shape (B, n); all 1 if None.
            span_positions: Token positions of the opening and closing marker of each mention,
                shape (B, spans, 2).
            image_features: Output of :meth:`encode_image`, shape (B, m, d'), or None.
            image_mask: Mask of the samples with an image, shape (B,); all if None.

        Returns:
            The samples, for :meth:`score`.

        Raises:
            ValueError: If the number of spans is not that of the task, or images are given to a
                text-only model.
        """
        spans, batch = self.config.num_spans, len(input_ids)
        if span_positions is None or span_positions.shape[1:] != (spans, 2):
            got = None if span_positions is None else tuple(span_positions.shape)
            raise ValueError(
                f"span_positions: got shape {got}, expected (B, {spans}, 2) for task "
                f"{self.config.task!r}"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"span_positions": span_positions, "attention_mask": attention_mask}
        if self._images:
            if image_features is None:  # the graph accepts images without tokens
                image_features = torch.zeros(batch, 0, self.config.vision_config.hidden_size)
            if image_mask is None:
                image_mask = torch.ones(batch, dtype=torch.bool)
            inputs |= {"image_states": image_features, "image_mask": image_mask}
        elif image_features is not None:
            raise ValueError(
                "image_features: this model has no image encoder (vision_config is None)"
            )
        states = self._run(TEXT_ENCODER, input_ids=input_ids, attention_mask=attention_mask)
        return EncodedSamples(samples=self._run("samples", states=states, **inputs))

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes labels as the mean of their token states, or by parts.

        Args:
            input_ids: Token ids, shape (K, L).
            attention_mask: 1 for tokens and 0 for padding, shape (K, L); all 1 if None.

        Returns:
            Label encodings, shape (K, d).

        Raises:
            ValueError: If there are no labels.
        """
        if not len(input_ids):
            raise ValueError("candidate_input_ids: got no labels, expected at least one")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        parts = []
        for ids, mask in zip(
            input_ids.split(LABEL_CHUNK), attention_mask.split(LABEL_CHUNK), strict=True
        ):
            states = self._run(TEXT_ENCODER, input_ids=ids, attention_mask=mask)
            inputs = {"states": states, "attention_mask": mask}
            if self.config.label_parts:
                inputs["input_ids"] = ids
            parts.append(self._run("label_encodings", **inputs))
        return torch.cat(parts)

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Computes the part of the scores that depends only on the labels.

        Args:
            candidate_embeddings: Output of :meth:`encode_labels`, shape (K, d).

        Returns:
            Label vectors for :meth:`score`, shape (K, d_p), or (K, d_p + 1) for geodesic scores.
        """
        return self._run("label_vectors", encodings=candidate_embeddings)

    def score(self, encoded: EncodedSamples, label_vectors: Tensor) -> Tensor:
        """Scores encoded samples against prepared labels.

        Args:
            encoded: Output of :meth:`encode`.
            label_vectors: Output of :meth:`prepare_labels`, shape (K, d_p).

        Returns:
            Logits, shape (B, K).
        """
        chunk = LABEL_CHUNK if self.config.score_function == "geodesic" else len(label_vectors)
        parts = [
            self._run("scores", samples=encoded.samples, vectors=part)
            for part in label_vectors.split(chunk)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def weights_key(self, preprocessing: Mapping[str, Any]) -> str:
        """Hash of weights and preprocessing that determine label vectors, for :class:`LabelCache`.

        Args:
            preprocessing: JSON-serialisable description of the preprocessing.
        """
        if self._weights_key is None:
            digest = hashlib.sha256()
            for name in (TEXT_ENCODER, "label_encodings", "label_vectors"):
                with self._file(name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            self._weights_key = digest.hexdigest()
        described = json.dumps([preprocessing, self._weights_key], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:32]

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"

    def _run(self, name: str, **tensors: Tensor) -> Tensor:
        session = self._sessions[name]
        feed = {
            one.name: tensors[one.name].detach().to("cpu", _DTYPES[one.type]).contiguous().numpy()
            for one in session.get_inputs()
        }
        [values] = session.run(None, feed)
        check_output(self._file(name), GRAPHS[name][1], values)
        return torch.from_numpy(values)


def _onnxruntime() -> Any:
    """Imports onnxruntime, an optional dependency, and checks its version."""
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            "onnxruntime: not installed, required to run an exported model; "
            'pip install "hmgrl[onnx]"'
        ) from error
    if Version(runtime.__version__) < Version(_LEAST_ONNXRUNTIME):
        raise ImportError(
            f"onnxruntime: got {runtime.__version__}, expected {_LEAST_ONNXRUNTIME} or later, as "
            "earlier versions read any file that a graph names"
        )
    return runtime


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of an export.

    Args:
        folder: Folder of the export.

    Returns:
        The content of its :data:`MANIFEST`.

    Raises:
        FileNotFoundError: If the folder has no manifest.
        ValueError: If it is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: holds no {MANIFEST}, expected a folder that export_onnx wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error}), expected JSON") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}, field 'format_version': got {version!r}, expected {FORMAT_VERSION}; export "
            "the model again"
        )
    return content


def _session(runtime: Any, file: Path, options: Any, providers: Any, inputs: Any) -> Any:
    """Loads a graph and checks its inputs and its output."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected all that export_onnx wrote")
    try:
        session = runtime.InferenceSession(file, options, providers=list(providers))
    # onnxruntime's errors have no common base class.
    except Exception as error:
        raise ValueError(f"{file}: onnxruntime cannot use it ({str(error)[:500]})") from error
    output = GRAPHS[file.stem][1]
    got = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    if got != (list(inputs), [output]) or any(
        one.type not in _DTYPES for one in session.get_inputs()
    ):
        raise ValueError(
            f"{file}: has inputs {got[0]} and outputs {got[1]}, expected {list(inputs)} and "
            f"{[output]}"
        )
    return session


__all__ = ["EncodedSamples", "ONNXZeroShotTyping"]
