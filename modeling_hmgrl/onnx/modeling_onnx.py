"""Runs an exported model with onnxruntime, in the place of the model in the pipeline.

See :func:`onnx_export.export_onnx` for what is exported. Nothing of the model is built here, and no
weights are read but those in the graphs.
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

MANIFEST = "onnx.json"
"""File that says what a folder of graphs holds."""

FORMAT_VERSION = 1
"""Version of the graphs' names, inputs and outputs."""

TEXT_ENCODER, IMAGE_ENCODER = "text_encoder", "image_encoder"

GRAPHS: dict[str, tuple[tuple[str, ...], str]] = {
    TEXT_ENCODER: (("input_ids", "attention_mask"), "states"),
    IMAGE_ENCODER: (("pixel_values",), "states"),
    "samples": (
        ("states", "span_positions", "attention_mask", "image_states", "image_mask"),
        "samples",
    ),
    "label_encodings": (("states", "attention_mask"), "encodings"),
    "label_vectors": (("encodings",), "vectors"),
    "scores": (("samples", "vectors"), "logits"),
}
"""Inputs and output of each graph, which is the file of that name with the ending ``.onnx``."""

LABEL_CHUNK = 256
"""Labels encoded at once; for geodesic scores also the labels that the graph scores at once."""

# The first that refuses weights outside of the graph's folder, and addresses in their place.
_LEAST_ONNXRUNTIME = "1.24"

_DTYPES = {"tensor(int64)": torch.long, "tensor(float)": torch.float, "tensor(bool)": torch.bool}


def graph_inputs(name: str, images: bool) -> tuple[str, ...]:
    """Inputs of a graph, of a model with or without pictures."""
    names = GRAPHS[name][0]
    return names if images else tuple(one for one in names if not one.startswith("image_"))


def graph_names(images: bool) -> list[str]:
    """Graphs of a model with or without pictures."""
    return [name for name in GRAPHS if images or name != IMAGE_ENCODER]


@dataclass
class EncodedSamples(ModelOutput):
    """Output of :meth:`ONNXZeroShotTyping.encode`.

    Attributes:
        samples: Samples as they are compared with label vectors, shape (B, d_p), or (B, d_p + 1)
            for geodesic scores.
    """

    samples: Tensor = None  # type: ignore[assignment]


