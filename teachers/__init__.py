"""Teachers: they see the full state, and label it.

    planner = teachers.ilqr(env, horizon=100)
    solution, trace = jax.jit(planner.solve)(x0, jnp.zeros((100, env.nu)))

    teacher = teachers.mpc(env, horizon=20)
    action, state = teacher.act(key, teacher.init(key, x0), x0, 0)

`env` is any `gps.types.Env`: one of `envs`, your MJCF (`envs.mjcf.from_mjcf`), or plain JAX functions
(`gps.plant.plant`).
"""

from teachers.ilqr import ILQR, Solution, SolveStatus, Trace, ilqr
from teachers.kl_lqr import KLSolution, KLStatus, kl_lqr
from teachers.local_lqr import local_lqr
from teachers.mpc import MPCState, mpc
from teachers.pi2 import local_pi2
from teachers.pilqr import local_pilqr
from teachers.tilt import temper, tilt

__all__ = [
    "ILQR",
    "KLSolution",
    "KLStatus",
    "MPCState",
    "Solution",
    "SolveStatus",
    "Trace",
    "ilqr",
    "kl_lqr",
    "local_lqr",
    "local_pi2",
    "local_pilqr",
    "mpc",
    "temper",
    "tilt",
]
