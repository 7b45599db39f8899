"""The layer-normalized cells as loops over time, in float64, from the formulas. Never imports keras_norm.

A step takes the weights in the order of the cell, and gives the new states, of which the first is the output. `kept` is
the dropout mask of the former output.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def layer_norm(z, gamma, beta, epsilon):
    mean, variance = z.mean(-1, keepdims=True), z.var(-1, keepdims=True)
    return gamma * (z - mean) / np.sqrt(variance + epsilon) + beta


def lstm(x, states, weights, epsilon=1e-3, kept=1.0, activation=np.tanh, gate=sigmoid):
    kernel, recurrent_kernel, bias, *norms = weights
    kernel_gamma, kernel_beta, recurrent_gamma, recurrent_beta, state_gamma, state_beta = norms
    h, c = states
    z = layer_norm(x @ kernel, kernel_gamma, kernel_beta, epsilon) + bias
    z = z + layer_norm((h * kept) @ recurrent_kernel, recurrent_gamma, recurrent_beta, epsilon)
    i, f, g, o = np.split(z, 4, axis=-1)
    c = layer_norm(gate(f) * c + gate(i) * activation(g), state_gamma, state_beta, epsilon)
    return [gate(o) * activation(c), c]


def gru(x, states, weights, epsilon=1e-3, kept=1.0, activation=np.tanh, gate=sigmoid):
    kernel, recurrent_kernel, bias, kernel_gamma, kernel_beta, recurrent_gamma, recurrent_beta = weights
    h, units = states[0], len(recurrent_kernel)
    input_bias, recurrent_bias = np.broadcast_to(bias, (2, 3 * units))

    def normalized(z, gamma, beta, bias):
        gates, candidate = slice(2 * units), slice(2 * units, None)
        parts = [layer_norm(z[:, part], gamma[part], beta[part], epsilon) for part in (gates, candidate)]
        return np.split(np.concatenate(parts, axis=-1) + bias, 3, axis=-1)

    x_z, x_r, x_h = normalized(x @ kernel, kernel_gamma, kernel_beta, input_bias)
    h_z, h_r, h_h = normalized((h * kept) @ recurrent_kernel, recurrent_gamma, recurrent_beta, recurrent_bias)
    z, r = gate(x_z + h_z), gate(x_r + h_r)
    return [z * h + (1 - z) * activation(x_h + r * h_h)]


def simple_rnn(x, states, weights, epsilon=1e-3, kept=1.0, activation=np.tanh):
    kernel, recurrent_kernel, bias, gamma = weights
    return [activation(layer_norm(x @ kernel + (states[0] * kept) @ recurrent_kernel, gamma, bias, epsilon))]


def run(step, x, weights, states=None, mask=None, **options):
    """The outputs `(N, T, units)` of a cell and its last states. Where the mask is False nothing changes."""
    x, weights = np.asarray(x, "float64"), [np.asarray(w, "float64") for w in weights]
    states = [np.zeros((len(x), len(weights[1])))] * (2 if step is lstm else 1) if states is None else states
    outputs = []
    for t in range(x.shape[1]):
        new = step(x[:, t], states, weights, **options)
        if mask is not None:
            new = [np.where(mask[:, t, None], n, old) for n, old in zip(new, states, strict=True)]
        states = new
        outputs.append(states[0])
    return np.stack(outputs, axis=1), states
