"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place when the block ends well.

    Parameters
    ----------
    path
        The file to write. It is never half-written: an error or an interruption leaves what was there.
    """
    target = Path(path)
    # A device or a pipe (`/dev/null`, `>(jq)`) is written to, never replaced.
    special = target.exists() and not target.is_file() and not target.is_dir()
    # The suffix stays, as writers choose their format by it.
    folder = None if special else target.parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=".kernelpot-", suffix="".join(target.suffixes[-1:]))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if special:
            with temporary.open("rb") as content, target.open("wb") as sink:
                shutil.copyfileobj(content, sink)
            return
        # mkstemp makes files private; the result gets the mode that any other new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
