"""Two revisions of this repository beside each other, each with packages and entry points of its own.

A revision is checked out into a temporary worktree and gets a light virtual environment: it sees the packages of the running
interpreter through a ``.pth`` file, and its own checkout first, with the entry points of its own ``pyproject.toml``. So
``train NAME``, tokenizers and model families are those of the revision, whatever is installed here. Nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Revision:
    """One revision that can be run."""

    name: str
    """How it was asked for."""
    commit: str
    """Its commit."""
    folder: Path
    """The checkout."""
    python: Path
    """The interpreter whose ``import tokenize_kit`` is the checkout."""

    def start(
        self, words: Sequence[str | Path], folder: Path, threads: int = 1, *, fed: bool = False
    ) -> subprocess.Popen[str]:
        """Start ``python WORDS`` in a folder, on so many threads; stdout is piped, stdin if it is ``fed``, stderr goes on."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "PYTHONWARNINGS": "ignore"}
        command = [str(self.python), *map(str, words)]
        stdin = subprocess.PIPE if fed else None
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True)

    def run(self, words: Sequence[str | Path], folder: Path, threads: int = 1) -> str:
        """Run ``python WORDS`` in a folder and return its stdout.

        Raises:
            RuntimeError: it ended with another exit code than 0.
        """
        process = self.start(words, folder, threads)
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} ended with exit code {process.returncode}: {' '.join(map(str, words))}")
        return out


@contextmanager
def checked_out(names: Sequence[str]) -> Iterator[list[Revision]]:
    """Check out each revision and make it runnable; everything is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="revisions-") as temporary:
        made: list[Revision] = []
        try:
            for number, name in enumerate(names):
                commit = git("rev-parse", "--verify", f"{name}^{{commit}}")
                folder = Path(temporary) / f"checkout-{number}"
                git("worktree", "add", "--detach", "--quiet", str(folder), commit)
                python = _environment(Path(temporary) / f"environment-{number}", folder)
                made.append(Revision(name, commit[:10], folder, python))
                found = (
                    made[-1].run(["-c", "import tokenize_kit; print(tokenize_kit.__file__)"], Path(temporary)).strip()
                )
                assert Path(found).resolve().is_relative_to(folder.resolve()), f"{name} is imported from {found}"
            yield made
        finally:
            for number in range(len(names)):
                shutil.rmtree(Path(temporary) / f"checkout-{number}", ignore_errors=True)
            git("worktree", "prune")


def git(*words: str) -> str:
    """Run git in this repository and return what it says."""
    return subprocess.run(["git", "-C", ROOT, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _environment(target: Path, checkout: Path) -> Path:
    """Make the virtual environment of a checkout; return its interpreter."""
    venv.create(target, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = target / "lib" / version / "site-packages"
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "revision.pth").write_text("\n".join([str(checkout), *shared]) + "\n")
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # What an installation would leave for importlib.metadata; it is found before that of the shared packages.
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in items.items())
        for group, items in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return target / "bin" / "python"
