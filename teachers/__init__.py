"""Teachers: they see the full state, and label it.

    planner = teachers.ilqr(env, horizon=100)
    solution, trace = jax.jit(planner.solve)(x0, jnp.zeros((100, env.nu)))

    teacher = teachers.mpc(env, horizon=20)
    action, state = teacher.act(key, teacher.init(key, x0), x0, 0)

`env` is any `gps.types.Env`: one of `envs`, your MJCF (`envs.mjcf.from_mjcf`), or plain JAX functions
(`gps.plant.plant`).
"""

from teachers.best_of import best_of
from teachers.cem import cem
from teachers.cma_es import cma_es
from teachers.constrained import Constraints, constrained
from teachers.dial import dial
from teachers.ilqr import ilqr
from teachers.ilqs import ilqs
from teachers.kl_lqr import KLSolution, KLStatus, kl_lqr
from teachers.local_lqr import local_lqr
from teachers.mpc import mpc
from teachers.mppi import mppi
from teachers.noise import coloured, spline, white
from teachers.pi2 import local_pi2
from teachers.pilqr import local_pilqr
from teachers.planned import planned
from teachers.planner import Planner, Solution, SolveStatus, Trace
from teachers.predictive_sampling import predictive_sampling
from teachers.recorded import recorded
from teachers.shooting import multiple_shooting
from teachers.tilt import temper, tilt

__all__ = [
    "Constraints",
    "KLSolution",
    "KLStatus",
    "Planner",
    "Solution",
    "SolveStatus",
    "Trace",
    "best_of",
    "cem",
    "cma_es",
    "coloured",
    "constrained",
    "dial",
    "ilqr",
    "ilqs",
    "kl_lqr",
    "local_lqr",
    "local_pi2",
    "local_pilqr",
    "mpc",
    "mppi",
    "multiple_shooting",
    "planned",
    "predictive_sampling",
    "recorded",
    "spline",
    "temper",
    "tilt",
    "white",
]
