"""The paper's settings against numbers recorded from the authors' code (tests/golden)."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import BertConfig, ViTConfig

from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping, lorentz, losses
from modeling_hmgrl.layers import LorentzLinear
from modeling_hmgrl.outputs import EncoderStates, TrainingStep
from modeling_hmgrl.variational import HMCVAE, HVIB

FOLDER = Path(__file__).parents[1] / "golden"
RADII = ("0.5", "1.0", "2.0")
NORMS = ("0.0001", "0.1", "1", "5", "20")


def load(name):
    return load_file(FOLDER / f"{name}.safetensors")


def assert_close(ours, recorded, relative=1e-4, what=""):
    """Within ``relative`` of the largest recorded magnitude."""
    assert ours.shape == recorded.shape, what
    worst = (ours - recorded).abs().max().item()
    assert worst <= relative * recorded.abs().max().item() + 1e-7, f"{what}: off by {worst}"


def set_linear(layer, tensors, name):
    """Keras keeps a kernel as [in, out]."""
    with torch.no_grad():
        layer.weight.copy_(tensors[f"{name}.kernel"].T)
        layer.bias.copy_(tensors[f"{name}.bias"])


def set_lorentz(layer, tensors, name):
    with torch.no_grad():
        layer.weight.copy_(tensors[f"{name}.weight"])
        layer.bias.copy_(tensors[f"{name}.bias"][0])


def epsilon_bound(norm, c):
    """Relative error that the original's epsilons can make at a tangent norm.

    It adds 1e-6 under the square roots of its norms: a space part of norm s is taken for
    sqrt(s^2 + 1e-6), which is off by 1e-6/(2 s^2) of itself while that is small and by 1e-3/s at
    most; the acosh of the time part, 1 + s^2/(2c) with a float32 rounding of 6e-8, adds
    6e-8 c/s^2. Both enter twice, on the way in and on the way out.
    """
    rounding = 6e-8 * max(c, 1) / norm**2
    return 2 * (min(1e-6 / (2 * norm**2), 1e-3 / norm) + rounding) + 1e-4


@pytest.mark.parametrize("c", RADII)
@pytest.mark.parametrize("n", NORMS)
def test_maps(c, n):
    tensors, radius = load("a_lorentz_small"), lorentz.clip_radius(float(c))

    def recorded(name):
        return tensors[f"c{c}/n{n}/{name}"]

    c, norm = float(c), float(n)
    x, y, y2 = recorded("x"), recorded("normalize_input"), recorded("y2")
    # the original clips the space part at norm 1000 after exp, which is a clip of the tangent norm
    point = lorentz.expmap0(lorentz.clip_norm(x, radius), c)
    for name in ("normalize_input", "exp_map_zero", "exp_map_zero_headed"):
        assert_close(point, recorded(name), what=name)
    assert_close(lorentz.expmap0(x, c), recorded("exp_map_zero_raw"), what="exp raw")
    assert_close(F.pad(x, (1, 0)), recorded("normalize_tangent_zero"), what="tangent")
    bound = epsilon_bound(min(norm, radius), c) if norm <= 0.1 else 1e-4
    for name in ("log_map_zero", "log_map_zero_raw"):
        assert_close(F.pad(lorentz.logmap0(y, c), (1, 0)), recorded(name), bound, name)
    product = lorentz.inner(y, y2)
    assert_close(product, recorded("scalar_product"), what="product")
    assert_close(product[:, None], recorded("scalar_product_keep"), what="product keep")
    # -c up to the rounding of squared coordinates
    rounding = 2e-6 * y[:, 0].square().max()
    assert (lorentz.inner(y, y) - recorded("scalar_product_self")).abs().max() <= rounding
    if norm > 0.1:
        assert_close(lorentz.distance(y, y2, c), recorded("induced_distance"), what="distance")
    else:
        # acosh(1 + z) of a float32 number knows z to 1e-6: the distance to sqrt(2e-6 c)
        off = (lorentz.distance(y, y2, c) - recorded("induced_distance")).abs().max()
        assert off <= 2 * (2e-6 * c) ** 0.5
    assert_close(-2 * c - 2 * product, recorded("lorentzian_distance"), what="squared distance")


@pytest.mark.parametrize("c", RADII)
@pytest.mark.parametrize("n", NORMS)
def test_maps_at_a_point(c, n):
    tensors = load("a_lorentz_small")
    x, y, y2, mapped, logged = (
        tensors[f"c{c}/n{n}/{name}"]
        for name in ("x", "normalize_input", "y2", "exp_map_y", "log_map_y_y2")
    )
    c, norm = float(c), float(n)
    # the original completes the space part of a vector to a tangent vector at y, and clips the
    # space part of the mapped point at norm 1000
    time = (y[:, 1:] * x).sum(-1, keepdim=True) / y[:, :1]
    point = lorentz.expmap(y, torch.cat([time, x], -1), c)
    clipped = lorentz.with_time(lorentz.clip_norm(point[:, 1:], lorentz.SPACE_NORM_LIMIT), c)
    assert_close(clipped, mapped, what="exp at y")
    # The original subtracts two products of coordinates: rounding of y_0^2 against the result.
    bound = epsilon_bound(min(norm, 7.6), c) if norm <= 0.1 else 1e-4 + 2e-7 * float(y[0, 0]) ** 2
    assert_close(lorentz.logmap(y, y2, c), logged, min(bound, 0.5), "log at y")


@pytest.mark.parametrize("c", RADII)
@pytest.mark.parametrize("n", NORMS)
def test_linear_transform_and_gradients(c, n):
    tensors = load("a_lorentz_small")
    m, b, ct = tensors["m"].requires_grad_(), tensors["b"].requires_grad_(), tensors["ct"]
    x = tensors[f"c{c}/n{n}/x"].requires_grad_()
    layer = LorentzLinear(16, 12)
    with torch.no_grad():
        layer.weight.copy_(m)
        layer.bias.copy_(b[0])
    out = layer(x, float(c))
    norm = float(n)
    # At 1e-4 the bias, of norm 0.17, carries the result, so its norm sets the epsilons' share; the
    # layer goes in and out twice.
    bound = 1e-4 if norm >= 1 else 2 * epsilon_bound(0.1, float(c)) + 1e-3 * (norm < 0.1)
    assert_close(out, tensors[f"c{c}/n{n}/matvec_log"], bound, "layer")
    point = lorentz.expmap0(out[..., 1:], float(c))
    assert_close(point, tensors[f"c{c}/n{n}/matvec_regular"], what="point")
    (out * ct).sum().backward()
    assert_close(layer.bias.grad[None], tensors[f"c{c}/n{n}/grad_b"], bound, "grad b")
    for name, gradient in (("grad_x", x.grad), ("grad_m", layer.weight.grad)):
        recorded = tensors[f"c{c}/n{n}/{name}"]
        if norm >= 0.1:
            assert_close(gradient, recorded, bound, name)
        else:  # the epsilons in its norms change the size of the original's gradient by up to half
            assert F.cosine_similarity(gradient, recorded, dim=-1).min() > 0.9999, name


def test_extreme_norms():
    tensors = load("a_lorentz_stress")
    norms, radius = tensors["norms"], lorentz.clip_radius(1.0)
    ours = lorentz.logmap0(lorentz.expmap0(lorentz.clip_norm(tensors["x"], radius)))
    assert torch.isfinite(ours).all()
    alive = (norms >= 0.5) & (norms < 45.1)  # beyond, the original falls to the origin
    assert_close(ours[alive], tensors["log_map_zero"][alive, 1:])
    # ours is right everywhere: the row itself, or the row clipped
    assert torch.allclose(ours.norm(dim=-1), norms.clamp(max=radius), rtol=1e-5)


def test_lorentz_linear():
    tensors = load("b_lorendz_linear_small")
    layer = LorentzLinear(16, 12)
    set_lorentz(layer, {"l.weight": tensors["weight"], "l.bias": tensors["bias"]}, "l")
    x = tensors["x"].requires_grad_()
    out = layer(x)
    assert_close(out, tensors["out"])
    assert_close(lorentz.expmap0(x), tensors["x_loren"])
    assert_close(lorentz.expmap0(out[..., 1:]), tensors["x_w"])
    (out * tensors["ct"]).sum().backward()
    assert_close(x.grad, tensors["grad_x"])
    assert_close(layer.weight.grad, tensors["grad_weight"])
    assert_close(layer.bias.grad[None], tensors["grad_bias"])


def load_hvib(module, tensors, prefix=""):
    set_lorentz(module.lorentz_mu, tensors, f"{prefix}LL4mu")
    set_lorentz(module.lorentz_log_var, tensors, f"{prefix}LL4logvar")
    set_linear(module.dense_mu, tensors, f"{prefix}dense4mu")
    set_linear(module.dense_log_var, tensors, f"{prefix}dense4logvar")


def load_hmcvae(module, tensors, prefix=""):
    set_lorentz(module.lorentz_mu, tensors, f"{prefix}dense4mu")
    set_lorentz(module.lorentz_log_var, tensors, f"{prefix}dense4logvar")
    for ours, theirs in ((0, 0), (2, 1), (4, 2)):
        set_linear(module.decoder[ours], tensors, f"{prefix}dense4decoder.{theirs}")


def test_hvib():
    tensors = load("c_vib_small")
    module = HVIB(16, 12)
    load_hvib(module, tensors)
    x = tensors["x"].requires_grad_()
    out = module(x, noise=tensors["eps"])
    kl = losses.bottleneck_kl(out.kl, None)
    assert_close(module.lorentz_mu(x), tensors["LL4mu_out"])
    assert_close(module.lorentz_log_var(x), tensors["LL4logvar_out"])
    for ours, name in ((out.mu, "mu"), (out.log_var, "logvar"), (out.sample, "N"), (kl, "kl")):
        assert_close(ours, tensors[name], what=name)
    (0.01 * (out.sample * tensors["eps"]).sum() + kl).backward()
    assert_close(x.grad, tensors["grad_x"])
    assert_close(module.lorentz_mu.weight.grad, tensors["grad_LL4mu.weight"])
    assert_close(module.lorentz_log_var.bias.grad[None], tensors["grad_LL4logvar.bias"])
    assert_close(module.dense_mu.weight.grad.T, tensors["grad_dense4mu.kernel"])
    assert_close(module.dense_log_var.weight.grad.T, tensors["grad_dense4logvar.kernel"])


@pytest.mark.parametrize("task", ["met", "mre"])
def test_hmcvae(task):
    tensors = load(f"d_vae_{task}_small")
    module = HMCVAE(tensors["x"].shape[1], 16, 12)
    load_hmcvae(module, tensors)
    posterior = module.encode(tensors["x"], noise=tensors["eps_encode"])
    decoded = module.decode(posterior.sample, tensors["p"])
    loss = losses.cvae_loss(tensors["x"], decoded, posterior.kl)
    pairs = [(posterior.mu, "mu"), (posterior.log_var, "logvar"), (posterior.sample, "N")]
    pairs += [(posterior.kl.mean(), "kl"), (decoded, "r_x"), (loss, "overall")]
    pairs += [(F.mse_loss(decoded, tensors["x"]), "r_loss")]
    for ours, name in pairs:
        assert_close(ours, tensors[name], what=name)
    loss.backward()
    assert_close(module.lorentz_mu.weight.grad, tensors["grad_dense4mu.weight"])
    assert_close(module.lorentz_log_var.weight.grad, tensors["grad_dense4logvar.weight"])
    assert_close(module.lorentz_log_var.bias.grad[None], tensors["grad_dense4logvar.bias"])
    assert_close(module.decoder[0].weight.grad.T, tensors["grad_dense4decoder.0.kernel"])
    assert_close(module.decoder[4].bias.grad, tensors["grad_dense4decoder.2.bias"])
    module.zero_grad()
    generated = module.decode(tensors["eps_decode"], tensors["p_label"])
    assert_close(generated, tensors["decode"])
    (0.01 * generated.square().sum()).backward()
    assert_close(module.decoder[0].weight.grad.T, tensors["grad_decode_dense4decoder.0.kernel"])


@pytest.mark.parametrize("case", ["small", "mid", "large"])
def test_contrastive_loss(case):
    tensors = {k.split("/")[1]: v for k, v in load("e_infonec").items() if k.startswith(case)}
    text, image = tensors["text"].requires_grad_(), tensors["image"].requires_grad_()
    assert_close(text @ image.T, tensors["logits"])
    rows = F.cross_entropy(text @ image.T, torch.arange(len(text)), reduction="none")
    assert_close(rows, tensors["loss2"], what="rows, which the original does not clip")
    columns = F.cross_entropy(image @ text.T, torch.arange(len(text)), reduction="none")
    clipped = columns > 16.1  # the original cuts the probability of a column at 1e-7 = exp(-16.118)
    assert_close(columns[~clipped], tensors["loss1"][~clipped], what="columns")
    assert torch.allclose(tensors["loss1"][clipped], torch.tensor(16.118), atol=1e-2)
    assert (case == "large") == bool(clipped.any())
    loss = losses.contrastive_loss(text, image)
    if not clipped.any():
        assert_close(loss, tensors["loss"])
        loss.backward()
        assert_close(text.grad, tensors["grad_text"])
        assert_close(image.grad, tensors["grad_image"])


def paper_config(tensors, task):
    """The recorded model's sizes; its beta of 0.9 is a factor of all terms but the first."""
    beta, eta, zeta = 0.9, 0.7, 1.3
    return HMGRLConfig.paper(
        task=task,
        text_config=BertConfig(
            vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8,
        ),
        vision_config=ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            image_size=8, patch_size=4,
        ),
        bottleneck_size=12, generator_latent_size=12, projection_size=10, dropout=0.0,
        weight_bottleneck=beta, weight_contrastive=beta, weight_cvae=beta,
        weight_unseen=beta * eta, weight_alignment=beta * zeta,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["f_attention_small", "f_attention_small_mre"])
