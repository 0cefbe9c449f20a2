"""The one exception that means: the user can mend this, and the errors of the system that no file is to blame for."""

import errno
import struct
import tokenize
import zipfile
import zlib

RESOURCE_ERRNOS = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)  # the errno of an OSError: too many open files, or no memory
# What NumPy's and zipfile's readers raise for damaged bytes, which may ask for a password or for a huge array.
DAMAGED_ARRAY_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class InputError(Exception):
    """A mistake in what the user gave us: a file, a config, an argument.

    The message is one line that names the thing, its value, what was expected and what to do. Every step prints it
    without a traceback (`cli.run`). Anything else that escapes is a bug of ours and keeps its traceback.
    """
