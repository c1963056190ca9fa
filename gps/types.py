"""Every type that crosses a package boundary. Read this file first.

Conventions. A method is a factory that closes over its settings and returns one of the NamedTuples
of pure functions below. Arrays travel in NamedTuples. Everything is unbatched; batches come from
`jax.vmap` at the call site, and `jax.jit` is applied once, outside. T controls, T+1 states; costs
are minimised. x is MuJoCo's (qpos, qvel, act) or any flat vector; differences of states live in
the tangent space, written x ⊖ x̄ (`Env.minus`) and x̄ ⊕ δx (`Env.plus`), with ndx = 2 nv + na
entries. A failure inside a jitted program is a `Status` in the result, never an exception.

The loop these types serve:

    Env ──x──▶ Teacher ──Action──▶ Dataset ──batch──▶ Student ──KL──▶ Teacher ──▶ …
"""

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.gaussian import Gaussian

if TYPE_CHECKING:
    import mujoco

__all__ = [
    "Action",
    "Algorithm",
    "Bodies",
    "Cost",
    "Dataset",
    "Env",
    "FinalCost",
    "Gaussian",
    "KLTerm",
    "Limits",
    "LinearDynamics",
    "LinearGaussian",
    "LocalTeacher",
    "Mirror",
    "Observer",
    "QuadraticCost",
    "ResidualCost",
    "Status",
    "Student",
    "Teacher",
    "Trajectory",
    "Unroll",
    "View",
]


class Status(IntEnum):
    """What a simulation step reports about itself (an int32 inside jitted programs)."""

    OK = 0
    DIVERGED = 1
    """NaN, infinite or huge state, control or acceleration: the state is held at its last good value."""
    ENGINE_ERROR = 2
    """MuJoCo raised an error (`mju_error`); `Engine.last_error()` has its text."""


# ------------------------------------------------------------------------------------ expansions


class LinearDynamics(NamedTuple):
    """δx' = A δx + B δu and, for the sensors that costs read, δy = C δx + D δu; one knot.

    Along a trajectory every field carries a leading T.
    """

    A: Float[Array, "ndx ndx"]
    B: Float[Array, "ndx nu"]
    C: Float[Array, "ny ndx"]
    D: Float[Array, "ny nu"]


class QuadraticCost(NamedTuple):
    """c(x̄⊕δx, ū+δu) ≈ c + qᵀδx + rᵀδu + ½ δxᵀQδx + ½ δuᵀRδu + δuᵀ Mᵀ δx, around (x̄, ū).

    It keeps its constant and its nominal point, because step rules compare different expansions.
    The last knot of a trajectory (no control) has zero r, R and M.
    """

    c: Float[Array, ""]
    q: Float[Array, " ndx"]
    r: Float[Array, " nu"]
    Q: Float[Array, "ndx ndx"]
    R: Float[Array, "nu nu"]
    M: Float[Array, "ndx nu"]
    x: Float[Array, " nx"]
    u: Float[Array, " nu"]


# ------------------------------------------------------------------------------------------ task

Cost = Callable[
    [Float[Array, " nx"], Float[Array, " nu"], Float[Array, " ny"], Int[Array, ""]],
    Float[Array, ""],
]
"""c(x, u, y, t): stage cost at control step t with sensor readings y = `Env.sense(x, u)`."""

FinalCost = Callable[[Float[Array, " nx"], Float[Array, " ny"]], Float[Array, ""]]
"""c_T(x, y): cost of the last state, sensors read at zero control."""


class ResidualCost(NamedTuple):
    """A cost norm(residual(…)), callable like any other cost.

    Being of this type is what lets `gps.expand` use the Gauss-Newton Hessian Jᵀ(∇²norm)J, positive
    semi-definite wherever `norm` is convex. `norm` maps the residual vector to the weighted sum.
    """

    residual: Callable[..., Float[Array, " nr"]]
    norm: Callable[[Float[Array, " nr"]], Float[Array, ""]]

    def __call__(self, *args: Array) -> Float[Array, ""]:
        """norm(residual(*args)), with the arguments of a `Cost` or a `FinalCost`."""
        return self.norm(self.residual(*args))