def test_additive_attention(name):
    tensors = load(name)
    task = "relation" if name.endswith("mre") else "typing"
    fusion = HMGRLForZeroShotTyping(paper_config(tensors, task)).hmgrl.fusion
    set_linear(fusion.score, tensors, "ln")
    q, v = tensors["q"].requires_grad_(), tensors["v"].requires_grad_()
    out, weights = fusion(q, v, None, None, None)
    assert_close(out, tensors["out"])
    assert torch.allclose(weights.sum(1), torch.ones(len(q)))
    out.square().sum().backward()
    assert q.grad.abs().max() < 1e-6, "the entity must cancel"
    assert_close(v.grad, tensors["grad_v"])
    assert_close(fusion.score.weight.grad.T, tensors["grad_kernel"])


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_ranking_loss(case):
    tensors = {k[2:]: v for k, v in load("g_ranking_loss").items() if k.startswith(case)}
    logits = tensors["logits"].requires_grad_()
    loss = losses.ranking_loss(logits, tensors["labels"])
    assert_close(loss, tensors["mean"])
    each = [
        losses.ranking_loss(row[None], label[None])
        for row, label in zip(logits, tensors["labels"], strict=True)
    ]
    assert_close(torch.stack(each), tensors["per_sample"])
    loss.backward()
    assert_close(logits.grad, tensors["grad_logits"])


