"""What the notebook on feature distributions concludes is what its stored outputs say."""

from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only


def test_without_normalization_the_distribution_grows_more():
    (table,) = tables_of("05_feature_distributions")
    growth = {name: table.measured(name, "widest / first") for name in ("none", "BN", "GN")}
    for name in ("BN", "GN"):
        assert growth["none"].mean - 2 * growth["none"].spread > growth[name].mean + 2 * growth[name].spread
        assert growth[name].mean < 2


def test_all_three_networks_learn_and_their_errors_have_no_order():
    (table,) = tables_of("05_feature_distributions")
    errors = [table.measured(name, "test error (%)") for name in ("none", "BN", "GN")]
    assert max(error.mean for error in errors) < 2
    assert max(e.mean for e in errors) - min(e.mean for e in errors) < sum(e.spread for e in errors)
