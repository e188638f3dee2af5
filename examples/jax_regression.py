"""JAX: a sparse layer inside a compiled, differentiated loss, between JAX's own operations."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsecore import SparseLinear
from sparsecore.interop.jax import as_function
from sparsecore.topology import expander


def main() -> None:
    rng = np.random.default_rng(0)
    layer = SparseLinear(expander(256, 64, sparsity=0.9, rng=rng), rng=rng)
    hidden = as_function(layer)
    parameters = {"weight": layer.weight, "bias": layer.bias, "head": rng.standard_normal(256, np.float32) / 16}
    x = jnp.asarray(rng.standard_normal((512, 64), np.float32))
    target = jnp.tanh(x[:, 0] - x[:, 1])

    @jax.jit
    def descend(parameters):  # type: ignore[no-untyped-def]
        def loss(parameters):  # type: ignore[no-untyped-def]
            h = jax.nn.relu(hidden(x, parameters["weight"], parameters["bias"]))
            return 0.5 * jnp.mean((h @ parameters["head"] - target) ** 2)

        value, slopes = jax.value_and_grad(loss)(parameters)
        return value, jax.tree.map(lambda each, slope: each - 0.01 * slope, parameters, slopes)

    losses = []
    for _ in range(200):
        value, parameters = descend(parameters)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}")
    assert losses[-1] < 0.5 * losses[0]


if __name__ == "__main__":
    main()
