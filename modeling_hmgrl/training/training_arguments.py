"""Arguments of a training run."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..configuration_hmgrl import PAPER_TASK_WEIGHTS


@dataclass
class HMGRLTrainingArguments:
    """Arguments of :class:`HMGRLTrainer`.

    Attributes:
        output_dir: Folder of the run, for the best model, the report, checkpoints and logs.
        epochs: Number of epochs, each with as many draws as there are training samples.
        max_steps: Number of optimizer steps; if 0, ``epochs`` determines it.
        batch_size: Number of samples in a training batch of each process.
        eval_batch_size: Number of samples in an evaluation batch of each process.
        learning_rate: Learning rate of the encoders.
        head_learning_rate: Learning rate of all other parameters.
        weight_decay: Decoupled weight decay of matrices; biases, norms and scalars have none.
        warmup_ratio: Share of the steps in which the learning rates increase linearly from 0.
        schedule: Schedule after the warmup: "linear" or "cosine" decay to 0, or "constant".
        max_grad_norm: Norm to which gradients are clipped; 0 for no clipping.
        gradient_accumulation_steps: Batches per optimizer step. The contrastive loss is computed
            within each batch.
        gradient_checkpointing: Whether encoders recompute their states to save memory.
        mixed_precision: "no", "bf16" or "fp16"; None for that of accelerate's launcher, or else
            "no". Hyperbolic operations remain in float32.
        balanced: Whether to balance the labels of batches; otherwise samples are shuffled.
        metric: Overall metric on validation by which gamma and the best checkpoint are chosen.
        patience: Number of epochs without improvement after which training ends; 0 to disable.
        seed: Seed of initialisation, order and noise; each process draws different noise.
        log_steps: Number of steps between log entries.
        tracker: Name of a tracker of accelerate, or "none".
        feature_dir: Folder of the cached states of frozen encoders.
        progress: Whether to show progress bars.
        ema_decay: Decay of an exponential moving average of the weights, which replaces them in
            evaluation and in the saved model; 0 to disable.
        save_epochs: Number of epochs between checkpoints for resuming; 0 for none.
        save_steps: Number of optimizer steps between further such checkpoints; 0 for none.
        save_total_limit: Number of checkpoints to keep; 0 for all.
        resume: Whether to resume from the last checkpoint in ``output_dir``, if there is one.
        overwrite_output_dir: Whether to remove what an earlier run wrote to ``output_dir``, before
            training; other files remain.

    Raises:
        ValueError: If an argument is out of range, or arguments contradict each other.

    Examples:
        >>> arguments = HMGRLTrainingArguments("runs/0", epochs=5, learning_rate=3e-5)
        >>> arguments.to_dict()["epochs"], arguments.schedule
        (5, 'linear')
        >>> HMGRLTrainingArguments("runs/0", epochs=0)
        Traceback (most recent call last):
        ValueError: epochs: got 0, expected 1 or more
    """

    output_dir: str
    epochs: int = 10
    max_steps: int = 0
    batch_size: int = 32
    eval_batch_size: int = 64
    learning_rate: float = 2e-5
    head_learning_rate: float = 5e-4
    weight_decay: float = 0.0
    warmup_ratio: float = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    balanced: bool = True
    metric: Literal["f1", "accuracy"] = "f1"
    patience: int = 0
    seed: int = 0
    log_steps: int = 10
    tracker: str = "tensorboard"
    feature_dir: str = ".cache/features"
    progress: bool = True
    ema_decay: float = 0.0
    save_epochs: int = 1
    save_steps: int = 0
    save_total_limit: int = 1
    resume: bool = False
    overwrite_output_dir: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        for name in (
            "max_steps", "weight_decay", "max_grad_norm", "patience", "save_epochs", "save_steps",
            "save_total_limit",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or more")
        for name in ("learning_rate", "head_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")
        for name in ("warmup_ratio", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a number in [0, 1)")
        if self.resume and self.overwrite_output_dir:
            raise ValueError("resume, overwrite_output_dir: expected at most one of them")

    @staticmethod
    def paper(task: str) -> dict[str, Any]:
        """Arguments of the authors' scripts: Adam, constant rate of 1e-5 (HMGRL, section 8)."""
        if task not in PAPER_TASK_WEIGHTS:
            raise ValueError(f"task: got {task!r}, expected one of {sorted(PAPER_TASK_WEIGHTS)}")
        typing = task == "typing"
        return {
            "epochs": 20 if typing else 25,
            "batch_size": 14 if typing else 8,
            "learning_rate": 1e-5,
            "head_learning_rate": 1e-5,
            "warmup_ratio": 0.0,
            "schedule": "constant",
            "max_grad_norm": 0.0,
            "patience": 10,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments as a JSON-serialisable dict."""
        return asdict(self)

    @classmethod
    def names(cls) -> set[str]:
        """Names of all arguments."""
        return {field.name for field in fields(cls)}
