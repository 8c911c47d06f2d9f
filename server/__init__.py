import sys
from pathlib import Path

__version__ = "0.1.0"


def python(code: str) -> list[str]:
    """The command of a new process that runs `code`, which may import this package. Not `-m`: with it Python looks in
    the current folder first, which may have something else of the name `server`."""
    found = f"sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import server; del sys.path[0]"
    return [sys.executable, "-c", f"import sys; sys.path[:] = filter(None, sys.path); {found}; {code}"]


def own_command(*arguments: str) -> list[str]:
    """The command of a new process of this program with these arguments."""
    return [*python("from server.cli import main; main()"), *arguments]
