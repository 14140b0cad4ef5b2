"""Papers of the methods, and departures from them, as the model card states them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

HMGRL_LINK = "[arXiv 2603.16259](https://arxiv.org/abs/2603.16259)"

_AS_COMPARED = f"in the form of the baseline of HMGRL ({HMGRL_LINK})"


@dataclass(frozen=True)
class Paper:
    """The paper of a method.

    Attributes:
        name: Name of the method.
        citation: Authors, year and title, as cited in the card.
        departures: Differences of this package's implementation that no setting removes; empty if
            only the encoders differ.
    """

    name: str
    citation: str
    departures: str = ""


PAPERS: Mapping[str, Paper] = MappingProxyType(
    {
        "hmgrl": Paper("HMGRL", HMGRL_LINK),
        "hmgrl-proto": Paper(
            "Proto",
            "Ma et al. 2016, *Label embedding for zero-shot fine-grained named entity typing*, "
            f"{_AS_COMPARED}",
            "mentions are represented by the text encoder, not by hand-crafted features",
        ),
        "hmgrl-mmproto": Paper("MMProto", f"Wan et al. 2021, {_AS_COMPARED}"),
        "hmgrl-movcnet": Paper(
            "MOVCNet",
            f"Zhang et al. 2023, {_AS_COMPARED}",
            "regions of an image are the image tokens most similar to the image encoder's class "
            "token, not those of an object detector",
        ),
        "hmgrl-mg-vmoe": Paper(
            "MG-VMoE",
            f"Zhou et al. 2025, {_AS_COMPARED}",
            "the adversarial perturbation is trained by reversing its gradient, not by a separate "
            "optimizer; the contrastive loss compares cosines with a learnt temperature",
        ),
        "hmgrl-dbzfet": Paper(
            "DBZFET",
            "Obeidat et al. 2019, *Description-based zero-shot fine-grained entity typing*",
            "the bilinear form is a product of two projections",
        ),
        "hmgrl-nzfet": Paper(
            "NZFET", "Ren et al. 2020, *Neural zero-shot fine-grained entity typing*"
        ),
        "hmgrl-mzet": Paper(
            "MZET",
            "Zhang et al. 2020, *MZET: Memory augmented zero-shot fine-grained named entity "
            "typing*",
            "each training step writes the encodings of the seen labels into the memory; "
            "characters come from the texts of the tokenizer's tokens",
        ),
        "hmgrl-re-matching": Paper(
            "RE-Matching",
            "Zhao et al. 2023, *RE-Matching: A fine-grained semantic matching method for zero-shot "
            "relation extraction*",
        ),
        "hmgrl-zs-bert": Paper(
            "ZS-BERT",
            "Chen and Li 2021, *ZS-BERT: Towards zero-shot relation extraction with attribute "
            "representation learning*",
            "the classification is over the scores, not by a layer of its own; descriptions are "
            "encoded by a frozen copy of the initial shared text encoder, not by Sentence-BERT",
        ),
        "hmgrl-zs-ska": Paper(
            "ZS-SKA",
            "Gong and Eldardiry 2024, *Prompt-based zero-shot relation extraction with semantic "
            "knowledge augmentation*",
            "the source of knowledge is the encoder's table of token embeddings; the analogy "
            "applies to states, not to the words of the input",
        ),
    }
)
"""The paper of each method, by the ``model_type`` of its configuration."""


def model_class(config: Any) -> type[PreTrainedModel]:
    """Returns the class that ``AutoModel`` creates for a configuration.

    Raises:
        ValueError: If no class is registered for it.
    """
    found = MODEL_MAPPING.get(type(config), None)
    if found is None:
        raise ValueError(
            f"config: got {type(config).__name__}, expected one that is registered with AutoModel "
            "(importing modeling_hmgrl.baselines registers the baselines)"
        )
    return found


def paper_of(config: Any) -> Paper:
    """Returns the paper of a configuration's method; for other methods, the class as its name."""
    unknown = Paper(
        model_class(config).__name__, "a method of its own, not one of the package `hmgrl`"
    )
    return PAPERS.get(config.model_type, unknown)


def registering_module(config: Any) -> str:
    """Returns the module that registers a configuration's method when it is imported."""
    module = model_class(config).__module__
    package = __name__.split(".", maxsplit=1)[0]
    if not module.startswith(f"{package}."):
        return module
    return f"{package}.baselines" if module.startswith(f"{package}.baselines") else package


__all__ = ["HMGRL_LINK", "PAPERS", "Paper", "model_class", "paper_of", "registering_module"]
