"""Where the models of dm_control's suite are (`pip install .[bench]`)."""

import importlib.util
from pathlib import Path

__all__ = ["suite_folder"]


def suite_folder() -> Path:
    """The folder of the suite's MJCF files; dm_control itself, which asks for OpenGL, is not imported.

    Raises:
        SystemExit: dm_control is not installed.
    """
    spec = importlib.util.find_spec("dm_control")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark needs the models of dm_control: pip install .[bench]")
    return Path(spec.origin).parent / "suite"
