"""BC, DAgger and PLATO: what they learn, whom they let drive, what they count, and that they resume."""

import itertools
import logging
import os
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from jax.experimental.compilation_cache import compilation_cache
from small_tasks import plain, same

from gps import checkpoint
from gps.algorithms.bc import bc
from gps.algorithms.coaching import coaching
from gps.algorithms.dagger import dagger
from gps.algorithms.imitation import COUNTED
from gps.algorithms.plato import Pull, adapted_drives, plato
from gps.episodes import MIXTURE, STUDENT, TEACHER
from gps.evaluate import drift, evaluate
from gps.types import Action, Gaussian, Teacher
from students.policies import mlp

FACTORIES = {"bc": bc, "dagger": dagger, "plato": plato}
KEY = jax.random.key(17)
SMALL = {"num_worlds": 4, "num_steps": 60, "updates": 5, "batch_size": 16, "test_worlds": 0}
"""A budget to watch who drives with, not to learn with."""


@pytest.fixture(scope="module", autouse=True)
def compile_the_same_program_once(tmp_path_factory):
    """The algorithms share their fits and trials, but each jits its own."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def go(algorithm, iterations, state=None, start=0):
    """The last state and the info of every iteration."""
    state, infos = algorithm.init(KEY) if state is None else state, []
    for i in range(start, start + iterations):
        state, info = algorithm.step(jax.random.fold_in(KEY, i), state)
        infos.append({name: plain(value) for name, value in info.items()})
    return state, infos


# ------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("name", FACTORIES)
def test_reaches_the_teacher_on_a_plant_that_forgives(name):
    env = tasks.swing()
    budget = {"num_worlds": 8, "num_steps": 50, "updates": 300, "batch_size": 64, "learning_rate": 1e-2}
    algorithm = FACTORIES[name](
        env, tasks.swing_teacher, mlp(1, (16,), limits=env.limits), iterations=3, test_worlds=32, **budget
    )
    _, infos = go(algorithm, 3)
    worlds = jax.random.split(jax.random.key(0x7E57), 32)
    teacher = jax.jit(lambda: evaluate(env, make_teacher=tasks.swing_teacher)(worlds, ())[0])()
    expected = float(np.mean(teacher.cost))
    assert abs(infos[-1]["student_cost"] - expected) < 0.05 * expected
    np.testing.assert_allclose(infos[-1]["student_time"], 5.0)
    assert infos[-1]["loss"] < infos[0]["loss"] and infos[-1]["kl"] < infos[0]["kl"]


@pytest.mark.parametrize("make", [bc, dagger, coaching])
def test_the_loss_weighs_the_labels(make):
    """Labels of 1 are sure (precision 99), labels of 0 are not (1): the plain mean of all, or a weighted."""

    def torn(env):
        def act(key, state, x, t):
            sure = x[1] < jnp.pi
            mean, precision = jnp.where(sure, 1.0, 0.0)[None], jnp.where(sure, 99.0, 1.0) * jnp.eye(1)
            dist = Gaussian(mean, jnp.linalg.inv(precision))
            return Action(dist, precision, -precision @ mean, jnp.int32(0)), state

        return Teacher(lambda key, x0: (), act)

    def said_and_labels(loss):
        budget = {"num_worlds": 64, "num_steps": 1, "updates": 400, "batch_size": 64, "learning_rate": 0.03}
        algorithm = make(tasks.road(), torn, tasks.constant(), loss=loss, iterations=2, **budget)
        state, _ = go(algorithm, 2)
        return float(algorithm.policy(state)[0][0][0]), plain(state.dataset.mean)

    for loss in ("mse", "nll", "kl"):
        said, labels = said_and_labels(loss)
        weight = np.where(labels > 0.5, 99, 1) if loss == "kl" else np.ones_like(labels)
        assert said == pytest.approx(np.average(labels, weights=weight), abs=0.02)
    with pytest.raises(ValueError, match="loss must be one of kl, nll, mse, got 'l1'"):
        make(tasks.road(), torn, tasks.constant(), loss="l1")


@cache
def on_the_road(name):
    """(state, infos, drift) of four iterations, with the same budget for everyone."""
    env, student = tasks.road(), mlp(1, (16,), limits=tasks.road().limits)
    budget = {"num_worlds": 8, "num_steps": 60, "updates": 400, "batch_size": 64, "learning_rate": 1e-2}
    algorithm = FACTORIES[name](env, tasks.road_teacher, student, iterations=4, test_worlds=64, **budget)
    state, infos = go(algorithm, 4)
    apart = jax.jit(drift(env, tasks.road_teacher, student))
    unseen = jax.random.split(jax.random.key(99), 64)
    return state, infos, jax.tree.map(np.asarray, apart(unseen, algorithm.policy(state)))


@pytest.mark.slow
def test_only_students_taught_on_their_own_states_stay_on_a_road_that_the_teacher_never_leaves():
    """The teacher keeps the offset at exactly zero, so its own states cannot show how to get back, and the
    plant multiplies an offset by 1.15 per step: what is left of the fit's error, a thousandth or more, grows
    4000-fold in 60 steps. On the student's own states (DAgger), or those in between (PLATO: with λ = 3 a
    quarter of the control is the teacher's, and 1.15 · ¾ < 1), the label shows the way back.
    """
    found = {name: on_the_road(name) for name in FACTORIES}
    cloned = found["bc"][1][-1]["student_cost"]
    lasted = {name: np.mean(report.alive[-1]) / 64 for name, (_, _, report) in found.items()}
    assert lasted["bc"] < 0.1
    for name in ("dagger", "plato"):
        assert lasted[name] > 0.95
        assert found[name][1][-1]["student_cost"] < cloned / 3
        assert found[name][2].divergence[-1] < 0.2
    assert np.all(found["bc"][0].dataset.obs[:, 0] == 0)


@pytest.mark.slow
def test_drift_is_where_the_clone_fails():
    """BC's loss on the teacher's states says nothing about its own; the others' losses agree on both."""
    cloned, own = on_the_road("bc")[2], on_the_road("dagger")[2]
    lasts = cloned.alive > 0
    assert np.mean(cloned.loss_on_student[lasts]) > 20 * np.mean(cloned.loss_on_teacher[lasts])
    assert np.mean(own.loss_on_student) < 20 * np.mean(own.loss_on_teacher)
    assert cloned.divergence[40] > 5 * cloned.divergence[10] > 0 == cloned.divergence[0]


