"""Training, validation and test of a model that answers the contract of HMGRLForZeroShotTyping."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch.utils.data import DataLoader, RandomSampler
from tqdm.auto import tqdm

from .batching import Collator, LabelBalancedSampler
from .calibration import best_gamma
from .features import ImageFeatures, compute_features, image_key
from .labels import LabelSets
from .metrics import evaluate_scores
from .optimization import make_optimizer, make_schedule
from .processing_hmgrl import HMGRLProcessor
from .reporting import PARTS, command, versions, write_json
from .training_arguments import HMGRLTrainingArguments

REPORT_NAME = "report.json"


class HMGRLTrainer:
    """Trains a model on accelerate and reports calibrated generalized zero-shot scores.

    Each epoch is validated over the seen and the validation-unseen labels; gamma and the best
    checkpoint are chosen there and nowhere else. The best checkpoint lies in ``output_dir`` as soon
    as there is one, so that an interrupted run leaves a usable model.

    Args:
        model: Model.
        processor: Processor.
        arguments: Arguments of the run.
        labels: Label sets.
        train: Records with text, spans, image, label (a ClassLabel).
        validation: Records of seen and validation-unseen labels.
        test: Records of seen and test-unseen labels; None to leave the test out.
        data_report: What the report says about the data.
        method: Name of the method in the report.
    """

    def __init__(
        self,
        model: Any,
        processor: HMGRLProcessor,
        arguments: HMGRLTrainingArguments,
        labels: LabelSets,
        train: Any,
        validation: Any,
        test: Any = None,
        data_report: dict[str, Any] | None = None,
        method: str = "hmgrl",
    ) -> None:
        self.processor, self.arguments, self.labels = processor, arguments, labels
        self.method, self.data_report = method, data_report or {}
        self.output_dir = Path(arguments.output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            mixed_precision=arguments.mixed_precision,
            gradient_accumulation_steps=arguments.gradient_accumulation_steps,
            log_with=None if arguments.tracker == "none" else arguments.tracker,
            project_config=ProjectConfiguration(
                str(self.output_dir), str(self.output_dir / "logs")
            ),
        )
        set_seed(arguments.seed)
        self.model = model.to(self.accelerator.device)
        if arguments.gradient_checkpointing:
            # transformers renamed the method in 5.23
            name = "activation_checkpointing_enable"
            enable = getattr(self.model, name, self.model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        self.use_images = processor.use_images and model.config.vision_config is not None
        self.splits = {"train": train, "validation": validation, "test": test}
        self.splits = {name: data for name, data in self.splits.items() if data is not None}
        self.label_names: list[str] = train.features["label"].names
        self.features: ImageFeatures | None = None
        self._prepare_images()
        self.history: list[dict[str, Any]] = []
        self._check_labels()

    def _check_labels(self) -> None:
        for split, data in self.splits.items():
            present = {self.label_names[label] for label in set(data["label"])}
            if odd := present - set(self.labels.candidates(split)):
                raise ValueError(
                    f"{split}: has samples of {sorted(odd)}, expected labels among "
                    f"{self.labels.candidates(split)}"
                )

    def _prepare_images(self) -> None:
        """Encodes all distinct pictures once if the image encoder is frozen.

        Otherwise pictures stay undecoded in the records and are opened batch by batch; without any
        picture their column goes, and with it the visual half of the model's work.
        """
        from datasets import Image  # noqa: PLC0415 - only to read pictures as bytes

        splits = {
            name: data.cast_column("image", Image(decode=False))
            for name, data in self.splits.items()
        }
        self.use_images = self.use_images and any(
            image is not None for data in splits.values() for image in data["image"]
        )
        if self.use_images and not self.model.config.freeze_vision:
            self.splits = splits
            return
        if self.use_images:
            images: dict[str, dict[str, Any]] = {}
            for name, data in splits.items():
                keys: list[str | None] = []
                for image in data["image"]:
                    keys.append(None if image is None else image_key(image))
                    if image is not None:
                        images[str(keys[-1])] = image
                splits[name] = data.add_column("image_key", keys)
            with self.accelerator.main_process_first():
                self.features = compute_features(
                    getattr(self.model, self.model.base_model_prefix),
                    self.processor,
                    images,
                    self.arguments.feature_dir,
                    self.arguments.eval_batch_size,
                    self._shows_progress,
                )
        self.splits = {name: data.remove_columns("image") for name, data in splits.items()}

    @property
    def _shows_progress(self) -> bool:
        return self.arguments.progress and self.accelerator.is_main_process

    def _loader(self, split: str, training: bool = False) -> Any:
        """Batches of a split, prepared for the process."""
        data = self.splits[split]
        names = self.labels.candidates(split)
        index = {self.label_names.index(name): place for place, name in enumerate(names)}
        collator = Collator(self.processor, index, self.features, self.use_images)
        sampler: Any = None
        if training and self.arguments.balanced:
            sampler = LabelBalancedSampler(data["label"], self.arguments.seed)
        elif training:
            generator = torch.Generator().manual_seed(self.arguments.seed)
            sampler = RandomSampler(data, generator=generator)
        size = self.arguments.batch_size if training else self.arguments.eval_batch_size
        loader = DataLoader(data, batch_size=size, sampler=sampler, collate_fn=collator)
        return self.accelerator.prepare_data_loader(loader)

    def _label_inputs(self, labels: Any, name: str = "label") -> dict[str, torch.Tensor]:
        if not labels:
            return {}
        encoded = self.processor.encode_labels(self.labels.texts_of(labels), name)
        return {key: value.to(self.accelerator.device) for key, value in encoded.items()}

    def train(self, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Trains, keeps the best checkpoint in ``output_dir``, tests it, writes the report.

        Args:
            extra: What the report holds beside, such as the scores of references.

        Returns:
            The report.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        arguments, accelerator = self.arguments, self.accelerator
        loader = self._loader("train", training=True)
        per_epoch = math.ceil(len(loader) / arguments.gradient_accumulation_steps)
        total = arguments.max_steps or arguments.epochs * per_epoch
        optimizer = make_optimizer(self.model, arguments)
        # accelerate steps a schedule once for each process
        schedule = make_schedule(optimizer, arguments, total * accelerator.num_processes)
        model, optimizer, schedule = accelerator.prepare(self.model, optimizer, schedule)
        if arguments.tracker != "none":
            accelerator.init_trackers("training")
        constant = {
            **self._label_inputs(self.labels.seen),
            **self._label_inputs(self.labels.generator, "generator_label"),
        }
        self._describe_in_config()
        step, epoch, waited = 0, 0, 0
        best: dict[str, Any] | None = None
        bar = tqdm(total=total, desc="Training", unit="step", disable=not self._shows_progress)
        while step < total and (not arguments.patience or waited < arguments.patience):
            model.train()
            loader.set_epoch(epoch)
            for batch in loader:
                with accelerator.accumulate(model):
                    with accelerator.autocast():
                        output = model(**batch, **constant)
                    accelerator.backward(output.loss)
                    if accelerator.sync_gradients and arguments.max_grad_norm:
                        accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                if not accelerator.sync_gradients:
                    continue
                step += 1
                bar.update()
                if step % arguments.log_steps == 0 or step == total:
                    self._log_step(output, schedule, step, bar)
                if step == total:
                    break
            epoch += 1
            scores = self._validate(epoch, step)
            if self._shows_progress:
                bar.write(self._epoch_line(epoch, step, scores))
            waited += 1
            if best is None or self._better(scores, best):
                best, waited = scores, 0
                self.save(self.output_dir)
        bar.close()
        accelerator.wait_for_everyone()
        self.load_best()
        report = self.report({"validation": best}) | (extra or {})
        if accelerator.is_main_process:
            write_json(self.output_dir / REPORT_NAME, report)
        accelerator.end_training()
        return report

    def _describe_in_config(self) -> None:
        """Writes into the config what a loaded model must know about its labels."""
        config = self.model.config
        config.seen_labels = list(self.labels.seen)
        config.generator_labels = list(self.labels.generator)
        config.label_texts = dict(self.labels.texts) or None

    def _log_step(self, output: Any, schedule: Any, step: int, bar: Any) -> None:
        terms = {name: value.detach().item() for name, value in output.loss_terms.items()}
        loss = output.loss.detach().item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss}; its terms are {terms}")
        shown = {"loss": f"{loss:.3f}"} | {name[:5]: f"{v:.3f}" for name, v in terms.items()}
        bar.set_postfix(shown, refresh=False)
        rates = schedule.get_last_lr()
        logged = {"loss": loss, "learning_rate": min(rates), "head_learning_rate": max(rates)}
        logged |= {f"loss/{name}": value for name, value in terms.items()}
        self.accelerator.log({f"train/{name}": value for name, value in logged.items()}, step=step)

    def _validate(self, epoch: int, step: int) -> dict[str, Any]:
        """Chooses gamma on validation, sets it in the config and returns the scores."""
        scores, truth = self.scores("validation")
        mask = self.labels.seen_mask("validation")
        gamma = float(best_gamma(scores, truth, mask, metric=self.arguments.metric).gamma)
        self.model.config.calibration_gamma = gamma
        result = evaluate_scores(scores, truth, mask, gamma, self.labels.candidates("validation"))
        summary = {part: result[part] for part in PARTS}
        self.history.append({"epoch": epoch, "step": step, "gamma": gamma, **summary})
        flat = {f"validation/{p}_{k}": v for p, part in summary.items() for k, v in part.items()}
        flat |= {"validation/ausuc": result["ausuc"], "validation/gamma": gamma}
        self.accelerator.log(flat, step=step)
        return result

    def _better(self, scores: dict[str, Any], best: dict[str, Any]) -> bool:
        metric = self.arguments.metric
        return scores["overall"][metric] > best["overall"][metric]

    def _epoch_line(self, epoch: int, step: int, scores: dict[str, Any]) -> str:
        parts = [
            f"{name} {100 * scores[name]['accuracy']:.1f}/{100 * scores[name]['f1']:.1f}"
            for name in PARTS
        ]
        return (
            f"epoch {epoch}, step {step}: validation accuracy/F1 {', '.join(parts)}, "
            f"AUSUC {100 * scores['ausuc']:.1f}, gamma {scores['gamma']:.3f}"
        )

    @torch.no_grad()
    def scores(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores a split over its candidate labels, without calibration.

        Args:
            split: "train", "validation" or "test".

        Returns:
            Scores (N, K) in float32 and indices of the true labels (N,), in the order of the split.
        """
        self.model.eval()
        accelerator = self.accelerator
        with accelerator.autocast():
            inputs = self._label_inputs(self.labels.candidates(split))
            labels = self.model.encode_labels(
                inputs["label_input_ids"], inputs["label_attention_mask"]
            )
        parts, truths = [], []
        loader = self._loader(split)
        for batch in tqdm(
            loader, desc=f"Scoring {split}", leave=False, disable=not self._shows_progress
        ):
            truth = batch.pop("labels")
            with accelerator.autocast():
                logits = self.model(**batch, label_embeddings=labels).logits
            logits, truth = accelerator.gather_for_metrics((logits, truth))
            parts.append(logits.float().cpu())
            truths.append(truth.cpu())
        return torch.cat(parts).numpy(), torch.cat(truths).numpy()

    def evaluate(self, split: str) -> dict[str, Any]:
        """Evaluates a split with the gamma of the config.

        Returns:
            Scores as of :func:`metrics.evaluate_scores`.
        """
        scores, truth = self.scores(split)
        names, mask = self.labels.candidates(split), self.labels.seen_mask(split)
        gamma = self.model.config.calibration_gamma
        return evaluate_scores(scores, truth, mask, gamma, names)

    def save(self, folder: str | Path) -> None:
        """Saves model and processor (safetensors and JSON); on the main process alone."""
        if self.accelerator.is_main_process:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)

    def load_best(self) -> None:
        """Loads weights and gamma of the best checkpoint, which lies in ``output_dir``."""
        best = type(self.model).from_pretrained(self.output_dir)
        self.model.load_state_dict(best.state_dict())
        self.model.config.calibration_gamma = best.config.calibration_gamma

    def report(self, known: dict[str, Any] | None = None) -> dict[str, Any]:
        """Evaluates validation and test and describes the run.

        Args:
            known: Scores of splits that were evaluated with these weights and gamma already.

        Returns:
            JSON-able dict, the content of ``report.json``.
        """
        config = self.model.config
        encoders = {"text": config.text_config, "vision": config.vision_config}
        report: dict[str, Any] = {
            "method": self.method,
            "task": config.task,
            "seed": self.arguments.seed,
            "gamma": config.calibration_gamma,
        }
        for split in ("validation", "test"):
            if split in self.splits:
                report[split] = (known or {}).get(split) or self.evaluate(split)
        return report | {
            "labels": {
                "seen": list(self.labels.seen),
                "validation_unseen": list(self.labels.validation_unseen),
                "test_unseen": list(self.labels.test_unseen),
                "unseen": [*self.labels.validation_unseen, *self.labels.test_unseen],
                "known_to_generator": list(self.labels.generator),
                "texts": self.labels.texts,
            },
            "data": self.data_report,
            "images_used": self.use_images,
            "encoders": {
                name: None if part is None else Path(part.name_or_path or part.model_type).name
                for name, part in encoders.items()
            },
            "arguments": self.arguments.to_dict(),
            "history": self.history,
            "versions": versions(),
            "command": command(),
            "processes": self.accelerator.num_processes,
        }

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes the model, the processor, the report and a model card to the Hub.

        Args:
            repo_id: Repository, "user/name".
            **options: Options of :func:`card.push_run`: ``private``, ``token``.

        Returns:
            URL of the last commit.
        """
        from .card import push_run  # noqa: PLC0415 - only for sharing

        return push_run(self.output_dir, repo_id, **options)
