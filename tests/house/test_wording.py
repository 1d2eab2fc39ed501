"""No file of the project names one machine's folders or the hosts it was fetched from, or leaves work undone."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each pattern is spelled so that it does not match itself.
PATTERNS = {
    "one machine's folder": r"/wor[k]/|/roo[t]/|/(hom[e]|User[s])/(?!me/)\w|/op[t]/\w|/tm[p]/\w|\b[A-Z]:\\User[s]",
    "a package host": r"pyp[i]\.org|pythonhoste[d]\.org|registry\.npmj[s]|deb\.debia[n]|archive\.ubunt[u]|"
    r"anacond[a]\.(org|com)|download\.pytorc[h]|dl-cd[n]|ghc[r]\.io|docke[r]\.io",
    "work left for later": r"\b(TOD[O]|FIXM[E]|XX[X])\b",
}
WEIGHTS = (".safetensors", ".png", ".ico", ".woff2")


def project_files() -> list[Path]:
    """Tracked files, and those that are about to be: what git neither ignores nor misses."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("needs a git checkout: only git knows which files belong to the project")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in WEIGHTS]


def findings(name: str, text: str) -> list[str]:
    """List what a text says that it should not, one line each."""
    return [
        f"{name}:{number}: {what}: {match.group()}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in PATTERNS.items()
        if (match := re.search(pattern, line))
    ]


def test_no_file_names_a_machine_or_a_host_or_work_left():
    found = []
    for path in project_files():
        found += findings(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "see /wor" + "k/main/x",
        "in /hom" + "e/ann/x",
        "from https://pyp" + "i.org/simple",
        "# TOD" + "O later",
    ],
)
def test_a_planted_line_is_found(line):
    (found,) = findings("a.md", f"fine\n{line}\n")
    assert found.startswith("a.md:2: ")