def test_where_a_clone_first_drives_dagger_crashes_and_plato_does_not():
    """In iteration 1 the student is BC's, blind to the offset: left alone it drifts off the road, while with
    the teacher's quarter |e| stays below .75 err / (1 − 1.15 · ¾) = 5.5 times its error.
    """
    crashes = {name: [int(info["crashes"]) for info in on_the_road(name)[1]] for name in FACTORIES}
    assert crashes["bc"] == [0, 0, 0, 0] and crashes["dagger"][0] == crashes["plato"][0] == 0
    assert crashes["plato"][1] == 0 < crashes["dagger"][1]


# ---------------------------------------------------------------------------------------- who drives


@cache
def small(factory, **settings):
    """With the smallest student."""
    return factory(tasks.road(), tasks.road_teacher, tasks.affine(), iterations=3, **SMALL, **settings)


@cache
def watched(factory, **settings):
    """(state, infos) of three iterations of `small`."""
    return go(small(factory, **settings), 3)


def blocks(state, infos):
    """The dataset's rows, iteration by iteration."""
    rows, ends = jax.tree.map(plain, state.dataset._replace(next_slot=())), [0]
    for info in infos:
        ends.append(ends[-1] + int(info["samples"]))
    return [jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], rows) for a, b in itertools.pairwise(ends)]


def test_without_pull_plato_collects_what_bc_does_bit_for_bit():
    cloned, pulled = watched(bc)[0], watched(plato, lam=0.0)[0]
    assert same(cloned.dataset, pulled.dataset) and same(cloned.fit, pulled.fit)
    assert np.all(cloned.dataset.behaviour == TEACHER)


def test_with_all_the_pull_plato_visits_the_states_of_dagger():
    student_led, pulled = (blocks(*watched(dagger)), blocks(*watched(plato, lam=1e9)))
    for one, two in zip(student_led[:2], pulled[:2], strict=True):
        np.testing.assert_allclose(one.x, two.x, atol=1e-5)
        np.testing.assert_allclose(one.mean, two.mean, atol=1e-5)
    assert np.std(student_led[1].x[:, 0]) > 0.1
    assert np.all(student_led[1].behaviour == STUDENT) and np.all(pulled[1].behaviour == MIXTURE)


