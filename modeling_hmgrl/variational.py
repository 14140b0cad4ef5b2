"""The hyperbolic variational bottleneck (HVIB) and the hyperbolic conditional autoencoder (HMCVAE).

Source: HMGRL (arXiv 2603.16259), equations 4 and 8-12.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Fp32Linear, make_linear, zeros
from .lorentz import (
    MAX_RADIUS,
    clip_norm,
    clip_radius,
    expmap0,
    full_precision,
    logmap0,
    radius_of,
    translate,
    wide,
)
from .losses import gaussian_kl

# exp(30) is 1e13: far beyond any useful variance, and its square is still finite in float32
MAX_LOG_VAR = 30.0

# log variance of the residual bottleneck's prior: noise of a tenth of a unit-variance state
RESIDUAL_LOG_VAR = math.log(0.01)


class Posterior(NamedTuple):
    """A sample of a variational layer, with its distribution.

    Attributes:
        sample: Sample, or the mean if none was drawn, shape (..., D).
        mu: Mean, shape (..., D).
        log_var: Logarithm of the variance, shape (..., D).
        kl: Divergence from the prior, summed over dimensions, shape (...).
    """

    sample: Tensor
    mu: Tensor
    log_var: Tensor
    kl: Tensor


def _draw(like: Tensor, noise: Tensor | None, sample: bool) -> Tensor | None:
    """Standard normal noise: given, drawn, or None if no sample is requested."""
    if noise is not None:
        return noise.to(like)
    return torch.randn_like(like) if sample else None


class HVIB(nn.Module):
    """Hyperbolic variational information bottleneck, shared by both modalities (eq. 4).

    ``mu = Dense(LLL(X))``, ``log sigma^2 = Dense(LLL(X))``, ``Z = mu + sigma * eps``; the prior is
    N(0, I). With ``residual`` the prior of a token is N(X, 0.01 I), centred on the token itself,
    and the posterior is Z = X + mu + sigma * eps, which is initialised to that prior. The
    bottleneck then measures what is added to the encoder's states instead of what is kept of them.

    Args:
        width: Width of the token states.
        bottleneck: Width d_z of the hyperbolic layers.
        layer: Kind of linear layer, see :func:`layers.make_linear`.
        residual: Whether prior and posterior are centred on the token.
        layer_options: Options of :func:`layers.make_linear`.
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        layer: str = "lorentz",
        residual: bool = False,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        self.residual = residual
        # inverse standard deviation of the prior, to which a residual bottleneck is initialised
        self.prior_scale = math.exp(-0.5 * RESIDUAL_LOG_VAR) if residual else 1.0
        self.lorentz_mu = make_linear(layer, width, bottleneck, **layer_options)
        self.lorentz_log_var = make_linear(layer, width, bottleneck, **layer_options)
        if residual:
            self.dense_mu = Fp32Linear(bottleneck, width, init_weight=zeros)
            self.dense_log_var = Fp32Linear(
                bottleneck, width, init_weight=zeros, init_bias=RESIDUAL_LOG_VAR
            )
        else:
            self.dense_mu = Fp32Linear(bottleneck, width)
            self.dense_log_var = Fp32Linear(bottleneck, width)

    def forward(
        self,
        x: Tensor,
        c: float | Tensor = 1.0,
        noise: Tensor | None = None,
        sample: bool | None = None,
    ) -> Posterior:
        """Passes token states through the bottleneck.

        Args:
            x: Token states, shape (B, n, d).
            c: Squared radius of the hyperboloid.
            noise: Noise to use instead of random draws, shape (B, n, d).
            sample: Whether to draw noise; only in training by default. In evaluation, Z is the
                mean (the original implementation samples there, too: its predictions are random).

        Returns:
            Posterior over (B, n, d), divergences of shape (B, n).
        """
        sample = self.training if sample is None else sample
        x = wide(x)
        with full_precision(x.device):
            mu = self.dense_mu(self.lorentz_mu(x, c))
            log_var = self.dense_log_var(self.lorentz_log_var(x, c)).clamp(max=MAX_LOG_VAR)
            kl = gaussian_kl(mu * self.prior_scale, log_var + 2 * math.log(self.prior_scale))
            if self.residual:
                mu = x + mu
            eps = _draw(mu, noise, sample)
            z = mu if eps is None else mu + torch.exp(0.5 * log_var) * eps
        return Posterior(z, mu, log_var, kl)


