"""Bottleneck and autoencoder: what is drawn, who is trained, the wrapped normal's densities."""

import math
from itertools import pairwise

import geoopt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_hmgrl import lorentz, variational
from modeling_hmgrl.variational import HMCVAE, HVIB

LARGEST = torch.finfo(torch.float32).max
LAYERS = pytest.mark.parametrize("layer", ["lorentz", "fully_lorentz", "euclidean"])


def normal(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator)


def seeded(make, *args, **kwargs):
    torch.manual_seed(0)
    return make(*args, **kwargs)


# --- bottleneck ---------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize("residual", [False, True])
def test_bottleneck_draws_in_training_and_takes_the_mean_in_evaluation(layer, residual):
    module = seeded(HVIB, 16, 6, layer, residual)
    x, noise = normal(3, 5, 16), normal(3, 5, 16, seed=1)
    drawn = module.train()(x, noise=noise)
    assert drawn.sample.shape == (3, 5, 16)
    assert drawn.kl.shape == (3, 5)
    assert (drawn.kl >= 0).all()
    assert torch.allclose(drawn.sample, drawn.mu + (0.5 * drawn.log_var).exp() * noise)
    assert not torch.equal(module(x).sample, module(x).sample)
    assert torch.equal(module(x, sample=False).sample, drawn.mu)
    evaluated = module.eval()(x)
    assert torch.equal(evaluated.sample, evaluated.mu)
    assert not torch.equal(module(x, sample=True).sample, evaluated.mu)


def test_bottleneck_divergence_is_that_from_the_prior():
    module, x = seeded(HVIB, 16, 6), normal(3, 5, 16)
    out = module(x)
    posterior = torch.distributions.Normal(out.mu, (0.5 * out.log_var).exp())
    prior = torch.distributions.Normal(torch.zeros(16), torch.ones(16))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1)
    assert torch.allclose(out.kl, expected, rtol=1e-4)


