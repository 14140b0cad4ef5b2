"""The six loss terms of HMGRL, as plain functions of tensors.

Every function works in float32 at least, returns a scalar, and stays finite for finite input.
Equation numbers are those of HMGRL (arXiv 2603.16259).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .lorentz import full_precision, wide
from .outputs import Gather, local
from .pooling import masked_mean


def ranking_loss(
    scores: Tensor, labels: Tensor, margin: float = 1.0, candidates: Tensor | None = None
) -> Tensor:
    """Ranking loss, mean over samples of ``sum_{k != y} max(0, margin - s_y + s_k)`` (eq. 7).

    Args:
        scores: Scores, shape (B, K).
        labels: Index of the true label, shape (B,).
        margin: Required distance of the true label's score from every other score.
        candidates: Labels that compete, bool, shape (K,); all if None. The true labels must be
            among them.

    Returns:
        Scalar.
    """
    scores = wide(scores)
    true = scores.gather(1, labels.unsqueeze(1))
    violation = (margin - true + scores).clamp(min=0)
    counted = torch.ones_like(violation, dtype=torch.bool).scatter(1, labels.unsqueeze(1), False)
    if candidates is not None:
        counted = counted & candidates
    return violation.masked_fill(~counted, 0).sum(1).mean()


def classification_loss(scores: Tensor, labels: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Cross-entropy over the candidate labels, the alternative to :func:`ranking_loss`.

    Args:
        scores: Scores, shape (B, K).
        labels: Index of the true label, shape (B,).
        candidates: Labels that compete, bool, shape (K,); all if None. A true label outside of
            them also competes, for its own sample.

    Returns:
        Scalar.
    """
    scores = wide(scores)
    if candidates is not None:
        # The true label always competes: the loss would be infinite if it did not.
        left_out = (~candidates).expand_as(scores).scatter(1, labels.unsqueeze(1), False)
        scores = scores.masked_fill(left_out, -math.inf)
    return F.cross_entropy(scores, labels)


def gaussian_kl(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)), summed over the last axis.

    Args:
        mu: Means, shape (..., D).
        log_var: Logarithms of the variances, shape (..., D).

    Returns:
        Divergences, shape (...), never negative.
    """
    mu, log_var = wide(mu), wide(log_var)
    # expm1 keeps the digits of exp(x) - 1 - x near x = 0, where rounding may make it negative
    return 0.5 * ((torch.expm1(log_var) - log_var).clamp(min=0) + mu.square()).sum(-1)


def bottleneck_kl(kl: Tensor, mask: Tensor | None, gather: Gather = local) -> Tensor:
    """Mean of a bottleneck's divergences over tokens, then over samples (eq. 4).

    Samples without any position that counts (an absent image) are left out.

    Args:
        kl: Divergence of each token, shape (B, n).
        mask: Positions that count, shape (B, n); all if None.
        gather: How the samples that count are collected from all processes. Their number divides
            the loss of each process, so that the mean over processes is that over all samples.

    Returns:
        Scalar; 0 if no sample counts.
    """
    kl = wide(kl)
    if mask is None:
        return kl.mean()
    per_sample = masked_mean(kl.unsqueeze(-1), mask).squeeze(-1)
    everywhere = gather(mask.any(1).to(kl.dtype))
    return per_sample.sum() * (len(everywhere) / len(kl)) / everywhere.sum().clamp(min=1)


def contrastive_loss(text: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE between the texts and the images of a batch (eq. 5).

    The logits are ``text @ image.T``; the caller scales or normalises. The original implementation
    clips probabilities at 1e-7, where the gradient vanishes; this one works on logits.

    Args:
        text: Pooled texts, shape (B, d).
        image: Pooled images, shape (B, d).
        mask: Samples that have an image, bool, shape (B,); all if None. The others neither count
            nor serve as negatives.

    Returns:
        Scalar; 0 if no sample has an image.
    """
    text, image = wide(text), wide(image)
    with full_precision(text.device):
        logits = text @ image.T
    target = torch.arange(len(logits), device=logits.device)
    if mask is None:
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    # a pair counts if both of its samples do; the diagonal stays, so that no row is all -inf
    pair = mask.unsqueeze(0) & mask.unsqueeze(1) | torch.eye(
        len(mask), dtype=torch.bool, device=mask.device
    )
    logits = logits.masked_fill(~pair, -math.inf)
    rows = F.cross_entropy(logits, target, reduction="none")
    columns = F.cross_entropy(logits.T, target, reduction="none")
    return (0.5 * (rows + columns) * mask).sum() / mask.sum().clamp(min=1)


def cvae_loss(target: Tensor, reconstruction: Tensor, kl: Tensor, kl_weight: float = 1.0) -> Tensor:
    """Loss of the conditional autoencoder: mean squared error + KL (eq. 11).

    Args:
        target: Representations, shape (B, D).
        reconstruction: Decoded representations, shape (B, D).
        kl: Divergence of each sample's latent, summed over dimensions, shape (B,).
        kl_weight: Weight of the divergence; 1 in the paper.

    Returns:
        Scalar.
    """
    return F.mse_loss(wide(reconstruction), wide(target)) + kl_weight * wide(kl).mean()


def unseen_loss(scores: Tensor, first: int = 0) -> Tensor:
    """Cross-entropy of synthetic samples with respect to the labels they were made for (eq. 12).

    Args:
        scores: Scores of the synthetic samples, shape (U, U) or (U, draws, U): the first axis is
            the label a sample was made for, the last one the label scored. Any consecutive labels
            of the first axis may be given alone.
        first: Index of the label of the first row.

    Returns:
        Scalar.
    """
    scores = wide(scores)
    labels = torch.arange(first, first + len(scores), device=scores.device)
    if scores.dim() == 3:
        labels = labels.unsqueeze(1).expand(scores.shape[:2]).flatten()
        scores = scores.flatten(0, 1)
    return F.cross_entropy(scores, labels)


def own_label_scores(scores: Tensor, first: int = 0) -> Tensor:
    """Scores of the synthetic samples of each label on that label, averaged over draws.

    Args:
        scores: As of :func:`unseen_loss`; N labels of the first axis.
        first: Index of the label of the first row.

    Returns:
        Shape (N,).
    """
    scores = wide(scores)
    return (scores.mean(1) if scores.dim() == 3 else scores).diagonal(first)


def alignment_loss(scores: Tensor, positive_part: bool = False) -> Tensor:
    """Semantic distribution alignment: KL(uniform || softmax(diagonal)) (eq. 13).

    It is smallest when the synthetic samples of all unseen labels score equally well on their own
    label.

    Args:
        scores: Scores of synthetic samples, shape (U, U) or (U, draws, U), as in
            :func:`unseen_loss`, or (U,), as of :func:`own_label_scores`.
        positive_part: Whether to clamp the diagonal at 0, as the original implementation does:
            labels with a negative score then get no gradient.

    Returns:
        Scalar.
    """
    diagonal = wide(scores) if scores.dim() == 1 else own_label_scores(scores)
    if positive_part:
        diagonal = diagonal.clamp(min=0)
    # sum_k 1/U (log 1/U - log softmax_k)
    return -math.log(len(diagonal)) - F.log_softmax(diagonal, dim=0).mean()