@pytest.mark.parametrize("case", ["pos", "neg"])
def test_unseen_losses(case):
    tensors = {k[4:]: v for k, v in load("h_unseen").items() if k.startswith(case)}
    h_label, h_entity = tensors["h_label"].requires_grad_(), tensors["h_entity"].requires_grad_()
    first = torch.nn.Linear(48, 10)
    second = torch.nn.Linear(16, 10)
    set_linear(first, tensors, "ln1")
    set_linear(second, tensors, "ln2")
    entity = first(h_entity.view(4, 5, 48).mean(0))  # samples first; averaged before scoring
    label = second(h_label[0])
    entity.retain_grad()
    label.retain_grad()
    scores = entity @ label.T
    unseen, alignment = losses.unseen_loss(scores), losses.alignment_loss(scores, True)
    eta, zeta = tensors["eta_zeta"]
    total = eta * unseen + zeta * alignment
    pairs = [(entity, "sync_entity"), (label, "sync_label"), (scores, "logits"), (unseen, "ce")]
    for ours, name in [*pairs, (alignment, "kl"), (total, "total")]:
        assert_close(ours, tensors[name], what=name)
    total.backward()
    pairs = [(entity, "sync_entity"), (label, "sync_label"), (h_label, "h_label")]
    for ours, name in [*pairs, (h_entity, "h_entity")]:
        assert_close(ours.grad, tensors[f"grad_{name}"], what=name)