class ONNXZeroShotTyping:
    """An exported model: what :class:`ZeroShotTypingPipeline` asks of a model, by onnxruntime.

    ``pipe = ONNXZeroShotTyping.from_pretrained("folder").pipeline()`` predicts as the pipeline of
    the model does. Tensors go in and come out on the CPU; where the graphs run is the business of
    the execution providers.

    Args:
        folder: Folder that :func:`onnx_export.export_onnx` wrote.
        providers: Execution providers of onnxruntime, in order of preference, as their names or
            (name, options); by default the CPU alone.
        threads: Threads of one operation; by default as many as there are cores.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not what was expected.
        ImportError: If onnxruntime is missing, or too old to be safe with files of others.
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
        options.log_severity_level = 4  # its errors are raised
        # Graphs run in turn, each with threads of its own: those that wait must leave the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = {
            name: _session(runtime, self._file(name), options, providers, self._images)
            for name in graph_names(self._images)
        }
        self._weights_key: str | None = None

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

        Of a repository only graphs and JSON are fetched. Nothing in them is executed but the
        graphs' operators, which read no file outside of the folder.

        Args:
            name_or_path: A folder, or a name on the Hub.
            subfolder: Folder inside of it that holds the graphs.
            providers: As of the class.
            threads: As of the class.
            **hub_options: Options of ``huggingface_hub.snapshot_download``, such as ``revision``,
                ``token``, ``cache_dir``, ``local_files_only``.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such folder, or a file is missing.
            ValueError: If a file is not what was expected.
            ImportError: If onnxruntime is missing, or too old to be safe with files of others.
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
        """Makes the pipeline with the processor that lies beside the graphs.

        Args:
            **options: As of :class:`ZeroShotTypingPipeline`.
        """
        processor = HMGRLProcessor.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
        return ZeroShotTypingPipeline(
            model=self, processor=processor, **{"device": self.device, **options}
        )

    def to(self, *_: Any, **__: Any) -> "ONNXZeroShotTyping":
        """Does nothing: where the graphs run was said when they were loaded."""
        return self

    def eval(self) -> "ONNXZeroShotTyping":
        """Does nothing: the graphs know evaluation alone."""
        return self

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encodes pictures.

        Args:
            pixel_values: Pictures, shape (B, 3, height, width), of the processor's size.

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
            attention_mask: 1 where there is a token, shape (B, n); everywhere if None.
            span_positions: Token positions of the opening and closing marker of each mention,
                shape (B, spans, 2).
            image_features: States as of :meth:`encode_image`, shape (B, m, d'), or None.
            image_mask: Samples that have a picture, shape (B,); all if None.

        Returns:
            The samples, for :meth:`score`.

        Raises:
            ValueError: If the spans are not as many as the task has, or the model is of text alone
                and there are pictures.
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
            if image_features is None:  # pictures of no tokens are texts alone
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
        """Encodes labels as the mean over their tokens' states.

        Args:
            input_ids: Token ids, shape (K, L).
            attention_mask: 1 where there is a token, shape (K, L); everywhere if None.

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
            parts.append(self._run("label_encodings", states=states, attention_mask=mask))
        return torch.cat(parts)

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Does all of scoring that depends on the labels alone.

        Args:
            candidate_embeddings: Shape (K, d), as of :meth:`encode_labels`.

        Returns:
            Label vectors for :meth:`score`, shape (K, d_p), or (K, d_p + 1) for geodesic scores.
        """
        return self._run("label_vectors", encodings=candidate_embeddings)

    def score(self, encoded: EncodedSamples, label_vectors: Tensor) -> Tensor:
        """Scores encoded samples against prepared labels.

        Args:
            encoded: Samples as of :meth:`encode`.
            label_vectors: Shape (K, d_p), as of :meth:`prepare_labels`.

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
        """Hash of all that label vectors depend on, for :class:`LabelCache`.

        Args:
            preprocessing: JSON-able description of the preprocessing.
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
        return torch.from_numpy(session.run(None, feed)[0])


def _onnxruntime() -> Any:
    """The library, which this package does without unless a model is run by it."""
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            "onnxruntime: not installed, expected it to run an exported model; "
            'pip install "hmgrl[onnx]"'
        ) from error
    if Version(runtime.__version__) < Version(_LEAST_ONNXRUNTIME):
        raise ImportError(
            f"onnxruntime: got {runtime.__version__}, expected {_LEAST_ONNXRUNTIME} or later, as "
            "those before read any file that a graph names"
        )
    return runtime


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads what a folder of graphs says of itself.

    Args:
        folder: The folder.

    Returns:
        The content of its :data:`MANIFEST`.

    Raises:
        FileNotFoundError: If there is none.
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


def _session(runtime: Any, file: Path, options: Any, providers: Any, images: bool) -> Any:
    """Opens a graph and checks that it takes and gives what its name says."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected all that export_onnx wrote")
    try:
        session = runtime.InferenceSession(file, options, providers=list(providers))
    # its errors share no class of their own
    except Exception as error:
        raise ValueError(f"{file}: onnxruntime cannot use it ({str(error)[:500]})") from error
    inputs, output = graph_inputs(file.stem, images), GRAPHS[file.stem][1]
    got = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    if got != (list(inputs), [output]) or any(
        one.type not in _DTYPES for one in session.get_inputs()
    ):
        raise ValueError(
            f"{file}: takes {got[0]} and gives {got[1]}, expected {list(inputs)} and {[output]}"
        )
    return session


__all__ = ["EncodedSamples", "ONNXZeroShotTyping"]
