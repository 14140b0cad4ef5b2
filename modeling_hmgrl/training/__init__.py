"""Training and evaluation with accelerate: trainer, evaluator, batches, checkpoints, features."""

from .evaluator import HMGRLEvaluator
from .trainer import HMGRLTrainer
from .training_arguments import HMGRLTrainingArguments

__all__ = ["HMGRLEvaluator", "HMGRLTrainer", "HMGRLTrainingArguments"]
