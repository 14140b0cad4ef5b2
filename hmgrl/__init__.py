"""HMGRL: generalized zero-shot multimodal entity typing and relation extraction.

Importing this package registers the pipeline and the Auto classes of transformers and re-exports
the public names of :mod:`modeling_hmgrl`, which holds the models. The command line is
:mod:`hmgrl_cli`, a package of its own, so that ``hmgrl --help`` does not import any library.

Example:
    >>> import hmgrl
    >>> hmgrl.HMGRLConfig(task="relation").num_spans
    2
    >>> from transformers.pipelines import PIPELINE_REGISTRY
    >>> "multimodal-zero-shot-typing" in PIPELINE_REGISTRY.get_supported_tasks()
    True
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

import modeling_hmgrl

if TYPE_CHECKING:
    from modeling_hmgrl import *  # noqa: F403

__version__ = metadata.version("hmgrl")
__all__ = list(modeling_hmgrl.__all__)


if not TYPE_CHECKING:  # so that type checkers report unknown names

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(modeling_hmgrl, name)  # some are imported when they are first used
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
