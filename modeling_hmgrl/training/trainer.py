"""Training of models with the interface of HMGRLForZeroShotTyping."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..adapters import has_adapters
from ..metrics.calibration import best_gamma, calibrated
from ..metrics.gzs_scores import evaluate_scores
from ..metrics.label_sets import LabelSets
from ..metrics.temperature_scaling import best_temperature
from ..outputs import local
from ..processing_hmgrl import HMGRLProcessor
from ..reports.run_report import PARTS, epoch_line, write_run_files
from ..storage import write_json
from .batching import Batches
from .checkpointing import TrainerState, last_checkpoint, load_checkpoint, save_checkpoint
from .collectives import gather_with_gradient
from .evaluator import HMGRLEvaluator
from .manifold import is_point
from .optimization import WeightAverage, make_optimizer, make_schedule
from .run_folder import REPORT_NAME, TRACKED, finished_report, noted_files, run_folder, staged
from .run_identity import identify_run
from .training_arguments import HMGRLTrainingArguments

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass
class _Run:
    """Objects that the epochs of a run share."""

    model: Any
    optimizer: Any
    schedule: Any
    batches: Batches
    loader: DataLoader[Any]
    constant: dict[str, torch.Tensor]
    total: int
    state: TrainerState
    first_step: int
    started: float
    identity: dict[str, Any]


class HMGRLTrainer(HMGRLEvaluator):
    """Trains a model on accelerate and reports calibrated generalized zero-shot scores.

    Each epoch is validated over the seen and the validation-unseen labels; gamma and the best model
    are chosen there alone. The best model so far is in ``output_dir``, so that an interrupted run
    leaves a usable one. Checkpoints are in its subfolder ``checkpoints``; with
    ``arguments.resume``, training resumes exactly from the last one.

    Args:
        model: Model.
        processor: Processor.
        arguments: Arguments of the run.
        labels: Label sets.
        train: Records with text, spans, image, label (a ClassLabel).
        validation: Records of seen and validation-unseen labels.
        test: Records of seen and test-unseen labels; None to omit the test.
        data_report: Description of the data in the report.
        method: Name of the method in the report.

    Examples:
        >>> from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
        >>> from transformers import BertConfig, BertTokenizer, ViTImageProcessorPil
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw oak animal tool plant".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(ViTImageProcessorPil(), tokenizer, use_images=False)
        >>> text_config = BertConfig(
        ...     vocab_size=len(words), hidden_size=16, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> model = HMGRLForZeroShotTyping(HMGRLConfig(text_config=text_config))
        >>> model.add_markers(processor)
        >>> features = Features(
        ...     text=Value("string"),
        ...     spans=Sequence(Sequence(Value("int32"))),
        ...     image=Image(),
        ...     label=ClassLabel(names=["animal", "tool", "plant"]),
        ... )
        >>> def records(*texts):
        ...     rows = [
        ...         {"text": text, "spans": [[4, 7]], "image": None, "label": label}
        ...         for label, text in enumerate(texts)
        ...     ]
        ...     return Dataset.from_list(rows, features=features)
        >>> trainer = HMGRLTrainer(
        ...     model,
        ...     processor,
        ...     HMGRLTrainingArguments("run", epochs=1, tracker="none", progress=False),
        ...     LabelSets.of(seen=("animal", "tool"), validation_unseen=("plant",), test_unseen=()),
        ...     train=records("the fox", "the saw"),
        ...     validation=records("the fox", "the saw", "the oak"),
        ... )
        >>> report = trainer.train()
        >>> [(row["name"], row["support"]) for row in report["validation"]["per_class"]]
        [('animal', 1), ('tool', 1), ('plant', 1)]
    """

    average: WeightAverage | None = None

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
        splits = {"train": train, "validation": validation, "test": test}
        splits = {name: data for name, data in splits.items() if data is not None}
        names = train.features["label"].names
        super().__init__(model, processor, arguments, labels, splits, names, data_report, method)

    def train(self, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Trains, saves the best model in ``output_dir``, tests it and writes the report.

        If the run to resume is finished and was tested on the same splits, its report is returned.

        Args:
            extra: Further fields of the report, such as the scores of training-free baselines.

        Returns:
            The report.

        Raises:
            FloatingPointError: If the loss is not finite.
            FileExistsError: If the folder contains an earlier run, and neither ``resume`` nor
                ``overwrite_output_dir`` is set.
            OSError: If the folder cannot be written, or another process trains in it.
            ValueError: If the checkpoint to resume from is of another run.
        """
        model = self.model
        try:
            with run_folder(self.accelerator, self.arguments):
                return self._train(extra or {})
        finally:  # after the run, one process may use the model without the others
            model.gather = local

    def _train(self, extra: dict[str, Any]) -> dict[str, Any]:
        arguments, accelerator = self.arguments, self.accelerator
        run = self._start()
        state = run.state
        splits = self.prepared.samples.keys() - {"train"}
        if state.step and self._is_done(run):
            known = finished_report(self.output_dir, self.history, splits, extra)
            if known is not None:
                accelerator.end_training()
                self.load_best()
                return known
        bar = tqdm(
            total=run.total,
            initial=state.step,
            desc="Training",
            unit="step",
            disable=not self._shows_progress,
        )
        while not self._is_done(run):
            self._train_epoch(run, bar)
            state.epoch, state.batch = state.epoch + 1, 0
            self._end_epoch(run, bar)
            if arguments.save_epochs and state.epoch % arguments.save_epochs == 0:
                self._checkpoint(run)
        bar.close()
        accelerator.wait_for_everyone()
        self.load_best()
        report = self.report({"validation": state.best} if state.best else None) | extra
        if accelerator.is_main_process:
            write_json(self.output_dir / REPORT_NAME, report)
        accelerator.end_training()
        return report

    def _is_done(self, run: "_Run") -> bool:
        patience = self.arguments.patience
        return run.state.step >= run.total or bool(patience and run.state.waited >= patience)

    @torch.no_grad()
    def _constant_inputs(self) -> dict[str, torch.Tensor]:
        """Label inputs of every step: tokens, or encodings if the text encoder is frozen."""
        inputs = {
            **self._label_inputs(self.labels.seen),
            **self._label_inputs(self.labels.generator, "synthetic"),
        }
        if not self.model.encoders.text_is_frozen:
            return inputs
        return {
            f"{name}_embeddings": self.model.encode_labels(
                inputs[f"{name}_input_ids"], inputs[f"{name}_attention_mask"]
            )
            for name in ("candidate", "synthetic")
            if f"{name}_input_ids" in inputs
        }

    def _start(self) -> "_Run":
        """Prepares the objects that epochs share, and restores the state of a resumed run."""
        arguments, accelerator = self.arguments, self.accelerator
        samples = self.prepared.samples["train"]
        batches = Batches(
            samples.labels,
            samples.lengths,
            arguments.batch_size,
            arguments.seed,
            arguments.balanced,
            arguments.gradient_accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        per_epoch = batches.count // arguments.gradient_accumulation_steps
        total = arguments.max_steps or arguments.epochs * per_epoch
        constant = self._constant_inputs()
        identity = self._identity(total)
        model, optimizer, schedule = self._engine(total)
        self._describe_in_config()
        state = self._resumed(schedule, identity) or TrainerState()
        if state.step > total:
            raise ValueError(
                f"epochs, max_steps: got {total} steps in all, expected at least the {state.step} "
                f"that the run to resume in {self.output_dir} has completed"
            )
        if accelerator.is_main_process:
            write_run_files(self.output_dir, arguments, noted_files(self.output_dir))
        if arguments.tracker != "none":
            accelerator.init_trackers(TRACKED)
        return _Run(
            model, optimizer, schedule, batches, self._loader("train", batches), constant, total,
            state, state.step, time.perf_counter(), identity,
        )  # fmt: skip

    def _train_epoch(self, run: "_Run", bar: Any) -> None:
        arguments, accelerator, state = self.arguments, self.accelerator, run.state
        run.model.train()
        run.batches.start_at(state.epoch, state.batch)
        for batch in self._on_device(run.loader):
            state.batch += 1
            with accelerator.accumulate(run.model):
                with accelerator.autocast():
                    output = run.model(**batch, **run.constant)
                accelerator.backward(output.loss)
                if accelerator.sync_gradients and arguments.max_grad_norm:
                    accelerator.clip_grad_norm_(run.model.parameters(), arguments.max_grad_norm)
                run.optimizer.step()
                run.optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            state.step += 1
            if not accelerator.optimizer_step_was_skipped:  # on overflow in half precision
                run.schedule.step()
            if self.average is not None:
                self.average.update()
            bar.update()
            if state.step % arguments.log_steps == 0 or state.step == run.total:
                self._log_step(output, run, bar)
            if state.step == run.total:
                break
            if arguments.save_steps and state.step % arguments.save_steps == 0:
                self._checkpoint(run)

    def _end_epoch(self, run: "_Run", bar: Any) -> None:
        """Validates, and saves the model if it is the best so far."""
        state = run.state
        with nullcontext() if self.average is None else self.average.applied():
            scores = self._validate(state)
            if self._shows_progress:
                bar.write(epoch_line(state.epoch, state.step, scores))
            state.waited += 1
            if state.best is None or self._better(scores, state.best):
                state.best, state.waited = scores, 0
                self.save(self.output_dir, run.model)

    def _engine(self, total: int) -> tuple[Any, Any, Any]:
        """Model, optimizer and schedule, prepared for the engine."""
        arguments, accelerator = self.arguments, self.accelerator
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            # DeepSpeed infers the size from a loader, but prepares none here.
            plugin = accelerator.state.deepspeed_plugin.deepspeed_config
            plugin["train_micro_batch_size_per_gpu"] = arguments.batch_size
        optimizer = make_optimizer(self.model, arguments)
        self.model.gather = gather_with_gradient
        if accelerator.distributed_type in _SHARDED and any(map(is_point, self.model.parameters())):
            raise ValueError(
                "hyperbolic_translation: expected False, as the engine shards the weights and the "
                "Riemannian optimizer requires whole points"
            )
        if accelerator.distributed_type in _SHARDED and has_adapters(self.model):
            raise ValueError("adapters of PEFT: expected none, as the engine shards the weights")
        # Not prepared by accelerate, which steps a schedule once per process, with other rounding.
        schedule = make_schedule(optimizer, arguments, total)
        if arguments.ema_decay:
            if accelerator.distributed_type in _SHARDED:
                raise ValueError("ema_decay: expected 0, as the engine shards the weights")
            self.average = WeightAverage(self.model, arguments.ema_decay)
        model, optimizer = accelerator.prepare(self.model, optimizer)
        if accelerator.distributed_type == DistributedType.FSDP:
            # Evaluation calls this method directly; FSDP gathers weights only for forward().
            register_fsdp_forward_method(model, "encode_labels")
            self.model = model
        return model, optimizer, schedule

    def _identity(self, total: int) -> dict[str, Any]:
        """Properties that a resumed run must have in common with the interrupted one."""
        arguments, samples = self.arguments, self.prepared.samples
        if not (arguments.resume or arguments.save_epochs or arguments.save_steps):
            return {}
        more = {"method": self.method, "processes": self.accelerator.num_processes}
        if arguments.schedule != "constant":  # the learning rates depend on it
            more["steps in all"] = total
        parts = (self.model, self.processor, arguments, self.labels, samples, self.label_names)
        return identify_run(*parts, **more)

    def _checkpoint(self, run: "_Run") -> None:
        averages = None if self.average is None else self.average.state_dict()
        limit = self.arguments.save_total_limit
        content = {
            **asdict(run.state),
            "schedule": run.schedule.last_epoch,
            "history": self.history,
            "fixed": run.identity,
        }
        save_checkpoint(self.accelerator, self.output_dir, content, limit, averages)

    def _resumed(self, schedule: Any, identity: dict[str, Any]) -> TrainerState | None:
        """Restores the last checkpoint if the run is resumed, and returns its state."""
        folder = last_checkpoint(self.output_dir) if self.arguments.resume else None
        if folder is None:
            return None
        saved, averages = load_checkpoint(self.accelerator, folder, identity)
        if self.average is not None:
            self.average.load_state_dict(averages)
        self.history = saved["history"]
        # The optimizer restores the rates themselves; the schedule depends on the step alone.
        schedule.last_epoch, schedule._step_count = saved["schedule"], saved["schedule"] + 1
        if self._shows_progress:
            print(f"Resuming from {folder}")
        return TrainerState(**{field.name: saved[field.name] for field in fields(TrainerState)})

    def _describe_in_config(self) -> None:
        """Writes the labels to the config, for a model loaded later."""
        config = self.model.config
        config.seen_labels = list(self.labels.seen)
        config.generator_labels = list(self.labels.generator)
        config.label_texts = dict(self.labels.texts) or None

    def _log_step(self, output: Any, run: "_Run", bar: Any) -> None:
        step = run.state.step
        terms = {name: value.detach().item() for name, value in output.loss_terms.items()}
        loss = output.loss.detach().item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss}; its terms are {terms}")
        arguments = self.arguments
        size = arguments.batch_size * arguments.gradient_accumulation_steps
        size *= self.accelerator.num_processes
        rate = size * (step - run.first_step) / (time.perf_counter() - run.started)
        shown = {"loss": f"{loss:.3f}"} | {name[:5]: f"{v:.3f}" for name, v in terms.items()}
        bar.set_postfix(shown | {"samples/s": f"{rate:.1f}"}, refresh=False)
        rates = run.schedule.get_last_lr()
        logged = {"loss": loss, "learning_rate": min(rates), "head_learning_rate": max(rates)}
        logged |= {"samples_per_second": rate}
        logged |= {f"loss/{name}": value for name, value in terms.items()}
        self.accelerator.log({f"train/{name}": value for name, value in logged.items()}, step=step)

    def _validate(self, state: TrainerState) -> dict[str, Any]:
        """Chooses gamma and temperature on validation, sets them and returns the scores."""
        scores, truth = self.scores("validation")
        mask = self.labels.seen_mask("validation")
        gamma = float(best_gamma(scores, truth, mask, metric=self.arguments.metric).gamma)
        temperature = best_temperature(calibrated(scores, mask, gamma), truth)
        self.model.config.calibration_gamma = gamma
        self.model.config.probability_temperature = temperature
        names = self.labels.candidates("validation")
        result = evaluate_scores(scores, truth, mask, gamma, names, temperature)
        summary = {part: result[part] for part in PARTS}
        done = {"epoch": state.epoch, "step": state.step, "gamma": gamma}
        self.history.append({**done, **summary})
        flat = {f"validation/{p}_{k}": v for p, part in summary.items() for k, v in part.items()}
        flat |= {"validation/ausuc": result["ausuc"], "validation/gamma": gamma}
        self.accelerator.log(flat, step=state.step)
        return result

    def _better(self, scores: dict[str, Any], best: dict[str, Any]) -> bool:
        metric = self.arguments.metric
        return scores["overall"][metric] > best["overall"][metric]

    def save(self, folder: str | Path, engine: Any = None) -> None:
        """Saves model and processor (safetensors, JSON) with the code that loads them.

        A file is replaced only when the new one is complete.

        Args:
            folder: The folder.
            engine: The model as prepared by accelerate, required if an engine shards its weights;
                then all processes must call this method.

        Raises:
            OSError: If it cannot be written. The previous files remain.
        """
        model, state = self.model, None
        if engine is not None and self.accelerator.distributed_type in _SHARDED:
            state = self.accelerator.get_state_dict(engine)
            # The engine changed the class of the model; the original one is saved.
            with torch.device("meta"):
                model = self.model_class(self.model.config)
        if not self.accelerator.is_main_process:
            return
        with staged(Path(folder)) as partial:
            model.save_pretrained(partial, state_dict=state)
            self.processor.save_pretrained(partial)

    def load_best(self) -> None:
        """Loads the best model, with its gamma and temperature, from ``output_dir``."""
        best = self.model_class.from_pretrained(self.output_dir)
        if self.accelerator.distributed_type in _SHARDED or has_adapters(self.model):
            # unsharded, in each process, and with merged adapters
            self.model = best.to(self.accelerator.device)
            return
        self.model.load_state_dict(best.state_dict())
        for name in ("calibration_gamma", "probability_temperature"):
            setattr(self.model.config, name, getattr(best.config, name))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes the model, the processor, the report and a model card to the Hub, in one commit.

        Args:
            repo_id: Repository, "user/name".
            **options: Options of :func:`push_run`: ``private``, ``token``, ``runs`` for a standard
                deviation over repetitions, ``dataset`` for the data's name on the Hub.

        Returns:
            URL of the commit.
        """
        from ..reports.push import push_run  # noqa: PLC0415 - only for a push

        return push_run(self.output_dir, repo_id, **options)