def _perceptron(width: int, size: int) -> nn.Sequential:
    """A decoder with two hidden layers as wide as the input (eq. 10)."""
    return nn.Sequential(
        Fp32Linear(width, width),
        nn.LeakyReLU(0.2),
        Fp32Linear(width, width),
        nn.LeakyReLU(0.2),
        Fp32Linear(width, size),
    )


class PartDecoder(nn.Module):
    """Decodes head, tail and context of a relation, each from its part of the label.

    Head and tail, which are both entities, share one decoder: what it learns about persons in one
    relation transfers to all relations of persons, whereas a decoder of whole labels only knows
    the few labels seen. Mentions and context are decoded as residuals of the label's encoding.

    Args:
        latent: Width d_v of the latent.
        width: Width d of a part.
    """

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.latent = latent
        self.roles = Fp32Linear(latent, 2 * latent)  # head and tail read the latent differently
        self.entity = _perceptron(latent + width, width)
        self.context = _perceptron(latent + width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Decodes [latent; head; tail; context], shape (..., d_v + 3d).

        Returns:
            [h_CLS; head; tail; pooled tokens], shape (..., 4d).
        """
        z, parts = x[..., : self.latent], x[..., self.latent :]
        head, tail, context = parts.chunk(3, dim=-1)
        head, tail = (
            part + self.entity(torch.cat([role, part], dim=-1))
            for role, part in zip(self.roles(z).chunk(2, dim=-1), (head, tail), strict=True)
        )
        whole, pooled = self.context(torch.cat([z, context], dim=-1)).chunk(2, dim=-1)
        return torch.cat([whole, head, tail, pooled + context], dim=-1)


class HMCVAE(nn.Module):
    """Hyperbolic multimodal conditional variational autoencoder (eq. 8-11).

    Encodes a representation H to a latent, decodes latent and condition to H. Its inputs are
    detached: its loss trains only its own parameters (and a learnt curvature).

    Args:
        width: Width of H.
        condition: Width of the condition.
        latent: Width d_v of the latent.
        layer: Kind of linear layer, see :func:`layers.make_linear`.
        wrapped: Whether the latent is a wrapped normal on the hyperboloid (Nagano et al. 2019)
            instead of a normal one in the tangent space.
        normalize: Whether H is scaled to half the clip radius before it is encoded. Raw
            representations are longer than that radius and saturate the layers.
        parts: Whether conditions are labels by parts, decoded by :class:`PartDecoder`.
        layer_options: Options of :func:`layers.make_linear`.
    """

    def __init__(
        self,
        width: int,
        condition: int,
        latent: int,
        layer: str = "lorentz",
        wrapped: bool = False,
        normalize: bool = False,
        parts: bool = False,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        self.latent, self.wrapped, self.normalize = latent, wrapped, normalize
        self.lorentz_mu = make_linear(layer, width, latent, **layer_options)
        self.lorentz_log_var = make_linear(layer, width, latent, **layer_options)
        self.decoder: nn.Module = (
            PartDecoder(latent, condition // 3) if parts else _perceptron(latent + condition, width)
        )

    def encode(self, h: Tensor, c: float | Tensor = 1.0, noise: Tensor | None = None) -> Posterior:
        """Encodes representations, without gradient to them.

        Args:
            h: Representations, shape (B, D).
            c: Squared radius of the hyperboloid.
            noise: Noise to use instead of random draws, shape (B, d_v).

        Returns:
            Posterior over (B, d_v), divergences of shape (B,).
        """
        h = wide(h.detach())
        if self.normalize:
            h = F.normalize(h, dim=-1) * (0.5 * clip_radius(c))
        mu = self.lorentz_mu(h, c)
        log_var = self.lorentz_log_var(h, c).clamp(max=MAX_LOG_VAR)
        eps = _draw(mu, noise, sample=True)
        assert eps is not None
        if self.wrapped:
            return self._wrapped(mu, log_var, eps, c)
        z = mu + torch.exp(0.5 * log_var) * eps
        return Posterior(z, mu, log_var, gaussian_kl(mu, log_var))

    def _wrapped(self, mu: Tensor, log_var: Tensor, eps: Tensor, c: float | Tensor) -> Posterior:
        """Wrapped normal around exp_o(mu): a one-sample estimate of the divergence.

        log q(z) - log p(z) for z = exp_m(PT_{o->m}(v)), v ~ N(0, sigma^2); each density is the
        normal one in its tangent space over the volume (sinh(r)/r)^(D-1) of the exponential map
        (Nagano et al. 2019, eq. 8), r in units of sqrt(c). Transport and exponential map at m
        together are the boost that carries o to m.
        """
        s = radius_of(c)
        radius = clip_radius(c)
        mu = clip_norm(mu, radius)
        v = torch.exp(0.5 * log_var) * eps
        limit = MAX_RADIUS * s - radius  # with m at the clip radius, z is within reach
        center, offset = (expmap0(u, c) for u in (mu, clip_norm(v, limit)))
        z = logmap0(translate(offset, center, c), c)
        # The densities are those of the sample before clipping. Beyond the limit, log p continues
        # along the ray: if it stayed constant, the estimate would decrease without bound in sigma.
        length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        limit = torch.as_tensor(limit, dtype=length.dtype, device=length.device)
        drawn = z * (torch.maximum(length, limit) / limit)
        log_q = -0.5 * (eps.square() + log_var).sum(-1) - _log_volume(v, c)
        log_p = -0.5 * drawn.square().sum(-1) - _log_volume(drawn, c)
        return Posterior(z, mu, log_var, log_q - log_p)

    def decode(self, z: Tensor, condition: Tensor) -> Tensor:
        """Decodes latents, shape (..., d_v), under conditions (..., d), which are detached.

        Returns:
            Representations, shape (..., D), float32 at least.
        """
        z = wide(z)
        with full_precision(z.device):
            return self.decoder(torch.cat([z, condition.detach().to(z.dtype)], dim=-1))

    def generate(self, condition: Tensor, draws: int, noise: Tensor | None = None) -> Tensor:
        """Generates synthetic representations of labels from the prior (eq. 12).

        Args:
            condition: Label encodings, shape (U, d).
            draws: Representations per label.
            noise: Latents to use instead of random draws of N(0, I), shape (U, draws, d_v).

        Returns:
            Representations, shape (U, draws, D).
        """
        shape = (len(condition), draws, self.latent)
        if noise is None:
            noise = torch.randn(shape, device=condition.device, dtype=wide(condition).dtype)
        return self.decode(noise, condition.unsqueeze(1).expand(-1, draws, -1))


def _log_volume(v: Tensor, c: float | Tensor) -> Tensor:
    """(D - 1) log(sinh(r)/r) for tangent vectors (..., D), r = |v|/sqrt(c)."""
    s = radius_of(c)
    r = torch.linalg.vector_norm(v, dim=-1) / s
    # log(sinh(r)/r) = r + log1p(-exp(-2r)) - log(2r), and r^2/6 near 0
    safe = r.clamp(min=1e-2)
    large = safe + torch.log1p(-torch.exp(-2 * safe)) - torch.log(2 * safe)
    return (v.shape[-1] - 1) * torch.where(r < 1e-2, r.square() / 6, large)