def test_residual_bottleneck_starts_at_its_prior_around_the_token():
    module, x, noise = (
        seeded(HVIB, 16, 6, residual=True),
        normal(3, 5, 16),
        normal(3, 5, 16, seed=1),
    )
    out = module(x, noise=noise)
    assert torch.allclose(out.kl, torch.zeros(3, 5), atol=1e-6)
    assert torch.equal(out.mu, x)
    assert torch.allclose(out.sample, x + 0.1 * noise, atol=1e-6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(normal(*parameter.shape, seed=2, scale=0.1))
    out = module(x)
    posterior = torch.distributions.Normal(out.mu, (0.5 * out.log_var).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(x, 0.1))
    assert torch.allclose(out.kl, expected.sum(-1), rtol=1e-4)


@pytest.mark.parametrize("layer", ["lorentz", "fully_lorentz"])
def test_bottleneck_is_finite_for_every_finite_input(layer):
    module = seeded(HVIB, 64, 16, layer).train()
    x = normal(1, 8, 64) * torch.tensor([0, 1e-38, 1e-6, 1, 30, 1e4, 1e20, 1e37]).view(1, 8, 1)
    x = torch.cat([x, torch.full((1, 8, 64), LARGEST)]).requires_grad_()
    out = module(x)
    assert all(part.isfinite().all() for part in out)
    (out.sample.sum() + out.kl.mean()).backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_bottleneck_is_finite_for_a_variance_out_of_range():
    module = seeded(HVIB, 8, 4).train()
    with torch.no_grad():
        module.dense_log_var.bias.copy_(torch.linspace(-200, 200, 8))
    out = module(normal(2, 3, 8))
    (out.sample.mean() + out.kl.mean()).backward()
    assert all(part.isfinite().all() for part in out)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


# --- autoencoder --------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_autoencoder_trains_itself_alone(layer, wrapped, normalize):
    module = seeded(HMCVAE, 24, 8, 6, layer, wrapped, normalize)
    h, condition = normal(5, 24).requires_grad_(), normal(5, 8, seed=1).requires_grad_()
    posterior = module.encode(h, noise=normal(5, 6, seed=2))
    assert posterior.sample.shape == (5, 6)
    assert posterior.kl.shape == (5,)
    decoded = module.decode(posterior.sample, condition)
    assert decoded.shape == (5, 24)
    (decoded.square().mean() + posterior.kl.mean()).backward()
    assert h.grad is None
    assert condition.grad is None
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def test_autoencoder_takes_the_noise_it_is_given():
    module, h, noise = seeded(HMCVAE, 24, 8, 6), normal(5, 24), normal(5, 6, seed=2)
    out = module.encode(h, noise=noise)
    assert torch.equal(out.sample, out.mu + (0.5 * out.log_var).exp() * noise)
    assert (out.mu[:, 0] == 0).all()
    assert (out.log_var[:, 0] == 0).all()
    assert not torch.equal(module.encode(h).sample, module.encode(h).sample)


def test_normalized_input_is_half_way_to_saturation():
    for c in (0.5, 1.0, 2.0):
        module = seeded(HMCVAE, 24, 8, 6, normalize=True)
        h, radius = normal(5, 24), lorentz.clip_radius(c)
        rescaled = 0.5 * radius * F.normalize(h, dim=1)
        out = module.encode(1e3 * h, c, noise=normal(5, 6))
        assert torch.allclose(out.mu, module.lorentz_mu(rescaled, c), atol=1e-5)
        assert module.encode(torch.zeros(2, 24), c).sample.isfinite().all()


@pytest.mark.parametrize("layer", ["lorentz", "fully_lorentz"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_autoencoder_is_finite_for_every_finite_input(layer, wrapped, normalize):
    module = seeded(HMCVAE, 64, 8, 16, layer, wrapped, normalize)
    h = normal(8, 64) * torch.tensor([0, 1e-38, 1e-6, 1, 30, 1e4, 1e20, 1e37]).unsqueeze(1)
    h = torch.cat([h, torch.full((1, 64), LARGEST)])
    out = module.encode(h, noise=normal(9, 16, seed=1))
    assert all(part.isfinite().all() for part in out)
    (out.sample.mean() + out.kl.mean()).backward()
    encoder = [*module.lorentz_mu.parameters(), *module.lorentz_log_var.parameters()]
    assert all(parameter.grad.isfinite().all() for parameter in encoder)


def test_generated_representations_are_decoded_from_the_prior_under_each_label():
    module, labels = seeded(HMCVAE, 24, 8, 6), normal(3, 8).requires_grad_()
    noise = normal(3, 4, 6, seed=1)
    synthetic = module.generate(labels, 4, noise)
    assert synthetic.shape == (3, 4, 24)
    for k in range(3):
        for draw in range(4):
            expected = module.decode(noise[k, draw], labels[k])
            assert torch.allclose(synthetic[k, draw], expected, atol=1e-6)
    synthetic.sum().backward()
    assert labels.grad is None
    torch.manual_seed(1)
    fresh = module.generate(labels, 4)
    torch.manual_seed(1)
    assert torch.equal(fresh, module.generate(labels, 4, torch.randn(3, 4, 6)))


def test_autocast_does_not_narrow_bottleneck_or_autoencoder():
    bottleneck, autoencoder = seeded(HVIB, 16, 6), seeded(HMCVAE, 24, 8, 6, wrapped=True)
    x, noise, h = normal(2, 3, 16), normal(2, 3, 16, seed=1), normal(2, 24)

    def compute(x, h):
        out = bottleneck(x, noise=noise)
        posterior = autoencoder.encode(h, noise=noise[0, :2, :6])
        return (*out, *posterior, autoencoder.decode(posterior.sample, h[:, :8]))

    expected = compute(x, h)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = compute(x, h)
        narrow = compute(x.bfloat16(), h.bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert all(part.dtype == torch.float32 for part in narrow)


# --- wrapped normal -----------------------------------------------------------------------------


def wrapped(mu, log_var, eps, c=1.0):
    """The posterior of an autoencoder whose layers give the same mu and log_var for every input."""
    module = HMCVAE(2, 2, len(mu), "euclidean", wrapped=True).to(eps.dtype)
    with torch.no_grad():
        for layer, value in ((module.lorentz_mu, mu), (module.lorentz_log_var, log_var)):
            layer.weight.zero_()
            layer.bias.copy_(value)
    return module, module.encode(torch.ones(len(eps), 2, dtype=eps.dtype), c, eps)


def reference(mu, log_var, eps, c):
    """The same by the definitions, with geoopt's maps: sample, and log q - log p there."""
    manifold = geoopt.Lorentz(k=torch.tensor(c, dtype=torch.float64))
    v = F.pad((0.5 * log_var).exp() * eps, (1, 0))
    center = manifold.expmap0(F.pad(mu, (1, 0))).expand_as(v)
    z = manifold.logmap0(manifold.expmap(center, manifold.transp0(center, v)))[:, 1:]

    def log_density(u, variance):
        r = u.norm(dim=1) / math.sqrt(c)
        exponent = -0.5 * (u.square() / variance + variance.log()).sum(1)
        return exponent - (len(mu) - 1) * (torch.sinh(r) / r).log()

    return z, log_density(v[:, 1:], log_var.exp()) - log_density(z, torch.ones_like(log_var))


def parameters(dimensions, seed):
    return (
        normal(dimensions, seed=seed, scale=0.7).double(),
        normal(dimensions, seed=seed + 1, scale=0.5).double(),
    )


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dimensions", [2, 3, 8])
def test_wrapped_normal_follows_its_definition(c, dimensions):
    mu, log_var = parameters(dimensions, 3)
    eps = normal(64, dimensions, seed=9).double()
    z, kl = reference(mu, log_var, eps, c)
    _, out = wrapped(mu, log_var, eps, c)
    assert torch.allclose(out.sample, z, rtol=1e-6, atol=1e-6)
    assert torch.allclose(out.kl, kl, rtol=1e-5, atol=1e-5)
    _, narrow = wrapped(mu, log_var, eps.float(), c)
    assert torch.allclose(narrow.sample.double(), z, rtol=1e-4, atol=1e-4)
    assert torch.allclose(narrow.kl.double(), kl, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("c", [0.5, 2.0])
@pytest.mark.parametrize("dimensions", [2, 3, 8])
def test_volume_is_the_determinant_of_the_exponential_map(c, dimensions):
    metric = torch.eye(dimensions + 1, dtype=torch.float64)
    metric[0, 0] = -1
    for norm in (1e-3, 0.02, 0.7, 3.0):
        u = norm * F.normalize(normal(1, dimensions).double())[0]
        jacobian = torch.func.jacfwd(lambda v: lorentz.expmap0(v, c))(u)
        expected = 0.5 * torch.logdet(jacobian.T @ metric @ jacobian)
        volume = variational._log_volume(u, c)
        assert volume.item() == pytest.approx(expected.item(), abs=1e-7)
    u = torch.linspace(1e-3, 50, 500, dtype=torch.float64).unsqueeze(1) * F.normalize(
        torch.ones(5), dim=0
    )
    volumes = variational._log_volume(u, c)
    assert torch.allclose(
        variational._log_volume(u.float(), c).double(), volumes, rtol=1e-4, atol=1e-5
    )
    assert (volumes.diff() > 0).all()


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 4])
def test_mean_of_the_estimate_is_the_divergence_by_integration(c, seed):
    # 60 x 60 nodes of Gauss-Hermite quadrature over the tangent plane, exact for smooth functions
    mu, log_var = parameters(2, seed)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = torch.tensor(np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2))
    weight = torch.tensor(np.outer(weights, weights).ravel()) / (2 * math.pi)
    kept = weight > 1e-12
    _, kl = reference(mu, log_var, grid[kept], c)
    expected = (weight[kept] * kl).sum().item()
    _, out = wrapped(mu, log_var, normal(40_000, 2, seed=seed).double(), c)
    error = 5 * out.kl.std().item() / 200  # five standard errors
    assert out.kl.mean().item() == pytest.approx(expected, abs=error)
    assert expected > 0


@pytest.mark.parametrize("dimensions", [2, 3, 5, 8])
def test_mean_of_the_estimate_is_not_negative(dimensions):
    for seed in range(6):
        for scale in (0.0, 0.1, 1.0):
            mu, log_var = (scale * value for value in parameters(dimensions, seed))
            _, out = wrapped(mu, log_var, normal(4000, dimensions, seed=seed).double())
            assert out.kl.mean() >= -4 * out.kl.std() / 4000**0.5
            assert scale != 0 or torch.allclose(out.kl, torch.zeros(4000).double(), atol=1e-6)


@pytest.mark.parametrize("dimensions", [2, 16, 128])
def test_at_the_prior_samples_are_those_that_generation_draws(dimensions):
    # in 128 dimensions they are about 11 long, well beyond the clip radius of the layers
    eps = normal(256, dimensions)
    _, out = wrapped(torch.zeros(dimensions), torch.zeros(dimensions), eps)
    assert torch.allclose(out.sample, eps, rtol=1e-4, atol=1e-5)
    assert torch.allclose(out.kl, torch.zeros(256), atol=2e-3)


@pytest.mark.parametrize("dimensions", [2, 128])
def test_estimate_grows_with_the_variance_without_end(dimensions):
    # an estimate at samples held back to some radius would fall, and be trained, towards -infinity
    eps = normal(256, dimensions)
    means = []
    for log_var in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 200.0):
        module, out = wrapped(torch.zeros(dimensions), torch.full((dimensions,), log_var), eps)
        assert all(part.isfinite().all() for part in out)
        out.kl.mean().backward()
        gradient = module.lorentz_log_var.bias.grad
        assert gradient.isfinite().all()
        assert log_var in (0.0, 200.0) or gradient.sum() > 0
        means.append(out.kl.mean().item())
    assert all(a < b for a, b in pairwise(means[:-1]))


def test_wrapped_normal_is_finite_with_a_center_and_variances_out_of_range():
    eps = normal(64, 8)
    for mu in (torch.zeros(8), torch.full((8,), 1e4), torch.full((8,), 1e30)):
        for log_var in (torch.full((8,), -300.0), torch.linspace(-120, 120, 8)):
            module, out = wrapped(mu, log_var, eps)
            assert all(part.isfinite().all() for part in out)
            (out.sample.mean() + out.kl.mean()).backward()
            for layer in (module.lorentz_mu, module.lorentz_log_var):
                assert layer.bias.grad.isfinite().all()


def test_wrapped_normal_has_gradients_to_its_parameters_and_the_curvature():
    eps = normal(3, 4).double()
    module, _ = wrapped(torch.zeros(4), torch.zeros(4), eps)

    def call(mu, log_var, c):
        out = module._wrapped(mu, log_var, eps, c)
        return out.sample, out.kl

    mu, log_var = (normal(3, 4, seed=s).double().requires_grad_() for s in (1, 2))
    c = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (mu, log_var, c))
