"""The schedules."""

import numpy as np
import pytest

from keras_norm.schedules import PiecewiseLinear
from support.backends import array

pytestmark = pytest.mark.quick


def test_between_two_steps_the_value_is_on_the_line_and_outside_it_stays():
    schedule = PiecewiseLinear([10, 20, 40], [1.0, 3.0, 2.0])
    steps = [0, 10, 15, 20, 30, 40, 99]
    np.testing.assert_allclose([array(schedule(s)) for s in steps], np.interp(steps, [10, 20, 40], [1, 3, 2]))