class Limits(NamedTuple):
    """Box on the controls; ±inf where there is none."""

    low: Float[Array | np.ndarray, " nu"]
    high: Float[Array | np.ndarray, " nu"]


class Observer(NamedTuple):
    """What the student may see: reads the state and its sensors, keeps a memory per episode.

    Noise, delay, dropout and history wrap an observer; none of them touches the dynamics.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    """key → memory at the start of an episode."""
    observe: Callable[..., tuple[PyTree, PyTree]]
    """(key, memory, x, y, u_prev) → (obs, memory); y = `Env.sense(x, u_prev)`, u_prev zero at first."""


class Mirror(NamedTuple):
    """A symmetry of the task, such as left and right exchanged.

    Episodes seen in this mirror are as likely, and their actions as good, as the episodes themselves.
    """

    obs: Callable[[PyTree], PyTree]
    """observation → its reflection."""
    control: Float[Array | np.ndarray, "nu nu"]
    """An orthogonal matrix: u → control @ u."""


class View(NamedTuple):
    """Another look at a state, such as from a side camera, and the label that belongs to what is seen.

    Both draw what they leave to chance from the same key.
    """

    observe: Callable[..., PyTree]
    """(key, x, y) → an observation like the student's own."""
    relabel: Callable[..., Float[Array, " nu"]]
    """(key, x, u) → what to do about it, where the teacher does `u` in x."""


class Bodies(NamedTuple):
    """What a MuJoCo task is drawn from."""

    model: "mujoco.MjModel"
    inputs: Callable[..., Float[Array, " ninput"] | None]
    """x → inputs of the engine (poses of mocap bodies); None: the model's."""


class Env(NamedTuple):
    """A task: dynamics, costs, what may be observed, and the context that varies per episode.

    `x` alone determines what a step returns, given the context the env is bound to: the solver's
    warm start is zero when a call begins. A context (obstacle positions, target, …) is sampled by
    `sample_context` and closed over by `bind`, which works under `jit` and `vmap`; planners never
    hear of contexts. The functions of an unbound env use the default context.
    """

    name: str
    nx: int
    ndx: int
    nu: int
    ny: int
    horizon: int
    """Control steps per episode."""
    dt: float
    """Seconds per control step."""
    limits: Limits
    init: Callable[[Key[Array, ""]], Float[Array, " nx"]]
    """key → first state of an episode."""
    step: Callable[..., tuple[Float[Array, " nx"], Int[Array, ""]]]
    """(x, u) → (x', status). u is clipped to `limits`."""
    sense: Callable[..., Float[Array, " ny"]]
    """(x, u) → y, the sensor readings at (x, u); an empty vector if ny = 0."""
    linearize: Callable[..., LinearDynamics]
    """(x, u) → A, B, C, D in the tangent space."""
    rollout: Callable[..., "Trajectory"]
    """(x0, controller, noise) → Trajectory under u_t = clip(ū_t + K_t (x_t ⊖ x̄_t) + noise_t).

    `noise` is [T, nu] in units of the control. The trajectory's `costs` are filled in, its `status`
    is the first non-OK status met; from there on the state is held.
    """
    cost: Cost
    final_cost: FinalCost
    failed: Callable[..., Bool[Array, ""]]
    """(x, y) → whether the episode has ended in failure (a crash)."""
    minus: Callable[..., Float[Array, " ndx"]]
    """(x, x̄) → x ⊖ x̄."""
    plus: Callable[..., Float[Array, " nx"]]
    """(x̄, δx) → x̄ ⊕ δx."""
    observer: Observer
    sample_context: Callable[[Key[Array, ""]], PyTree]
    """key → context; the empty tuple where nothing varies."""
    bind: Callable[[PyTree], "Env"]
    """context → the same env in that context."""
    reward: Callable[..., Float[Array, ""]] | None = None
    """(x, u, x') → reward, where the task has one that is not −cost."""
    planning: "Env | None" = None
    """The model that planners should use in place of this env (coarser steps, fewer geoms, no gusts),
    with the same state and controls; `bind` binds it too. None: this env itself."""
    proposal: Callable[..., Float[Array, " nu"]] | None = None
    """(x, t) → u: a policy whose course planners that sample try too."""
    metrics: Callable[..., dict[str, Float[Array, ""]]] | None = None
    """(x, u) → named figures of merit of one step, averaged over episodes by `gps.evaluate`."""
    mirror: Mirror | None = None
    """A symmetry that students may learn from."""
    views: tuple[View, ...] = ()
    """Looks at a demonstrated state that students may learn from, the first from where their camera is."""
    nv: int | None = None
    """Degrees of freedom: δx begins with nv positions and their nv velocities. None: who knows."""
    conditions: PyTree = None
    """The contexts [M, …] of a task that is trained in a fixed set of them; None: any that are sampled."""
    bodies: Bodies | None = None
    """What films show; None: there is no MuJoCo model."""


