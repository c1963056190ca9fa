"""MJCF models that together have everything the engine promises to carry, and the plain C loop over them."""

import mujoco
import numpy as np

SMOOTH = """
<mujoco model="smooth">
  <option timestep="0.004" integrator="{integrator}" gravity="0.3 -0.2 -9.81"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <body name="base" pos="0 0 1">
      <freejoint/>
      <geom type="box" size=".2 .1 .05" pos=".03 .02 0"/>
      <body name="arm" pos=".2 0 0">
        <joint name="ball" type="ball" damping=".02"/>
        <geom type="capsule" size=".03" fromto="0 0 0 .3 .05 0"/>
        <body pos=".3 .05 0">
          <joint name="hinge" axis="0 1 .2" damping=".1" stiffness=".5"/>
          <geom type="capsule" size=".02" fromto="0 0 0 .1 .1 .2"/>
          <body pos=".1 .1 .2">
            <joint name="slide" type="slide" axis="1 0 .3" stiffness="40"/>
            <geom size=".04"/>
            <site name="tip"/>
          </body>
        </body>
      </body>
    </body>
    <body name="target" mocap="true" pos="0 0 2" quat="1 .2 .3 0"><site name="target"/></body>
  </worldbody>
  <tendon><fixed name="both"><joint joint="hinge" coef=".5"/><joint joint="slide" coef="-1"/></fixed></tendon>
  <equality><connect body1="arm" body2="target" anchor="0 0 .9" solref=".3 1"/></equality>
  <actuator>
    <motor joint="hinge" gear="2" ctrlrange="-1 1" ctrllimited="true"/>
    <general tendon="both" dyntype="filter" dynprm=".05" gainprm="3"/>
    <orientation joint="ball" kp="2"/>
    <motor joint="slide" gear="5"/>
  </actuator>
  <sensor>
    <framepos objtype="site" objname="tip" reftype="site" refname="target"/>
    <velocimeter site="tip"/>
    <accelerometer site="tip"/>
    <clock/>
    <actuatorfrc actuator="orient"/>
  </sensor>
</mujoco>
""".replace('<orientation joint="ball"', '<orientation name="orient" joint="ball"')

CONTACT = """
<mujoco model="contact">
  <option timestep="0.005" integrator="{integrator}"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1"/>
    <body name="wall" mocap="true" pos=".62 0 .2"><geom type="box" size=".1 .5 .2"/></body>
    <body name="torso" pos="0 0 .34">
      <freejoint/>
      <geom name="torso" type="capsule" size=".1" fromto="-.3 0 0 .3 0 0"/>
      <body pos=".25 .12 0">
        <joint name="front" axis="0 1 0" range="-60 60" damping=".5" armature=".01"/>
        <geom name="front" type="capsule" size=".05" fromto="0 0 0 .05 .05 -.3"/>
      </body>
      <body pos="-.25 -.12 0">
        <joint name="back" axis="0 1 0" range="-60 60" damping=".5" armature=".01" frictionloss=".05"/>
        <geom name="back" type="capsule" size=".05" fromto="0 0 0 -.05 -.05 -.3"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="front" kp="20" ctrlrange="-1 1"/>
    <motor joint="back" gear="4" ctrlrange="-1 1"/>
  </actuator>
  <sensor><framelinvel objtype="body" objname="torso"/><jointpos joint="front"/></sensor>
</mujoco>
"""

INTEGRATORS = ("Euler", "RK4", "implicit", "implicitfast", "discrete")


def load(xml: str, integrator: str = "Euler") -> mujoco.MjModel:
    """The model of one of the strings above."""
    return mujoco.MjModel.from_xml_string(xml.replace("{integrator}", integrator))


def states(model: mujoco.MjModel, n: int, seed: int = 0, spread: float = 0.3, settle: int = 0) -> tuple:
    """n generic states x [n, nx], `settle` steps after their start, and controls u [n, nu] within limits."""
    rng = np.random.default_rng(seed)
    xs, us = [], []
    for _ in range(n):
        d = mujoco.MjData(model)
        mujoco.mj_integratePos(model, d.qpos, spread * rng.standard_normal(model.nv), 1.0)
        d.qvel[:] = spread * rng.standard_normal(model.nv)
        d.act[:] = spread * rng.standard_normal(model.na)
        d.ctrl[:] = rng.uniform(-0.8, 0.8, model.nu)
        for _ in range(settle):
            mujoco.mj_step(model, d)
        xs.append(read(d))
        us.append(d.ctrl.copy())
    return np.array(xs), np.array(us)


def write(d: mujoco.MjData, x: np.ndarray) -> None:
    """x = (qpos, qvel, act) into d."""
    d.qpos[:], d.qvel[:], d.act[:] = np.split(x, np.cumsum([d.qpos.size, d.qvel.size]))


def read(d: mujoco.MjData) -> np.ndarray:
    """The state x of d."""
    return np.concatenate([d.qpos, d.qvel, d.act])


def loop(model: mujoco.MjModel, x: np.ndarray, u: np.ndarray, substeps: int = 1, warm: bool = False) -> tuple:
    """(x', y) of one control step in fresh data: the reference that the engine must reproduce."""
    d = mujoco.MjData(model)
    write(d, x)
    d.ctrl[:] = u
    if warm:
        mujoco.mj_forward(model, d)
        d.qacc_warmstart[:] = d.qacc
    mujoco.mj_step(model, d)
    y = d.sensordata.copy()
    for _ in range(substeps - 1):
        mujoco.mj_step(model, d)
    return read(d), y


def minus(model: mujoco.MjModel, x: np.ndarray, x_ref: np.ndarray) -> np.ndarray:
    """x ⊖ x_ref by MuJoCo."""
    dq = np.zeros(model.nv)
    mujoco.mj_differentiatePos(model, dq, 1.0, x_ref[: model.nq], x[: model.nq])
    return np.concatenate([dq, x[model.nq :] - x_ref[model.nq :]])


def plus(model: mujoco.MjModel, x: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """x ⊕ dx by MuJoCo."""
    qpos = x[: model.nq].copy()
    mujoco.mj_integratePos(model, qpos, dx[: model.nv], 1.0)
    return np.concatenate([qpos, x[model.nq :] + dx[model.nv :]])
