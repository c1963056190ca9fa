# The extension module of native/module.cc.
from collections.abc import Sequence

def load(path: str, /) -> None: ...
def make(
    model: int,
    difference_model: int,
    sizes: tuple[int, int, int, int, int, int],
    settings: tuple[int, int, bool],
    low: Sequence[float],
    high: Sequence[float],
    /,
) -> int: ...
def add_camera(
    engine: int,
    place: tuple[int, bool, int, int],
    reals: bytes,
    scenes: Sequence[tuple[bytes, bytes, Sequence[tuple[int, int, bytes]], bytes]],
    /,
) -> int: ...
def free(id: int, /) -> None: ...
def last_error(id: int, /) -> str: ...
def versions() -> tuple[int, int]: ...
def targets() -> dict[str, object]: ...
