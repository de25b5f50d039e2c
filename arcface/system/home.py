"""A home directory for libraries that insist on writing into one, where the user's own cannot be written, as in containers.

VisualDL makes ~/.visualdl when it is imported, `paddle.jit.save` writes below ~/.cache, and matplotlib keeps a list of fonts.
"""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from arcface.errors import UserError
from arcface.io.files import check_writable

REAL = Path(os.path.expanduser("~"))  # of the user, whatever `use_temporary_home_if_needed` does later
WRITTEN_BY_LIBRARIES = ("", ".cache", ".visualdl")  # in the home


def cache_directory() -> Path:
    """Return where the user's caches are; it need not be there, nor writable."""
    home = REAL if REAL.is_absolute() else Path(os.environ.get("HOME") or tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def why_not_writable() -> str | None:
    """Return what is wrong with the user's home, None if libraries can write there."""
    if not REAL.is_absolute():
        return "this user has no home directory"  # HOME is not set, and no entry of /etc/passwd says it: ~ stays as it is
    for name in WRITTEN_BY_LIBRARIES:
        directory = REAL / name
        if name and not os.path.lexists(directory):
            continue
        try:
            check_writable(directory)
        except OSError as error:
            return f"{directory} cannot be written ({error.strerror or error})"
    return None


def use_temporary_home_if_needed() -> None:
    """Set HOME to a temporary directory, for this process and its children, if the user's home cannot be written.

    It is removed when this process ends. Raises UserError if there is no place for one either.
    """
    if not (reason := why_not_writable()):
        return
    try:
        home = tempfile.mkdtemp(prefix="arcface_home_")
    except OSError as error:
        raise UserError(f"{reason}, nor can a temporary one; set HOME or TMPDIR to a directory that can be written") from error
    atexit.register(_remove, home, os.getpid())
    os.environ["HOME"] = home
    os.environ["MPLCONFIGDIR"] = os.path.join(home, ".matplotlib")  # what XDG_CONFIG_HOME says may be in the other one


def _remove(home: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a forked worker
        with suppress(OSError):
            shutil.rmtree(home)