def test_dagger_hands_over_as_its_schedule_says():
    """β_i = .6^i: measured within four standard errors."""
    n = SMALL["num_worlds"] * SMALL["num_steps"]
    for i, rows in enumerate(blocks(*watched(dagger, beta=0.6))):
        share, expected = np.mean(rows.behaviour == TEACHER), 0.6**i
        assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)
        taught = rows.behaviour == TEACHER
        np.testing.assert_allclose(rows.action[taught], np.clip(rows.mean[taught], -3, 3), rtol=1e-6)
        if i:
            assert np.mean(np.abs(rows.action[~taught] - rows.mean[~taught]) > 1e-3) > 0.9


def test_plato_acts_between_its_teacher_and_its_student():
    """With one control and Quu = 4 throughout, u = (λ m + u*) / (λ + 1): never the student's own action."""
    lam = 2.0
    before, _ = go(small(plato, lam=lam), 1)
    rows = blocks(*watched(plato, lam=lam))[1]
    weight = np.asarray(before.fit.variables[0][0], float)
    modes = rows.obs @ weight[:, :-1].T + weight[:, -1]
    expected = np.clip((lam * modes + rows.mean) / (lam + 1), -3, 3)
    np.testing.assert_allclose(rows.action, expected, atol=1e-5)
    assert np.all(rows.behaviour == MIXTURE)
    assert np.mean(np.abs(rows.action - modes) > 1e-3) > 0.9


def test_with_a_bound_plato_follows_its_student_as_far_as_that_costs_no_more():
    """One control and Quu = 4 throughout: ½ 4 (u − u*)² ≤ regret."""
    regret = 0.02
    before, _ = go(small(plato, lam=1e9, regret=regret), 1)
    rows = blocks(*watched(plato, lam=1e9, regret=regret))[1]
    weight = np.asarray(before.fit.variables[0][0], float)
    modes = np.clip(rows.obs @ weight[:, :-1].T + weight[:, -1], -3, 3)
    excess = 2.0 * (rows.action - rows.mean) ** 2
    near = 2.0 * (modes - rows.mean) ** 2 < regret
    assert 0.05 < near.mean() < 0.95
    np.testing.assert_allclose(rows.action[near], modes[near], atol=1e-4)
    np.testing.assert_allclose(excess[~near], regret, rtol=1e-3)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_where_the_planner_disowns_its_label_plato_lets_it_drive(status):
    eye, far = np.eye(1), np.array([1.9])
    action = Action(Gaussian(np.array([0.1]), eye), eye, np.array([-0.1]), np.int32(status))
    pull = Pull(np.float64(1e9), eye, np.float64(2.0))
    drive = jax.jit(lambda action, dist: adapted_drives(jax.random.key(0), pull, action, dist, tasks.road()))
    u, log_prob, behaviour = drive(action, Gaussian(far, eye))
    np.testing.assert_allclose(u, [0.1] if status else far)
    assert behaviour == (TEACHER if status else MIXTURE)
    np.testing.assert_allclose(log_prob, -0.5 * np.log(2 * np.pi), rtol=1e-6)  # its own mode


# ------------------------------------------------------------------------------------------ counting


@cache
def counted():
    """A run in which the task itself counts, and the programs compiled in each of its iterations."""
    calls = {"steps": [], "failures": [], "queries": []}

    def count(name):
        return lambda value: jax.debug.callback(calls[name].append, value)

    def once(name):
        return lambda x: count(name)((x[0] <= np.inf).astype(int))

    env = tasks.road(on_step=once("steps"), on_failure=count("failures"))
    budget = SMALL | {"num_steps": 40}

    def make_teacher(env):
        return tasks.road_teacher(env, on_act=once("queries"), disowned=0.5)

    algorithm = dagger(env, make_teacher, tasks.affine(), iterations=4, **budget)
    programs, state, infos = [], algorithm.init(KEY), []
    for i in range(4):
        with compilations() as compiled:
            state, found = go(algorithm, 1, checkpoint.settle(state), i)
        jax.effects_barrier()
        infos.append(found[0] | {f"seen_{name}": int(np.sum(seen)) for name, seen in calls.items()})
        programs.append(list(compiled))
    return state, infos, programs