class Trajectory(NamedTuple):
    """One episode or plan."""

    xs: Float[Array, "T+1 nx"]
    us: Float[Array, "T nu"]
    """Controls as executed, i.e. inside the limits."""
    ys: Float[Array, "T+1 ny"]
    costs: Float[Array, " T+1"]
    """T stage costs and the final cost."""
    status: Int[Array, ""]


# -------------------------------------------------------------------------------------- teachers


class LinearGaussian(NamedTuple):
    """u_t ~ N(ū_t + K_t (x_t ⊖ x̄_t), Σ_t), t = 0 … T-1.

    What a trajectory optimiser returns, and what a student looks like to it once linearised.
    """

    xs: Float[Array, "T nx"]
    us: Float[Array, "T nu"]
    K: Float[Array, "T nu ndx"]
    cov: Float[Array, "T nu nu"]


class Action(NamedTuple):
    """What a teacher says at one state: a Gaussian, and the local quadratic it came from.

    `dist` is the label. Quu and q are the *unregularised* local action-value expansion in absolute
    controls, Q(u) = ½ uᵀQuu u + qᵀu (unclipped), so that PLATO gets its tilted action from the same
    solve (`teachers.tilt`). A teacher without one, such as a planner that samples, returns Quu = Σ⁻¹,
    q = −Σ⁻¹ mean: not in units of the cost but one over squared units of the control, larger the longer it
    samples. `mpc(max_curvature=)` scales both, and Σ.
    """

    dist: Gaussian
    Quu: Float[Array, "nu nu"]
    q: Float[Array, " nu"]
    status: Int[Array, ""]
    """0, or the planner's own non-zero status when this label should not be trained on."""
    K: Float[Array, "nu ndx"] | None = None
    """How the mean moves with the state; zero from planners that sample, None where nobody knows."""


class KLTerm(NamedTuple):
    """A pull of a local teacher towards a policy: a constraint KL(p ‖ policy) ≤ bound, or a price on it."""

    policy: LinearGaussian
    bound: Float[Array, ""] | Float[Array, " T"] | None = None
    """ε, nats, of the whole trajectory or of each step; None: no constraint."""
    weight: Float[Array, " T"] | None = None
    """ν_t: what a nat costs at each step; None: no price."""
    multiplier: Float[Array, "T nu"] | None = None
    """λ_t on the first moment of the action (BADMM): the price is less u_tᵀλ_t; None: zero."""


class Teacher(NamedTuple):
    """Labels states. Made by `make_teacher(env)`.

    It sees the full state, and the context through the env it closes over; an algorithm therefore
    receives `make_teacher: Env → Teacher` and calls it on the bound env.
    """

    init: Callable[..., PyTree]
    """(key, x0) → state."""
    act: Callable[..., tuple[Action, PyTree]]
    """(key, state, x, t) → (action, state); x is the state that really occurred."""


