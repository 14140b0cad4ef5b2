"""What is learnt on the hyperboloid: parameters that geoopt's optimizer keeps there."""

from torch import nn


def wrap_manifold_parameters(module: nn.Module) -> int:
    """Makes geoopt manifold parameters of those that live on the hyperboloid.

    Loading a checkpoint leaves plain parameters, with which a Riemannian optimizer would drift off
    the manifold without an error; call this once before building the optimizer.

    Args:
        module: Model whose submodules declare ``manifold_parameter_names`` and a fixed ``c``.

    Returns:
        The number of parameters that live on the manifold.
    """
    found = 0
    for part in module.modules():
        for name in getattr(part, "manifold_parameter_names", ()):
            parameter = getattr(part, name)
            if parameter is None:
                continue
            found += 1
            import geoopt  # noqa: PLC0415 - heavy, and needed by this option alone

            if not isinstance(parameter, geoopt.ManifoldParameter):
                manifold = geoopt.Lorentz(k=parameter.new_tensor(part.c))
                wrapped = geoopt.ManifoldParameter(
                    parameter.data, manifold=manifold, requires_grad=parameter.requires_grad
                )
                setattr(part, name, wrapped)
    return found
