"""What UniRes says when it cannot do what was asked: one clear sentence each.

Everything that a user can cause (a wrong file, a wrong name, a full disk) ends in a `UniresError`. Doors
print its text and stop with a non-zero exit; a traceback therefore always means a fault of UniRes itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UniresError(Exception):
    """Something the user can understand and mend; `str(error)` is one sentence, ready to print."""


class PhotoError(UniresError):
    """A photo that cannot be read or written."""


class OptionError(UniresError, ValueError):
    """An option, expert or operator that does not exist, or a value outside its range."""


def nearest(name: str, choices: Iterable[str], *, kind: str = "name") -> str:
    """One sentence about an unknown `name`, with the nearest of the `choices` where one is near.

    >>> nearest("denoiz", ["denoise", "dejpeg"], kind="expert")
    "Unknown expert 'denoiz'; did you mean 'denoise'?"
    >>> nearest("xyz", ["denoise", "dejpeg"], kind="expert")
    "Unknown expert 'xyz'; there are 'denoise' and 'dejpeg'."
    """
    known = list(dict.fromkeys(choices))
    # Compared without regard to case and to the kind of hyphen, since that is what people mistype most.
    plain: dict[str, str] = {}
    for choice in known:
        plain.setdefault(_plain(choice), choice)
    found = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=0.5)
    start = f"Unknown {kind} {shown(name)}"
    if found:
        return f"{start}; did you mean '{plain[found[0]]}'?"
    if not known:
        return f"{start}."
    quoted = [f"'{choice}'" for choice in known]
    if len(quoted) == 1:
        return f"{start}; there is only {quoted[0]}."
    return f"{start}; there are {', '.join(quoted[:-1])} and {quoted[-1]}."


def shown(text: object) -> str:
    """`text` in quotes, fit for one line of a message: control characters escaped, a very long text
    shortened.

    File names may hold newlines, terminal escapes or bytes that are no text; a message must survive them.
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
    if len(plain) > 200:
        plain = plain[:120] + "..." + plain[-60:]
    return f"'{plain}'"


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")
