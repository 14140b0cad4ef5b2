"""HMGRL: generalized zero-shot multimodal entity typing and relation extraction.

Importing this package registers the pipeline and the Auto classes of transformers. It re-exports
the public names of :mod:`modeling_hmgrl`, which holds the models, and what training also requires:
:func:`load_gzs` of :mod:`dataset_scripts` and :class:`LabelSets`. The command line is
:mod:`hmgrl_cli`, a package of its own, so that ``hmgrl --help`` does not import any library.

Example:
    >>> import hmgrl
    >>> hmgrl.HMGRLConfig(task="relation").num_spans
    2
    >>> from transformers.pipelines import PIPELINE_REGISTRY
    >>> "multimodal-zero-shot-typing" in PIPELINE_REGISTRY.get_supported_tasks()
    True
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import modeling_hmgrl

if TYPE_CHECKING:
    from dataset_scripts import load_gzs as load_gzs
    from modeling_hmgrl import *  # noqa: F403
    from modeling_hmgrl.metrics.label_sets import LabelSets as LabelSets

_LAZY = {"LabelSets": "modeling_hmgrl.metrics.label_sets", "load_gzs": "dataset_scripts"}

__version__ = metadata.version("hmgrl")
__all__ = list(modeling_hmgrl.__all__) + list(_LAZY)


if not TYPE_CHECKING:  # so that type checkers report unknown names

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        if name in __all__:
            return getattr(modeling_hmgrl, name)  # some are imported when they are first used
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
