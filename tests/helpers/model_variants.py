"""Settings of the model that reach all of its parts."""

import torch
from tiny_world import tiny_batch, tiny_model

HYPERBOLIC = {
    "score_function": "geodesic",
    "latent": "wrapped_normal",
    "hvib_layer": "fully_lorentz",
    "hmcvae_layer": "fully_lorentz",
    "hyperbolic_translation": True,
}
VARIANTS = {
    "default": {},
    "default relation": {"task": "relation"},
    "paper typing": {"paper": True},
    "paper relation": {"paper": True, "task": "relation"},
    "hyperbolic": HYPERBOLIC,
    "learnable curvature": {
        "learnable_curvature": True, "hvib_layer": "fully_lorentz", "squared_radius": 2.0,
        "score_function": "geodesic",
    },
    "text only": {"vision": False},
    "small projection": {"projection_size": 8, "hvib_layer": "euclidean"},
    "additive with similarity": {"attention": "additive", "contrast_function": "dot"},
}  # fmt: skip
ENCODERS = ("hmgrl.text_model.", "hmgrl.vision_model.")


def batch_for(variant, **options):
    images = variant.get("vision", True)
    return tiny_batch(variant.get("task", "typing"), images=images, **options)


def perturbed(model, seed=1):
    """Moves every parameter off its start, so that a start put in place of a weight shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shift = 0.05 * torch.randn(parameter.shape, generator=generator)
            if name.endswith("translation"):  # stays on the hyperboloid
                parameter[1:] += shift[1:]
                squared = model.config.squared_radius + parameter[1:].square().sum()
                parameter[0] = squared.sqrt()
            else:
                parameter.add_(shift)
    return model


def checkpoint(tmp_path, **variant):
    tiny_model(**variant).save_pretrained(tmp_path)
    return tmp_path
