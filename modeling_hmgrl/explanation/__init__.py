"""Why a prediction came out as it did: attributions, heatmaps, prototypes and neighbours."""

from .attribution import Explanation, explain
from .heatmap import heat_over
from .prototypes import Prototypes

__all__ = ["Explanation", "Prototypes", "explain", "heat_over"]
