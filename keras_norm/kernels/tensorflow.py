"""TensorFlow: moments, normalization and gradient, each as operations or as one XLA computation.

Only x and its moments are stored for the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norm.kernels import formulas, reference
from keras_norm.kernels.formulas import Total, pooled, spread
from keras_norm.moments import LONG_SUM, Moments, Pool, at_least_one, total
from keras_norm.sets import Sets, merge, split, split_axes
from keras_norm.tensors import Tensor, Weight, at_least_float32, cast, inferred_shape, upcast

Run = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A way to run a function of tensors and hashable keywords: `as_operations`, `as_xla`, `as_xla_if_recurring`."""


class Way(NamedTuple):
    """Options of the kernel."""

    run: Run
    one_pass: bool = False
    """Computes both moments in one pass over x, which is faster if a compiler fuses the operations."""
    on_cpu: bool = False
    """Allows matrix products for sums, and the fused kernel for one set per channel."""
    few_operations: bool = False
    """Minimizes the number of operations, because each one has a fixed cost."""


def as_operations(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function operation by operation, or as part of an enclosing XLA computation."""
    return function


def standardize(
    x: Tensor, sets: Sets, gamma: Weight, beta: Weight, epsilon: float, *, centered: bool, pool: Pool | None, way: Way
) -> tuple[Tensor, Moments] | None:
    """Like `reference.standardize`. The collectives of `pool` stay outside of XLA computations.

    Returns None if `few_operations` is set, and the sums are long or the moments about zero.
    """
    run, one_pass, on_cpu, few_operations = way
    if few_operations:
        return _in_few_operations(x, sets, gamma, beta, epsilon) if centered and pool is None else None
    in_total = total_by_products if on_cpu and run is as_operations else total
    is_batch = centered and pool is None and sets == Sets(tuple(range(len(x.shape) - 1)))
    if on_cpu and is_batch and _is_per_channel(x, gamma, beta):
        mean, variance = run(_moments_of_channels)(x, sets=sets, in_total=in_total)
        y = _by_fused_kernel(x, gamma, beta, mean, variance, epsilon, of_batch=True)
        return y, Moments(mean, variance, formulas.count(x, sets))
    dtype = at_least_float32(x.dtype)
    gamma = tf.ones([1], dtype) if gamma is None else tf.convert_to_tensor(gamma)  # converts variables
    beta = tf.zeros([1], dtype) if beta is None else tf.convert_to_tensor(beta)
    whole, part = (run, as_operations) if pool is None else (as_operations, run)
    static = {"sets": sets, "centered": centered, "one_pass": one_pass, "in_total": in_total}
    static |= {"epsilon": epsilon, "pool": pool, "part": part}

    @tf.custom_gradient
    def standardized(x, gamma, beta):
        y, mean, variance, n = whole(_forward)(x, gamma, beta, **static)
        backward = _with_gradient_of(whole(_backward), _backward_from_x, static)

        def gradient(dy, *_):
            return backward(x, gamma, beta, mean, variance, n, dy)[:3]

        return (y, mean, variance, n), gradient

    y, mean, variance, n = standardized(x, gamma, beta)
    return y, Moments(mean, variance, formulas.count(x, sets) if pool is None else n)


def normalize(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Weight, beta: Weight, epsilon: float, *, way: Way
) -> Tensor:
    """Like `reference.normalize`."""
    run, _, on_cpu, few_operations = way
    if few_operations:
        h = tf.multiply(tf.subtract(upcast(x), mean), _scale(variance, gamma, epsilon))
        return cast(h if beta is None else tf.add(h, beta), x.dtype)
    if on_cpu and _is_per_channel(x, mean, variance, gamma, beta):
        return _by_fused_kernel(x, gamma, beta, mean, variance, epsilon, of_batch=False)
    mean, variance, *weights = (tf.convert_to_tensor(w) for w in (mean, variance, gamma, beta) if w is not None)
    static = {"scale": gamma is not None, "center": beta is not None, "epsilon": epsilon}
    function = run(_normalize)
    if run is as_operations:
        return function(x, mean, variance, *weights, **static)
    return _with_gradient_of(function, _normalize, static)(x, mean, variance, *weights)


def _in_few_operations(
    x: Tensor, sets: Sets, gamma: Weight, beta: Weight, epsilon: float
) -> tuple[Tensor, Moments] | None:
    """Like `reference.standardize`. Uses functions, because operators first convert numbers to tensors."""
    n, h, axes = formulas.count(x, sets), split(upcast(x), sets.groups), split_axes(sets)
    if not isinstance(n, int) or not 0 < n <= LONG_SUM:
        return None
    mean = tf.reduce_mean(h, axes, keepdims=True)
    h = tf.subtract(h, mean)
    variance = tf.reduce_mean(tf.square(h), axes, keepdims=True)
    if sets.groups is None:
        h = tf.multiply(h, _scale(variance, gamma, epsilon))
    else:
        h = merge(tf.multiply(h, _scale(variance, None, epsilon)), x, sets.groups)
        h = h if gamma is None else tf.multiply(h, gamma)
    return cast(h if beta is None else tf.add(h, beta), x.dtype), Moments(mean, variance, n)


def _scale(variance: Tensor, gamma: Weight, epsilon: float) -> Tensor:
    """gamma / sqrt(variance + epsilon)."""
    scale = tf.math.rsqrt(tf.add(variance, epsilon))
    return scale if gamma is None else tf.multiply(scale, gamma)


def total_by_products(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Like `total`, with the first sum as a product with ones, which halves the time of TensorFlow's sum on a CPU."""
    row = len(x.shape) - 2
    if row not in axes:
        return total(x, axes)
    x = tf.matmul(tf.ones((1, tf.shape(x)[row] if x.shape[row] is None else x.shape[row]), x.dtype), x)
    rest = tuple(a for a in axes if a != row)
    return total(x, rest) if rest else x


def _with_gradient_of(function: Callable[..., Any], plain: Callable[..., Any], static: dict[str, Any]) -> Any:
    """`function`, with the gradient of `plain`, an equivalent function.

    With its own gradient, a compiled function would store the intermediate results that compilation avoids.
    """

    @tf.custom_gradient
    def computation(*values: Tensor) -> Any:
        def gradient(*cotangents: Tensor) -> list[Tensor | None]:
            with tf.GradientTape() as tape:
                tape.watch(values)
                results = plain(*values, **static)
            return tape.gradient(results, values, cotangents if isinstance(results, tuple) else cotangents[0])

        return function(*values, **static), gradient

    return computation


def _forward(x, gamma, beta, sets: Sets, centered: bool, one_pass: bool, in_total: Total, epsilon, pool, part):
    """y, and mean, variance and number of positions of the sets, over all replicas that `pool` adds."""
    h, of_h, weights = formulas.view(x, sets, gamma, beta, merge_kept=True)
    if one_pass and centered and pool is None:
        mean, variance, n = formulas.one_pass_moments(h, of_h)
    else:
        parts = (functools.partial(part(function), in_total=in_total) for function in (_sums, _squares))
        mean, variance, n = formulas.two_pass_moments(h, of_h, centered, pool, *parts)
    moments = (spread(moment, h, of_h.groups) for moment in (mean, variance))
    y = part(_normalize)(h, *moments, *weights, scale=True, center=True, epsilon=epsilon)
    mean, variance = (formulas.table(moment, x, sets) for moment in (mean, variance))
    return tf.reshape(y, inferred_shape(x)), mean, variance, tf.cast(n, mean.dtype)


def _backward(
    x, gamma, beta, mean, variance, n, dy, sets: Sets, centered: bool, one_pass, in_total: Total, epsilon, pool, part
):
    """The gradients of `_forward` to x, gamma and beta. With u = x - mean, n = |S_i|, dh = gamma dy and sums over S_i

        dx = (dh - sum(dh) / n - u sum(dh u) / (n (variance + epsilon))) / sqrt(variance + epsilon)

    without sum(dh) / n if the mean is not subtracted.
    """
    h, of_h, (gamma_of_h, beta_of_h) = formulas.view(x, sets, gamma, beta, merge_kept=True)
    dy, n = tf.reshape(dy, inferred_shape(h)), at_least_one(n)
    inverse = tf.math.rsqrt(formulas.table(variance, h, of_h) + epsilon)
    mean, s = (spread(value, h, of_h.groups) for value in (formulas.table(mean, h, of_h), inverse))
    given = (h, gamma_of_h, beta_of_h, mean, s, dy)
    *sums, dgamma, dbeta = part(_sums_of_gradient)(*given, axes=of_h.axes, in_total=in_total)
    sums = tuple(pooled(sum_at_x, of_h.groups) for sum_at_x in sums)
    sum_dh, sum_dh_u = sums if pool is None else pool(sums)
    means = (sum_dh * inverse / n if centered else tf.zeros_like(sum_dh), sum_dh_u * inverse**3 / n)
    mean_dh, mean_dh_u = (spread(value, h, of_h.groups) for value in means)
    dx = part(_dx)(h, gamma_of_h, mean, s, mean_dh, mean_dh_u, dy)
    pairs = ((dx, x), (dgamma, gamma), (dbeta, beta))
    return tuple(tf.reshape(gradient, inferred_shape(given)) for gradient, given in pairs)


def _backward_from_x(x, gamma, beta, mean, variance, n, dy, part, **static):
    """`_backward` as a function of only x, gamma, beta and dy, for second derivatives."""
    _, mean, variance, n = _forward(x, gamma, beta, part=as_operations, **static)
    return _backward(x, gamma, beta, mean, variance, n, dy, part=as_operations, **static)


def _moments_of_channels(x, sets: Sets, in_total: Total) -> list[Tensor]:
    """Mean and variance of each channel, as vectors."""
    h, of_h, _ = formulas.view(x, sets)
    parts = (functools.partial(function, in_total=in_total) for function in (_sums, _squares))
    return [tf.reshape(moment, [-1]) for moment in formulas.two_pass_moments(h, of_h, True, None, *parts)[:2]]


def _sums(x: Tensor, axes: tuple[int, ...], in_total: Total) -> Tensor:
    return in_total(upcast(x), axes)


def _squares(x: Tensor, mean: Tensor, axes: tuple[int, ...], in_total: Total) -> Tensor:
    return in_total(tf.math.squared_difference(upcast(x), mean), axes)  # one operation


def _normalize(x, mean, variance, *weights: Tensor, scale: bool, center: bool, epsilon: float) -> Tensor:
    gamma, beta = weights[0] if scale else None, weights[-1] if center else None
    return reference.normalize(x, mean, variance, gamma, beta, epsilon)


def _sums_of_gradient(x, gamma, beta, mean, inverse, dy, axes: tuple[int, ...], in_total: Total):
    """The sums of dh and dh u along `axes`, and the gradients to gamma and beta, in one pass over x and dy."""
    dy, u = upcast(dy), upcast(x) - mean
    if all(gamma.shape[a] == beta.shape[a] == 1 for a in axes):  # multiplies the few sums by gamma, not dy
        sum_dy, sum_dy_u = in_total(dy, axes), in_total(dy * u, axes)
        return gamma * sum_dy, gamma * sum_dy_u, _sum_to(sum_dy_u * inverse, gamma), _sum_to(sum_dy, beta)
    dh = dy * gamma
    return in_total(dh, axes), in_total(dh * u, axes), _sum_to(dy * u * inverse, gamma), _sum_to(dy, beta)


def _dx(x, gamma, mean, inverse, mean_dh, mean_dh_u, dy):
    return cast(upcast(dy) * (gamma * inverse) - (upcast(x) - mean) * mean_dh_u - mean_dh, x.dtype)


def _sum_to(x: Tensor, weight: Tensor) -> Tensor:
    """The sum of `x` along all axes where the weight has size 1: the gradient of a broadcast."""
    axes = tuple(a for a, size in enumerate(weight.shape) if size == 1 and x.shape[a] != 1)
    x = total(x, axes) if axes else x
    if None in weight.shape:  # an unknown size may be 1: one gamma per sample, or one for all
        x = tf.reduce_sum(x, tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(weight), s1=tf.shape(x)).r0, keepdims=True)
    return tf.broadcast_to(x, tf.shape(weight))


