"""Put a peg into a hole whose place the student does not know: it sees joint angles and velocities only."""

from envs import peg
from gps.types import Env

TEACHER, LOCAL, STUDENT = peg.TEACHER, peg.LOCAL, peg.STUDENT


def blind_peg(spread: float = 0.012, horizon: int = 100) -> Env:
    """Insert a peg without seeing the hole; the teacher knows where it is.

    Args:
        spread: the hole is up to this far from its usual place, along x and along y, m.
        horizon: control steps of .05 s in an episode.
    """
    return peg.insertion("blind_peg", spread, 2, horizon, blind=True)
