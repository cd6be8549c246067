"""Users' files in the texts of a study: results name them by content, and tell nothing of the folders they lie in."""

import os
import re


def portable(path: str, digest: str) -> str:
    """A user's file or folder as results name it: the last part of its path, and twelve digits of what it holds."""
    return f"{os.path.basename(os.path.abspath(os.path.expanduser(path)))}#{digest[:12]}"


def local(text: str) -> str:
    """The path that a text means: itself, or of what `portable` gave, the file of that name in the working folder."""
    return text if os.path.exists(text) else re.sub("#[0-9a-f]{12}$", "", text)
