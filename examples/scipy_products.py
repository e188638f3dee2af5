"""SciPy's matrices: products through the engine's kernels, and values that are trained where they lie."""

import numpy as np
import scipy.sparse

import sparsecore


def main() -> None:
    rng = np.random.default_rng(0)
    a = scipy.sparse.csr_array(scipy.sparse.random_array((300, 784), density=0.1, dtype=np.float32, rng=rng))
    a.sort_indices()
    x = rng.standard_normal((784, 128), np.float32)
    operator = sparsecore.SparseOperator(a)
    y = operator @ x
    print("largest difference from SciPy:", abs(y - a @ x).max())

    before = 0.5 * float(np.sum(y * y))
    a.data -= 1e-4 * operator.gradient(y, x)  # one step down ½·|A x|², by the stored values
    after = 0.5 * float(np.sum((operator @ x) ** 2))  # the operator sees them
    print(f"½·|A x|² {before:.0f} → {after:.0f}")
    assert after < before


if __name__ == "__main__":
    main()
