"""Evaluation of models with the interface of HMGRLForZeroShotTyping, in one or more processes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import (
    ProjectConfiguration,
    parse_choice_from_env,
    send_to_device,
    set_seed,
)
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from ..label_parts import warn_of_unsplit_texts
from ..metrics.gzs_scores import evaluate_scores
from ..metrics.label_sets import LabelSets
from ..processing_hmgrl import HMGRLProcessor
from ..reports.run_report import describe_run
from .batching import Collator, by_length
from .precompute import prepare
from .training_arguments import HMGRLTrainingArguments

logger = logging.get_logger(__name__)


class HMGRLEvaluator:
    """Scores the splits of a generalized zero-shot data set and reports on them.

    Args:
        model: Model.
        processor: Processor.
        arguments: Arguments of the run.
        labels: Label sets.
        splits: Splits to evaluate by name ("train", "validation", "test"): records with text,
            spans, image and label (a ClassLabel).
        label_names: Names of the ClassLabel that all splits share.
        data_report: Description of the data in the report.
        method: Name of the method in the report.
    """

    def __init__(
        self,
        model: Any,
        processor: HMGRLProcessor,
        arguments: HMGRLTrainingArguments,
        labels: LabelSets,
        splits: Mapping[str, Any],
        label_names: Sequence[str],
        data_report: dict[str, Any] | None = None,
        method: str = "hmgrl",
    ) -> None:
        self.processor, self.labels = processor, labels
        self.method, self.data_report = method, data_report or {}
        self.output_dir = Path(arguments.output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        launched = parse_choice_from_env("ACCELERATE_MIXED_PRECISION", "no")
        self.accelerator = Accelerator(
            mixed_precision=arguments.mixed_precision or launched,
            gradient_accumulation_steps=arguments.gradient_accumulation_steps,
            log_with=None if arguments.tracker == "none" else arguments.tracker,
            project_config=ProjectConfiguration(
                str(self.output_dir), str(self.output_dir / "logs")
            ),
            # In a batch without images, the parameters of the image branch have no gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        # The precision in use, which is part of the report and must not change on resuming.
        self.arguments = replace(arguments, mixed_precision=self.accelerator.mixed_precision)
        set_seed(arguments.seed, device_specific=True)  # noise differs between processes
        self.model, self.model_class = model.to(self.accelerator.device), type(model)
        if arguments.gradient_checkpointing:
            # transformers renamed the method in version 5.23.
            name = "activation_checkpointing_enable"
            enable = getattr(self.model, name, self.model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
            for name in ("text_model", "vision_model"):
                encoder = getattr(self.model.encoders, name)
                if encoder is not None and not encoder.supports_gradient_checkpointing:
                    logger.warning(
                        f"gradient_checkpointing: {type(encoder).__name__} does not support it and "
                        "is computed as usual"
                    )
        self.label_names = list(label_names)
        self._check_labels(splits)
        self.prepared = prepare(self.model, processor, dict(splits), arguments, self.accelerator)
        self.use_images = self.prepared.use_images
        self.history: list[dict[str, Any]] = []
        self._reported_texts: set[str] = set()

    def _check_labels(self, splits: Mapping[str, Any]) -> None:
        for split, data in splits.items():
            present = {self.label_names[label] for label in set(data["label"])}
            if odd := present - set(self.labels.candidates(split)):
                raise ValueError(
                    f"{split}: has samples of {sorted(odd)}, expected labels among "
                    f"{self.labels.candidates(split)}"
                )

    @property
    def _shows_progress(self) -> bool:
        return self.arguments.progress and self.accelerator.is_main_process

    def _loader(self, split: str, batches: Any) -> DataLoader[Any]:
        """Loader of a split; :meth:`_on_device` moves its batches to the device."""
        names = self.labels.candidates(split)
        index = {self.label_names.index(name): column for column, name in enumerate(names)}
        collator = Collator(
            self.processor,
            index,
            self.prepared.images,
            self.prepared.texts,
            self.use_images,
            always_images=self.accelerator.num_processes > 1,
        )
        # A separate generator, as iterating must not change the random state of the run.
        return DataLoader(
            self.prepared.samples[split],
            batch_sampler=batches,
            collate_fn=collator,
            generator=torch.Generator(),
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _on_device(self, loader: DataLoader[Any]) -> Iterator[dict[str, torch.Tensor]]:
        for batch in loader:
            yield send_to_device(batch, self.accelerator.device, non_blocking=True)

    def _label_inputs(self, labels: Any, prefix: str = "candidate") -> dict[str, torch.Tensor]:
        if not labels:
            return {}
        texts = self.labels.texts_of(labels)
        if self.model.config.label_parts and self.accelerator.is_main_process:
            warn_of_unsplit_texts(texts, self._reported_texts)
        encoded = self.processor.encode_labels(texts, prefix)
        return {key: value.to(self.accelerator.device) for key, value in encoded.items()}

    @torch.no_grad()
    def scores(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores the samples of a split against its candidate labels, without calibration.

        Args:
            split: "train", "validation" or "test".

        Returns:
            Scores (N, K) in float32 and indices of the true labels (N,), in the order of the split.
        """
        self.model.eval()
        accelerator, samples = self.accelerator, self.prepared.samples[split]
        names = self.labels.candidates(split)
        with accelerator.autocast():
            inputs = self._label_inputs(names)
            labels = self.model.encode_labels(
                inputs["candidate_input_ids"], inputs["candidate_attention_mask"]
            )
        batches = by_length(
            samples.lengths,
            self.arguments.eval_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
        )
        found = torch.zeros(len(samples), len(names))
        loader = self._on_device(self._loader(split, batches))
        disable = not self._shows_progress
        bar = tqdm(desc=f"Scoring {split}", leave=False, disable=disable, total=len(batches))
        for rows, batch in zip(batches, loader, strict=True):
            batch.pop("labels")
            with accelerator.autocast():
                logits = self.model(**batch, candidate_embeddings=labels).logits
            rows_here = torch.tensor(rows, device=logits.device)
            logits, rows_here = accelerator.gather((logits.float(), rows_here))
            found[rows_here.cpu()] = logits.cpu()
            bar.update()
        bar.close()
        column = {self.label_names.index(name): index for index, name in enumerate(names)}
        return found.numpy(), np.array([column[label] for label in samples.labels])

    def evaluate(self, split: str) -> dict[str, Any]:
        """Evaluates a split with the gamma and the temperature of the config.

        Returns:
            Scores as returned by :func:`metrics.evaluate_scores`.
        """
        scores, truth = self.scores(split)
        names, mask = self.labels.candidates(split), self.labels.seen_mask(split)
        config = self.model.config
        gamma, temperature = config.calibration_gamma, config.probability_temperature
        return evaluate_scores(scores, truth, mask, gamma, names, temperature)

    def report(self, known: dict[str, Any] | None = None) -> dict[str, Any]:
        """Evaluates validation and test and describes the run.

        Args:
            known: Scores of splits that were already evaluated with these weights and this gamma.

        Returns:
            JSON-serialisable dict, the content of ``report.json``.
        """
        scores: dict[str, Any] = {
            split: (known or {}).get(split) or self.evaluate(split)
            for split in ("validation", "test")
            if split in self.prepared.samples
        }
        return describe_run(
            self.method,
            self.model.config,
            self.arguments,
            self.labels,
            scores,
            data=self.data_report,
            images_used=self.use_images,
            history=self.history,
            processes=self.accelerator.num_processes,
        )
