"""The step rule against the parabola that it assumes."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from gps.algorithms.guided import Now
from gps.algorithms.step_rules import Steps, adjust, check_rule
from gps.types import LocalTeacher, Trajectory


class Model(NamedTuple):
    controller: float
    student: float


def teacher(expects=True):
    def never(*_):
        raise AssertionError

    expect = (lambda model, policy: jnp.asarray(getattr(model, policy))) if expects else None
    return LocalTeacher(never, lambda model: "controller", never, never, expect)


def now(classic=0.0, of_student=0.0, sampled=(0.0,)):
    costs = jnp.asarray(sampled)[:, None] * jnp.ones((1, 4)) / 4
    blank = jnp.zeros((len(sampled), 3, 1))
    paths = Trajectory(blank, blank, blank, costs, jnp.zeros(len(sampled), jnp.int32))
    return Now(Model(classic, of_student), None, paths, lambda: "student", jnp.asarray(True))


def test_the_best_step_of_the_parabola_is_found_from_any_step():
    # improvement a s + b s² with a = 3, b = -.75: best at s = 2
    for step in (0.5, 1.0, 1.9, 3.0):
        foreseen, came = 3.0 * step, 3.0 * step - 0.75 * step**2
        steps = Steps(jnp.asarray(step), jnp.asarray(10.0), jnp.asarray(10.0 - foreseen))
        found = adjust("classic", (1e-3, 1e3), steps, teacher(), now(classic=10.0 - came))
        np.testing.assert_allclose(found, 2.0, rtol=1e-9)


def test_each_rule_looks_at_its_own_outcome():
    steps = Steps(jnp.asarray(1.0), jnp.asarray(10.0), jnp.asarray(6.0))
    seen = now(classic=8.0, of_student=9.0, sampled=(6.0, 8.0))
    found = {
        rule: float(adjust(rule, (1e-3, 1e3), steps, teacher(), seen)) for rule in ("classic", "global", "mc")
    }
    np.testing.assert_allclose([found["classic"], found["global"], found["mc"]], [1.0, 4 / 6, 2.0])
    assert float(adjust("none", (1e-3, 1e3), steps, teacher(), seen)) == 1.0
    assert float(adjust("classic", (1e-3, 1e3), steps, teacher(expects=False), seen)) == 1.0


@pytest.mark.parametrize(("came", "factor"), [(1e6, 0.1), (-1e6, 5.0), (np.nan, 1.0), (np.inf, 0.1)])
def test_an_exploding_model_or_a_miracle_moves_it_by_a_bounded_factor(came, factor):
    steps = Steps(jnp.asarray(1.0), jnp.asarray(10.0), jnp.asarray(6.0))
    found = adjust("classic", (1e-3, 1e3), steps, teacher(), now(classic=came))
    np.testing.assert_allclose(found, factor)
    bounded = adjust("classic", (0.5, 2.0), steps, teacher(), now(classic=came))
    assert 0.5 <= float(bounded) <= 2.0


def test_before_the_first_step_nothing_is_known():
    unknown = jnp.asarray(jnp.inf)
    assert (
        float(adjust("global", (0.1, 2.0), Steps(jnp.asarray(1.0), unknown, unknown), teacher(), now()))
        == 1.0
    )


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="step_rule must be one of none, classic, global, mc, got 'laplace'"):
        check_rule("laplace", (0.1, 1.0))
    for bounds in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="0 < least <= largest"):
            check_rule("classic", bounds)
