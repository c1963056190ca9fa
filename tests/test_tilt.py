import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from gps.types import Action, Gaussian, Limits
from teachers.tilt import temper, tilt

n = 3
RUN = jax.jit(lambda action, student, lam, limits: tilt(action, student, lam, limits))


def problem(seed=0):
    rng = np.random.default_rng(seed)
    G, W = rng.normal(size=(n, n)), rng.normal(size=(n, n))
    Quu, S, q, mean = (
        G @ G.T + 0.2 * np.eye(n),
        W @ W.T + 0.3 * np.eye(n),
        rng.normal(size=n),
        rng.normal(size=n),
    )
    teacher = Gaussian(-np.linalg.solve(Quu, q), np.linalg.inv(Quu))
    parts = Action(teacher, Quu, q, np.int32(0)), Gaussian(mean, S)
    return jax.tree.map(jnp.asarray, parts)


def kl(m0, S0, m1, S1):
    d, P = m1 - m0, np.linalg.inv(S1)
    return 0.5 * (np.trace(P @ S0) + d @ P @ d - n + np.linalg.slogdet(S1)[1] - np.linalg.slogdet(S0)[1])


@pytest.mark.parametrize("lam", [0.3, 4.0])
def test_minimises_the_published_objective(lam):
    """Over mean and Cholesky factor together, by a numerical optimiser that knows no closed form."""
    action, student = problem()
    Quu, q, m, S = (np.array(part) for part in (action.Quu, action.q, student.mean, student.cov))

    def objective(z):
        mean, L = z[:n], np.zeros((n, n))
        L[np.tril_indices(n)] = z[n:]
        cov = L @ L.T
        return 0.5 * (mean @ Quu @ mean + np.trace(Quu @ cov)) + q @ mean + lam * kl(mean, cov, m, S)

    z0 = np.concatenate([np.zeros(n), np.eye(n)[np.tril_indices(n)]])
    best = minimize(objective, z0, method="BFGS", options={"gtol": 1e-8, "maxiter": 500})
    L = np.zeros((n, n))
    L[np.tril_indices(n)] = best.x[n:]
    out = RUN(action, student, lam, None)
    np.testing.assert_allclose(out.mean, best.x[:n], atol=1e-5)
    np.testing.assert_allclose(out.cov, L @ L.T, atol=1e-5)


def test_limits_are_a_box_qp_not_a_clip():
    action, student = problem(1)
    lam, limits = 0.8, Limits(np.full(n, -0.25), np.full(n, 0.3))
    P, Quu, q, m = (
        np.array(part) for part in (np.linalg.inv(student.cov), action.Quu, action.q, student.mean)
    )
    f = {"fun": lambda u: 0.5 * (u - m) @ P @ (u - m) * lam + 0.5 * u @ Quu @ u + q @ u}
    best = minimize(f["fun"], np.zeros(n), bounds=list(zip(*limits, strict=True)), options={"ftol": 1e-15})
    out = RUN(action, student, lam, limits)
    np.testing.assert_allclose(out.mean, best.x, atol=1e-6)
    clipped = np.clip(RUN(action, student, lam, None).mean, *limits)
    assert np.max(np.abs(clipped - best.x)) > 1e-3, "the test should tell the two apart"


def test_extreme_weights():
    action, student = problem(2)
    for dtype, atol in ((jnp.float64, 1e-9), (jnp.float32, 1e-4)):
        a, s = jax.tree.map(lambda part, dtype=dtype: part.astype(dtype) if part.ndim else part, problem(2))
        for lam in (0.0, 1e-30):
            out = RUN(a, s, jnp.asarray(lam, dtype), None)
            np.testing.assert_allclose(out.mean, action.dist.mean, atol=atol)
            assert np.all(np.isfinite(np.linalg.cholesky(out.cov))) and np.max(out.cov) < 1e-14
        for lam in (1e30, np.inf):
            out = RUN(a, s, jnp.asarray(lam, dtype), None)
            np.testing.assert_allclose(out.mean, student.mean, atol=atol)
            np.testing.assert_allclose(out.cov, student.cov, atol=atol)
        assert out.mean.dtype == out.cov.dtype == dtype


