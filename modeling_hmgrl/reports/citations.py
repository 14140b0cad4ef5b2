"""Which paper a method comes from and where it departs from it, as the model card says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

HMGRL_LINK = "[arXiv 2603.16259](https://arxiv.org/abs/2603.16259)"

_AS_COMPARED = f"in the form in which HMGRL ({HMGRL_LINK}) compares itself with it"


@dataclass(frozen=True)
class Paper:
    """The paper of a method.

    Attributes:
        name: What the method is called.
        citation: Authors, year, title; how it is named in the card.
        departures: In what this package's method differs from it whatever the settings; empty if in
            nothing but the encoders.
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
            "mentions are embedded by the text encoder, not by hand-made features",
        ),
        "hmgrl-mmproto": Paper("MMProto", f"Wan et al. 2021, {_AS_COMPARED}"),
        "hmgrl-movcnet": Paper(
            "MOVCNet",
            f"Zhang et al. 2023, {_AS_COMPARED}",
            "regions of a picture are the image tokens closest to the image encoder's class token, "
            "not those of an object detector",
        ),
        "hmgrl-mg-vmoe": Paper(
            "MG-VMoE",
            f"Zhou et al. 2025, {_AS_COMPARED}",
            "the adversarial perturbation is trained by turning its gradient round, not by an "
            "optimizer of its own; the contrast is a cosine with a learnt temperature",
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
            "the classification is over the scores, not a layer of its own; descriptions are "
            "encoded by the shared text encoder as it was at the start, not by Sentence-BERT",
        ),
        "hmgrl-zs-ska": Paper(
            "ZS-SKA",
            "Gong and Eldardiry 2024, *Prompt-based zero-shot relation extraction with semantic "
            "knowledge augmentation*",
            "the source of knowledge is the encoder's own table of words; the analogy is made on "
            "states, not on the words of the input",
        ),
    }
)
"""The paper of each method, by the ``model_type`` of its configuration."""


def model_class(config: Any) -> type[PreTrainedModel]:
    """The class that ``AutoModel`` makes of a configuration.

    Raises:
        ValueError: If none is registered for it.
    """
    found = MODEL_MAPPING.get(type(config), None)
    if found is None:
        raise ValueError(
            f"config: got {type(config).__name__}, expected one that is registered with AutoModel "
            "(modeling_hmgrl.baselines registers the compared methods)"
        )
    return found


def paper_of(config: Any) -> Paper:
    """The paper of a configuration's method; of a method that is none of ours its class alone."""
    unknown = Paper(
        model_class(config).__name__, "a method of its own, not one of the package `hmgrl`"
    )
    return PAPERS.get(config.model_type, unknown)


def home_of(config: Any) -> str:
    """The module that registers a configuration's method when it is imported."""
    module = model_class(config).__module__
    package = __name__.split(".", maxsplit=1)[0]
    if not module.startswith(f"{package}."):
        return module
    return f"{package}.baselines" if module.startswith(f"{package}.baselines") else package


__all__ = ["HMGRL_LINK", "PAPERS", "Paper", "home_of", "model_class", "paper_of"]