class compilations(logging.Handler):  # noqa: N801 (a context manager)
    """The programs that JAX compiles inside the block."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.found, self.logger = [], logging.getLogger("jax._src.interpreters.pxla")

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Compiling"):
            self.found.append(text.split()[1])

    def __enter__(self):
        self.switch, self.propagates = jax.log_compiles(), self.logger.propagate
        self.switch.__enter__()
        self.logger.addHandler(self)
        self.logger.propagate = False
        return self.found

    def __exit__(self, *error):
        self.logger.removeHandler(self)
        self.logger.propagate = self.propagates
        self.switch.__exit__(*error)


def test_totals_are_what_the_task_itself_counts():
    state, infos, _ = counted()
    for info in infos:
        assert info["total_simulator_steps"] == info["seen_steps"]
        assert info["total_teacher_queries"] == info["seen_queries"]
        assert info["total_crashes"] == info["seen_failures"]
    assert infos[-1]["seen_failures"] > 0 and infos[0]["seen_steps"] == 4 * 40
    for name in COUNTED:
        assert infos[-1][f"total_{name}"] == sum(info[name] for info in infos) == state.totals[name]
    assert infos[-1]["total_gradient_updates"] == 4 * SMALL["updates"]


def test_disowned_labels_are_counted_and_left_out():
    state, infos, _ = counted()
    offsets = np.abs(np.asarray(state.dataset.x[:, 0]))
    filled = np.asarray(state.dataset.weight) > 0
    assert sum(info["refused_labels"] for info in infos) > 0
    for info in infos:
        assert info["samples"] + info["refused_labels"] == info["teacher_queries"] == 160
    assert np.sum(filled) == infos[-1]["total_samples"] and np.max(offsets[filled]) <= 0.5


def test_one_program_per_phase():
    _, _, programs = counted()
    phases = ("gather", "run")
    assert [sum(phase in name for name in programs[0]) for phase in phases] == [1, 1]
    assert programs[1:] == [[], [], []]


def test_the_teachers_cost_is_told_where_the_teacher_drives():
    runs = {"bc": watched(bc), "dagger": watched(dagger), "plato": watched(plato, lam=2.0)}
    for name, (_, infos) in runs.items():
        assert ["teacher_cost" in info for info in infos] == [True, *[name == "bc"] * 2]
        assert infos[0]["teacher_cost"] == infos[0]["driver_cost"]


# ------------------------------------------------------------------------------------------ resuming


def test_a_restored_state_goes_on_with_the_same_bits(tmp_path):
    algorithm = small(dagger)
    half, _ = go(algorithm, 1)
    half = checkpoint.settle(half)
    checkpoint.save(tmp_path, 1, half)
    step, restored = checkpoint.restore(tmp_path, checkpoint.settle(algorithm.init(jax.random.key(0))))
    assert step == 1 and same(restored, half)
    straight, infos = go(algorithm, 2, half, 1)
    resumed, infos_again = go(algorithm, 2, restored, 1)
    assert same(straight, resumed) and same(infos, infos_again)


PLACED = """
import jax
jax.config.update("jax_default_device", jax.devices("cpu")[1])
import small_tasks as tasks
from jax.experimental.compilation_cache import compilation_cache
from gps.algorithms.dagger import dagger
host, accelerator = jax.devices("cpu")
small = {"num_worlds": 2, "num_steps": 5, "updates": 2, "batch_size": 4, "test_worlds": 2}
algorithm = dagger(tasks.road(), tasks.road_teacher, tasks.affine(), iterations=2, **small)
state = algorithm.init(jax.random.key(0))
for i in range(2):
    state, info = algorithm.step(jax.random.key(i), state)
    places = [{d for leaf in jax.tree.leaves(tree) for d in leaf.devices()} for tree in state[:2]]
    assert places == [{accelerator}, {host}], places
print("fine")
"""


def test_fits_on_the_accelerator_and_collects_on_the_cpu():
    paths = os.pathsep.join([os.getcwd(), os.path.dirname(tasks.__file__)])
    environment = {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", PLACED], env=os.environ | environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bc", {"iterations": 0}, "iterations must be at least 1, got 0"),
        ("bc", {"num_worlds": -1}, "num_worlds must be at least 1, got -1"),
        ("dagger", {"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ("plato", {"updates": 0}, "updates must be at least 1, got 0"),
        ("plato", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ("bc", {"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0"),
        ("bc", {"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ("bc", {"test_worlds": -1}, "test_worlds must be at least 0, got -1"),
        ("dagger", {"beta": 1.5}, r"beta must be in \[0, 1\], got 1.5"),
        ("dagger", {"beta": float("nan")}, r"beta must be in \[0, 1\], got nan"),
        ("plato", {"lam": -0.1}, "lam must be at least 0, got -0.1"),
        ("plato", {"lam": float("nan")}, "lam must be at least 0, got nan"),
        ("plato", {"regret": 0.0}, "regret must be positive, got 0.0"),
    ],
)
def test_errors_say_what_is_wrong(name, settings, message):
    with pytest.raises(ValueError, match=message):
        FACTORIES[name](tasks.road(), tasks.road_teacher, tasks.affine(), **settings)
