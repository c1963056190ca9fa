import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline

from teachers.noise import coloured, spline, white


def test_a_spline_goes_through_its_knots():
    rng = np.random.default_rng(0)
    values = rng.normal(size=6)
    for kind in ("linear", "cubic"):
        path = spline(6, kind)(26) @ values
        np.testing.assert_allclose(path[::5], values, atol=1e-12)
    places = np.linspace(0, 5, 26)
    np.testing.assert_allclose(spline(6, "linear")(26) @ values, np.interp(places, np.arange(6), values))
    slopes = np.gradient(values)
    smooth = CubicHermiteSpline(np.arange(6), values, slopes)(places)
    np.testing.assert_allclose(spline(6, "cubic")(26) @ values, smooth, atol=1e-12)
    np.testing.assert_array_equal(spline(3, "zero")(7) @ [1, 2, 3], [1, 1, 1, 2, 2, 3, 3])


def test_a_constant_stays_one():
    for kind in ("zero", "linear", "cubic"):
        for knots in (1, 2, 5, 30):
            np.testing.assert_allclose(spline(knots, kind)(12) @ np.full(min(knots, 12), 3.0), 3.0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.5])
def test_coloured_noise_has_variance_one_and_its_power_falls_as_said(beta):
    basis = coloured(beta)(40)
    np.testing.assert_allclose(np.sum(basis**2, axis=1), 1, rtol=1e-12)
    # The covariance of a stationary process is that of its spectrum: the sum of cosines, weighted.
    n = 80
    frequency = np.fft.rfftfreq(n)
    frequency[0] = frequency[1]
    power = frequency**-beta
    power[1:-1] *= 2
    lag = np.arange(40)
    expected = np.cos(2 * np.pi * np.outer(lag, np.fft.rfftfreq(n))) @ power / power.sum()
    np.testing.assert_allclose((basis @ basis.T)[0], expected, atol=1e-10)
    if beta == 0:
        np.testing.assert_allclose(basis @ basis.T, np.eye(40), atol=1e-12)


def test_white_noise_knows_no_time():
    np.testing.assert_array_equal(white()(5), np.eye(5))


def test_impossible_noise_says_so():
    with pytest.raises(ValueError, match="at least 1 knot, came 0"):
        spline(0)
    with pytest.raises(ValueError, match="one of zero, linear, cubic, came 'quintic'"):
        spline(4, "quintic")
    with pytest.raises(ValueError, match="beta must be at least 0, came -1"):
        coloured(-1)
