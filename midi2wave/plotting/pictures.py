"""Pictures of the commands: the same on every machine, and never a reason for a command to end.

matplotlib reads the user's settings when it is imported: `MPLBACKEND` and a `matplotlibrc`. Some of them are impossible
outside the user's own program (the backend of a notebook) or need other programs (`text.usetex` needs LaTeX). Nothing
here imports matplotlib before a picture is drawn, so that importing this package changes nothing for others who draw.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi2wave.utils.cli import format_error, log

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_picture(path: Path, draw: Callable[[], "Figure"]) -> None:
    """Draw a figure and write it as PNG; whatever fails is a remark of one line.

    matplotlib has its default settings meanwhile, and those of the user again afterwards.

    Args:
        path: The picture.
        draw: Makes the figure. Modules that import matplotlib are to be imported in it, since that import can fail.
    """
    try:
        with default_settings():
            from midi2wave.plotting.figures import save_figure

            save_figure(path, draw())
    except OSError as error:
        log(f"{path} could not be written: {format_error(error)}")
    except Exception as error:  # Of any kind: what the picture shows is worth more than the picture.
        log(f"{path} could not be drawn, the rest goes on: {format_error(error)}")


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Context manager in which matplotlib has the settings that it is shipped with."""
    _import_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)  # Some defaults are deprecated.
            # The backend is only used by pyplot, which nothing here imports, and is not restored by the context.
            defaults: dict[Any, Any] = dict(matplotlib.rcParamsDefault.items())
            del defaults["backend"]
            matplotlib.rcParams.update(defaults)
        yield


def _import_matplotlib() -> None:
    """Import matplotlib even if MPLBACKEND names a backend that is not installed, at which its import fails."""
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # As the import would have set it, for others who draw.
