"""Arguments of a training run."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..configuration_hmgrl import PAPER_TASK_WEIGHTS


@dataclass
class HMGRLTrainingArguments:
    """Arguments of :class:`HMGRLTrainer`.

    Attributes:
        output_dir: Folder of the run: best checkpoint, report, logs.
        epochs: Passes over as many draws as there are training samples.
        max_steps: Optimizer steps at most; the epochs decide if 0.
        batch_size: Samples in a batch, of each process.
        eval_batch_size: Samples in a batch of evaluation, of each process.
        learning_rate: Learning rate of the encoders.
        head_learning_rate: Learning rate of everything else.
        weight_decay: Decoupled weight decay of matrices; biases, norms and scalars have none.
        warmup_ratio: Share of the steps in which the rates grow from 0.
        schedule: What follows: "linear" to 0, "cosine" to 0, or "constant".
        max_grad_norm: Norm to which gradients are clipped; 0 for none.
        gradient_accumulation_steps: Batches an optimizer step sums up. Contrast is within a batch.
        gradient_checkpointing: Whether encoders recompute their states to save memory.
        mixed_precision: "no", "bf16" or "fp16"; the hyperbolic parts stay in float32.
        balanced: Whether batches cycle through the labels; a plain shuffle if not.
        metric: Overall score of validation that chooses gamma and the best checkpoint.
        patience: Epochs without a better score after which training ends; 0 for never.
        seed: Seed of initialisation, order and noise.
        log_steps: Steps between two entries of the log.
        tracker: Any tracker that accelerate knows by name, or "none".
        feature_dir: Folder where states of frozen encoders are kept.
        progress: Whether to show progress bars.
        compile: Whether torch.compile makes the model's code; the first steps are slow then.
        ema_decay: Decay of an average of the weights that is evaluated and kept in their place; 0
            for none.
        save_epochs: Epochs between two checkpoints to go on from; 0 for none.
        save_steps: Optimizer steps between two more such checkpoints; 0 for none.
        save_total_limit: Checkpoints kept; 0 for all.
        resume: Whether to go on from the last checkpoint in ``output_dir``, if there is one.
    """

    output_dir: str
    epochs: int = 10
    max_steps: int = 0
    batch_size: int = 32
    eval_batch_size: int = 64
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup_ratio: float = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    balanced: bool = True
    metric: Literal["f1", "accuracy"] = "f1"
    patience: int = 10
    seed: int = 0
    log_steps: int = 10
    tracker: str = "tensorboard"
    feature_dir: str = ".cache/image_features"
    progress: bool = True
    compile: bool = False
    ema_decay: float = 0.0
    save_epochs: int = 1
    save_steps: int = 0
    save_total_limit: int = 1
    resume: bool = False

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

    @staticmethod
    def paper(task: str) -> dict[str, Any]:
        """Arguments of the authors' scripts: Adam, rate 1e-5, constant (HMGRL, section 8)."""
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
        """Returns the arguments as a JSON-able dict."""
        return asdict(self)

    @classmethod
    def names(cls) -> set[str]:
        """Names of all arguments."""
        return {field.name for field in fields(cls)}