@pytest.mark.parametrize("task", ["met", "mre"])
def test_whole_model(task):
    tensors = load(f"j_{task}_small")
    spans = 1 if task == "met" else 2
    model = HMGRLForZeroShotTyping(paper_config(tensors, ("typing", "relation")[spans - 1])).train()
    load_hvib(model.hmgrl.hvib, tensors, "vib.")
    load_hmcvae(model.hmcvae, tensors, "vae.")
    for layer, name in (
        (model.hmgrl.fusion.score, "ln"),
        (model.scorer.sample_projection, "ln1"),
        (model.scorer.label_projection, "ln2"),
    ):
        set_linear(layer, tensors, name)
    sentence, image = (tensors[n].requires_grad_() for n in ("h_sentence", "h_image"))
    entity, seen = (tensors[n].requires_grad_() for n in ("h_entity", "h_seen_label"))
    # the recorded mention states are inputs of their own, in the place of a look-up at the markers
    model.hmgrl.mentions = lambda *_: entity.view(4, spans, 16)
    noise = {"text": tensors["eps_vib_text"], "image": tensors["eps_vib_image"]}
    positions = torch.zeros(4, spans, 2, dtype=torch.long)
    states = EncoderStates(None, sentence, image, positions, noise=noise)
    encoded = model.represent(states)
    assert_close(encoded.text_states, tensors["train/h_mm_text"])
    assert_close(encoded.image_states, tensors["train/h_mm_image"])
    assert_close(encoded.representation, tensors["train/h_mm"])
    # labels differ from sample to sample there: score each sample against its own
    q = model.scorer.project_samples(encoded.representation)
    own = model.scorer.project_labels(seen).view(4, 3, 10)
    logits = torch.stack([model.scorer.score(q[i], own[i], 1.0) for i in range(4)])
    assert_close(logits, tensors["train/seen_logits"])
    unseen = tensors["h_unseen_label"].view(4, 5, 16)
    synthetic = model.hmcvae.decode(tensors["eps_decode_unseen"].view(4, 5, 12), unseen)
    assert_close(synthetic.flatten(0, 1), tensors["train/h_unseen_entity"])
    imagined = model.scorer.score(
        model.scorer.project_samples(synthetic.mean(0)),
        model.scorer.project_labels(unseen[0]),
        1.0,
    )
    assert_close(imagined, tensors["train/unseen_logits"])
    model._score_synthetic = lambda *_: imagined  # its conditions differ, too
    step = TrainingStep(
        encoded, logits, seen, tensors["label"], None, None, None, unseen[0],
        {"encode": tensors["eps_vae_encode"]},
    )  # fmt: skip
    terms = model.loss_terms(step)
    recorded = {
        "classification": tensors["train/ranking_loss"],
        "bottleneck": 0.5 * (tensors["train/vib_kl_text"] + tensors["train/vib_kl_image"]),
        "contrastive": tensors["train/infonec"],
        "cvae": tensors["train/vae_loss"],
        "unseen": tensors["train/unseen_ce"],
        "alignment": tensors["train/unseen_kl"],
    }
    assert set(terms) == set(recorded)
    for name, value in recorded.items():
        assert_close(terms[name], value, what=name)
    total = sum(getattr(model.config, f"weight_{name}") * terms[name] for name in terms)
    assert_close(total, tensors["train/overall_loss"])
    total.backward()
    gradients = {
        "h_sentence": sentence.grad,
        "h_image": image.grad,
        "h_entity": entity.grad,
        "h_seen_label": seen.grad,
        "vib.LL4mu.weight": model.hmgrl.hvib.lorentz_mu.weight.grad,
        "vib.LL4logvar.bias": model.hmgrl.hvib.lorentz_log_var.bias.grad[None],
        "vib.dense4logvar.kernel": model.hmgrl.hvib.dense_log_var.weight.grad.T,
        "vae.dense4mu.weight": model.hmcvae.lorentz_mu.weight.grad,
        "vae.dense4logvar.bias": model.hmcvae.lorentz_log_var.bias.grad[None],
        "vae.dense4decoder.0.kernel": model.hmcvae.decoder[0].weight.grad.T,
        "vae.dense4decoder.2.bias": model.hmcvae.decoder[4].bias.grad,
        "ln.kernel": model.hmgrl.fusion.score.weight.grad.T,
        "ln1.kernel": model.scorer.sample_projection.weight.grad.T,
        "ln2.kernel": model.scorer.label_projection.weight.grad.T,
    }
    for name, gradient in gradients.items():
        assert_close(gradient, tensors[f"train/grad/{name}"], what=name)
    # evaluation, with the same noise: the original draws there, too
    with torch.no_grad():
        encoded = model.eval().represent(states)
        labels = torch.cat([seen.view(4, 3, 16), tensors["h_unseen_label_eval"].view(4, 2, 16)], 1)
        q = model.scorer.project_samples(encoded.representation)
        p = model.scorer.project_labels(labels)
        scores = torch.stack([model.scorer.score(q[i], p[i], 1.0) for i in range(4)])
    assert_close(scores, tensors["eval/logits"])
    if "eval/h_seen_emb" in tensors:
        assert_close(q, tensors["eval/h_seen_emb"])
