"""The exception for mistakes that the user can correct, and the system errors that no file causes."""

import errno
import struct
import tokenize
import zipfile
import zlib

# The errno of an OSError that says: too many open files, or no memory.
RESOURCE_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# The errno of an OSError that is about what a file is: readers that seek where damaged bytes point get EINVAL, and
# libraries raise OSErrors of their own without any.
FILE_ERRNOS = (None, errno.EINVAL, errno.ENOENT, errno.EISDIR, errno.ENOTDIR)

# The errno of an OSError after which nothing else can be written either.
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
    """A mistake in the user's input: a file, a config, an argument.

    The message is one line that names the thing and its value, what was expected and what to do. Every command prints
    it without a traceback (`cli.run`). Any other exception is a bug of this project and keeps its traceback.
    """


class NoMemoryError(InputError):
    """Memory ran out; the message names options with which less of it is needed."""


def is_system_error(error: Exception) -> bool:
    """Whether an error says that the system could not read a file, and so nothing about what the file holds.

    Such are errors of a disk or a share, missing permission, too many open files, no memory, and a file system without
    the operation that was asked for. Nothing is damaged then.
    """
    return isinstance(error, OSError) and error.errno not in FILE_ERRNOS