class LocalTeacher(NamedTuple):
    """A linear-Gaussian controller for one first state, improved from rollouts. Made by `make_teacher(env)`.

    The phases of guided policy search (Levine & Abbeel 2014): roll out, `learn` from what happened,
    `improve` within reach of the student. Everything is unbatched: one condition, `vmap` for several.
    """

    init: Callable[..., PyTree]
    """(key, x0) → state."""
    controller: Callable[[PyTree], LinearGaussian]
    """state → what it acts with now."""
    learn: Callable[..., tuple[PyTree, dict[str, Array]]]
    """(key, state, trajectories [N]) → (state, info): models of the dynamics and the cost. Rollouts whose
    status is not OK are left out; where none is left, the state is as it was."""
    improve: Callable[..., tuple[PyTree, dict[str, Array]]]
    """(state, terms) → (state, info): a better controller by those models, tied by a tuple of `KLTerm`s of
    which exactly one has a bound. `info` has `kl` to that policy [T], the dual variable `eta`, and whether it
    is `solved`: if not, the controller is that policy."""
    expected_cost: Callable[..., Float[Array, ""]] | None = None
    """(state, controller) → Σ E[c] under the models; None without models."""


# -------------------------------------------------------------------------------------- students


class Unroll(NamedTuple):
    """The windows on which a student that remembers is trained: backpropagation through time, truncated."""

    length: int
    """Consecutive steps."""
    burn_in: int
    """The first of them only warm its memory up, unless an episode begins there: no loss is taken."""


class Student(NamedTuple):
    """A policy on observations.

    `variables` = (params, statistics): what the optimiser moves, and the running normalisation.
    The distributions returned know `sample`, `mode`, `log_prob`, `kl` (see `gps.gaussian.Gaussian`).
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    """(key, obs) → variables, from one unbatched example observation."""
    initial_carry: Callable[[PyTree], PyTree]
    """obs → recurrent state at the start of an episode; the empty tuple without memory.

    Of obs only shapes and dtypes are read.
    """
    apply: Callable[..., tuple[Gaussian, PyTree]]
    """(variables, obs, carry) → (distribution, carry), one step."""
    apply_sequence: Callable[..., Gaussian]
    """(variables, obs [T, …], first [T], carry) → distributions [T]; the carry resets where `first`."""
    observe_statistics: Callable[[PyTree, PyTree, Float[Array, " n"]], PyTree]
    """(variables, obs [n, …], weight [n]) → variables with the input normalisation updated."""
    unroll: Unroll | None = None
    """None: it does not remember, and single steps teach it."""


class Dataset(NamedTuple):
    """Labelled steps, fixed capacity N; a slot with weight 0 is empty.

    `key` reconstructs the context (`env.sample_context(key)`), so that a stored `x` can be labelled or
    looked at again.
    """

    obs: PyTree
    """[N, …] what the student saw."""
    x: Float[Array, "N nx"]
    t: Int[Array, " N"]
    key: Key[Array, " N"]
    action: Float[Array, "N nu"]
    """As executed."""
    log_prob: Float[Array, " N"]
    """Of the unclipped action under the policy that drove."""
    behaviour: Int[Array, " N"]
    """Who drove: 0 teacher, 1 student, 2 a compromise of both."""
    mean: Float[Array, "N nu"]
    precision: Float[Array, "N nu nu"]
    """The label: the mean of the teacher's Gaussian, and as its precision Quu: what an error costs, of a
    planner that samples its Σ⁻¹."""
    cost: Float[Array, " N"]
    first: Bool[Array, " N"]
    terminated: Bool[Array, " N"]
    truncated: Bool[Array, " N"]
    weight: Float[Array, " N"]
    next_slot: Int[Array, ""]
    """Where the next step is written (a ring)."""


# ------------------------------------------------------------------------------------ algorithms


class Algorithm(NamedTuple):
    """The outer loop: Python over jitted programs, collect on the CPU and fit on the student's device."""

    init: Callable[[Key[Array, ""]], PyTree]
    """key → state. The state holds everything the next step needs: saving it is a checkpoint."""
    step: Callable[[Key[Array, ""], PyTree], tuple[PyTree, dict[str, Any]]]
    """(key, state) → (state, info): one iteration; info is what a human wants to see. The key of an
    iteration is `jax.random.fold_in(run_key, iteration)`: a resumed run continues with the same bits."""
    policy: Callable[[PyTree], PyTree]
    """state → the student's variables, to evaluate or export."""