def _is_per_channel(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether the weights have one value per channel on the last axis, and TensorFlow has a kernel for the dtype."""
    return (
        at_least_float32(x.dtype) == "float32"
        and x.shape[-1] is not None
        and all(size == 1 for w in weights if w is not None for size in w.shape[:-1])
    )


def _by_fused_kernel(
    x: Tensor, gamma: Weight, beta: Weight, mean: Tensor, variance: Tensor, epsilon: float, of_batch: bool
) -> Tensor:
    """Applies the formula by TensorFlow's fused kernel; with `of_batch`, gradients flow through the moments.

    The kernel's own moments are not used. The error of its variance is 6e-6 for 50,000 positions and grows with them.
    """

    def kernel(x, gamma, beta, mean, variance):
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
        ).y

    @tf.custom_gradient
    def kernel_of_the_batch(x, gamma, beta, mean, variance):
        def gradient(dy):
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=True,
            )
            return dx, dgamma, dbeta, None, None

        return kernel(x, gamma, beta, mean, variance), gradient

    function, flat = kernel_of_the_batch if of_batch else kernel, tf.reshape(upcast(x), [1, -1, 1, x.shape[-1]])
    vectors = (_vector(w, default, x) for w, default in ((gamma, 1.0), (beta, 0.0), (mean, 0.0), (variance, 1.0)))
    return cast(tf.reshape(function(flat, *vectors), inferred_shape(x)), x.dtype)


def _vector(weight: Tensor | None, default: float, x: Tensor) -> Tensor:
    """A weight as a vector with one value per channel, for the fused kernel."""
    channels = x.shape[-1]
    if weight is None:
        return tf.fill([channels], tf.constant(default))
    weight = tf.convert_to_tensor(weight) if len(weight.shape) == 1 else tf.reshape(weight, [-1])
    return weight if weight.shape[0] == channels else tf.broadcast_to(weight, [channels])


@functools.cache
def as_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function as one XLA computation, and compiles it once per shape."""
    return _compiled(function, lambda x, compiled, plain: compiled())


@functools.cache
def as_xla_if_recurring(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function as one XLA computation if the shape of its first tensor is a recurring one."""
    return _compiled(function, _if_recurring)


def _if_recurring(x: Tensor, compiled: Callable[[], Any], plain: Callable[[], Any]) -> Any:
    """Chooses `compiled` for batches of a power of two or a multiple of 4, which are rarely the rest of an epoch."""
    batch, *others = x.shape
    if None in others:
        return plain()
    if tf.executing_eagerly():
        return compiled() if batch % 4 == 0 or batch & (batch - 1) == 0 else plain()
    if batch is not None:
        return compiled()
    batch = tf.shape(x)[0]
    is_recurring = tf.logical_or(tf.equal(batch % 4, 0), tf.equal(tf.bitwise.bitwise_and(batch, batch - 1), 0))
    return tf.cond(is_recurring, compiled, plain)


def _compiled(function: Callable[..., Any], dispatch: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as an XLA computation that gradient tapes do not record."""

    @functools.cache
    def xla(**keywords: Any) -> Callable[..., Any]:
        return tf.function(functools.partial(function, **keywords), jit_compile=True, autograph=False)

    @functools.wraps(function)
    def run(*tensors: Tensor, **keywords: Any) -> Any:
        values = [tf.stop_gradient(t) for t in tensors]
        return dispatch(values[0], lambda: xla(**keywords)(*values), lambda: function(*values, **keywords))

    return run
