"""Methods that HMGRL is compared with."""

from .references import label_similarity, majority

__all__ = ["label_similarity", "majority"]
