"""A temporary home directory for libraries that write to one, if the user's is not writable, as in many containers.

VisualDL creates ~/.visualdl when imported, `paddle.jit.save` writes below ~/.cache, and matplotlib caches a list of fonts.
"""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from arcface.errors import UserError
from arcface.io.files import check_writable

REAL = Path(os.path.expanduser("~"))  # the user's, before `use_temporary_home_if_needed` changes HOME
WRITTEN_BY_LIBRARIES = ("", ".cache", ".visualdl")  # below the home directory


def cache_directory() -> Path:
    """Return the user's cache directory, which may not exist and may not be writable."""
    home = REAL if REAL.is_absolute() else Path(os.environ.get("HOME") or tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def why_not_writable() -> str | None:
    """Return why libraries cannot write to the user's home directory, or None if they can."""
    if not REAL.is_absolute():
        return "this user has no home directory"  # neither HOME nor /etc/passwd names one, so ~ was not expanded
    for name in WRITTEN_BY_LIBRARIES:
        directory = REAL / name
        if name and not os.path.lexists(directory):
            continue
        try:
            check_writable(directory)
        except OSError as error:
            return f"{directory} is not writable ({error.strerror or error})"
    return None


def use_temporary_home_if_needed() -> None:
    """If the user's home is not writable, set HOME to a temporary directory for this process and its children.

    It is removed when this process ends. Raises UserError if a temporary directory cannot be created either.
    """
    if not (reason := why_not_writable()):
        return
    try:
        home = tempfile.mkdtemp(prefix="arcface_home_")
    except OSError as error:
        raise UserError(
            f"{reason}, and no temporary one can be created ({error.strerror or error}); set HOME or TMPDIR to a writable directory"
        ) from error
    atexit.register(_remove, home, os.getpid())
    os.environ["HOME"] = home
    os.environ["MPLCONFIGDIR"] = os.path.join(home, ".matplotlib")  # XDG_CONFIG_HOME may name a directory in the old home


def _remove(home: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked worker
        with suppress(OSError):
            shutil.rmtree(home)