def test_own_covariance_and_indefinite_labels():
    action, student = problem(3)
    S = 0.5 * jnp.eye(n)
    out = jax.jit(lambda a, s: tilt(a, s, 2.0, cov=S))(action, student)
    np.testing.assert_allclose(jnp.linalg.inv(out.cov), 2 * np.eye(n) + np.array(action.Quu) / 2, rtol=1e-8)
    concave = action._replace(Quu=-20 * action.Quu)
    out = RUN(concave, student, 0.1, None)
    np.testing.assert_allclose(out.mean, action.dist.mean)
    np.testing.assert_allclose(out.cov, action.dist.cov)


TEMPER = jax.jit(temper)


@pytest.mark.parametrize("regret", [0.01, 0.5, 4.0])
@pytest.mark.parametrize("on_limit", [False, True])
def test_tempered_actions_cost_what_they_may(regret, on_limit):
    """Against the cost itself; on a limit the teacher's action is not where the gradient vanishes."""
    for seed in range(20):
        action, student = problem(seed)
        Quu, q, own, wanted = (np.array(a) for a in (action.Quu, action.q, action.dist.mean, student.mean))
        if on_limit:
            wanted = own + np.abs(wanted)  # the limit below: own is the least allowed in every control
            q = q + np.array([0.7, 0.0, 0.2])  # so that the cost still falls outside
            action = action._replace(q=jnp.asarray(q))

        def cost(u, Quu=Quu, q=q):
            return 0.5 * u @ Quu @ u + q @ u

        u = np.array(TEMPER(action, jnp.asarray(wanted), regret))
        excess = cost(wanted) - cost(own)
        if excess <= regret:
            np.testing.assert_array_equal(u, wanted)
        else:
            np.testing.assert_allclose(cost(u) - cost(own), regret, rtol=1e-6)
            share = (u - own) @ (wanted - own) / ((wanted - own) @ (wanted - own))
            np.testing.assert_allclose(u, own + share * (wanted - own), atol=1e-9)
            assert 0 < share < 1


def test_tempered_without_a_bound_or_a_way():
    action, student = problem(4)
    np.testing.assert_array_equal(TEMPER(action, student.mean, np.inf), student.mean)
    np.testing.assert_array_equal(TEMPER(action, action.dist.mean, 1e-3), action.dist.mean)
    concave = action._replace(Quu=-action.Quu, q=jnp.zeros(n))
    assert np.all(np.isfinite(TEMPER(concave, student.mean, 1e-9)))


@pytest.mark.parametrize("regret", [1e-12, 1e-6, 1e-3, 0.1])
def test_tempered_in_single_precision_where_the_label_is_not_the_minimum(regret):
    """The way first goes down: −s + 2 s² = regret beyond s = ½."""
    one = np.ones(1, np.float32)
    action = Action(Gaussian(0 * one, one[None]), 4 * one[None], -one, np.int32(0))
    u = TEMPER(action, jnp.asarray(one), np.float32(regret))
    exact = (1 + np.sqrt(1 + 8 * regret)) / 4
    np.testing.assert_allclose(u, exact, rtol=1e-6)


def test_tempering_is_the_tilt_with_the_teachers_own_covariance():
    """With S = Quu⁻¹ and λ = s / (1 − s)."""
    action, student = problem(5)
    u = TEMPER(action, student.mean, 0.2)
    way = student.mean - action.dist.mean
    s = (u - action.dist.mean) @ way / (way @ way)
    again = jax.jit(lambda lam: tilt(action, student, lam, cov=jnp.linalg.inv(action.Quu)).mean)(s / (1 - s))
    np.testing.assert_allclose(u, again, atol=1e-9)
