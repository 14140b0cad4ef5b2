"""Explanation of predictions by attributions, heatmaps, prototypes and nearest samples."""

from .attribution import Explanation, explain
from .heatmap import overlay_heatmap
from .prototypes import Prototypes

__all__ = ["Explanation", "Prototypes", "explain", "overlay_heatmap"]
