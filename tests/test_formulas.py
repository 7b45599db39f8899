"""The formulas of docstrings in LaTeX, and what is no formula."""

import runpy
from pathlib import Path

import pytest

latex = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "formulas.py"))["latex"]

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y_i = gamma_c x_i + beta_c", r"y_{i} = \gamma_{c} \, x_{i} + \beta_{c}"),
        ("a b / c d", r"\frac{a \, b}{c} \, d"),
        ("a / b / c", r"\frac{\frac{a}{b}}{c}"),
        ("a + b / (c + d)", r"a + \frac{b}{c + d}"),
        ("(a + b) (c - d) / e", r"\frac{\left( a + b \right) \, \left( c - d \right)}{e}"),
        ("(a + b) / 2 * c", r"\frac{a + b}{2} \, c"),
        ("-x_max - sqrt(v)", r"-x_{\mathrm{max}} - \sqrt{ v }"),
        ("mean(S_i^2)", r"\operatorname{mean}\left( S_{i}^{2} \right)"),
        ("(C D)^(1/2)", r"\left( C \, D \right)^{\frac{1}{2}}"),
        ("gamma(c)_i (x)", r"\gamma\left( c \right)_{i} \, \left( x \right)"),
        ("||W^T v|| ||u||", r"\left\| W^{T} \, v \right\| \, \left\| u \right\|"),
        ("|m - |M||", None),  # bars of one kind do not say which of them opens
        ("v <- b' < 1", r"v \leftarrow b' < 1"),
        ("{k : k_N = i_N, 2 < i_C}", r"\left\{ k \; : \; k_{N} = i_{N} ,\; 2 < i_{C} \right\}"),
        ("sum_b n_b m_b / n", r"\frac{\sum_{b} \, n_{b} \, m_{b}}{n}"),
        ("moving_mean_c with k in S_i", r"\mathrm{moving\_mean}_{c} \, \text{ with } \, k \, \text{ in } \, S_{i}"),
        ("every axis a not in `axis`", r"\text{ every axis } \, a \, \text{ not in } \, \mathtt{axis}"),
        ("ring:", r"\text{ ring }\text{: }"),
        ("log2(M) L", r"\log_{2}\left( M \right) \, L"),
        ("T_i: the same set", r"T_{i}\text{: }\text{ the same set }"),
        ("pip install .", None),
        ("y = unheard_of x", None),
        ("y = (x", None),
        ("y = x)", None),
        ("y = / x", None),
        ("y =", None),
        ('"y" = x', None),
    ],
)
def test_a_formula_becomes_latex_and_anything_else_an_error(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="Not a formula"):
            latex(text)
    else:
        assert latex(text) == expected
