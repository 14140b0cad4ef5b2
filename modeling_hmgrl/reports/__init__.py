"""Reports of a run: its scores, its model card, its results on the Hub and its citations."""

from .model_card import make_card, read_report
from .push import push_run

__all__ = ["make_card", "push_run", "read_report"]
