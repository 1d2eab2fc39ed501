"""Builds the C++ kernels in cpu/ on first use, and loads them.

They are plain C functions on pointers, without a torch header: a compiler is all it takes, and they are built in
seconds. The library lies in the user's cache folder under a name that is a hash of all that it depends on (sources,
compiler, flags, processor), so that an old one is never loaded: after a change the new one is built beside it. It is
built under a name of its own and then moved, so that of two processes that build at once the second replaces an equal
file.

Where there is no compiler, or MINIVLLM_CPP=0 is set, `library()` is None, and whoever asked uses torch.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch  # noqa: F401  # first of all: the kernels then use the threads that torch has started

logger = logging.getLogger("minivllm.kernels")

FOLDER = Path(__file__).resolve().parent / "cpu"
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC")
EXTRA_FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ())  # the first that this compiler takes
TIMEOUT = 300  # seconds; a healthy build takes about ten


class BuildError(Exception):
    """The kernels cannot be built here; the message says why, as the end of a sentence."""


@cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels; None, with one line in the log, where they cannot be had."""
    if os.environ.get("MINIVLLM_CPP") == "0":
        return None
    try:
        return build_and_load(cache_folder())
    except BuildError as error:
        logger.warning("No C++ kernels, torch computes everything, which is slower: %s", error)
        return None


def cache_folder() -> Path:
    """Where libraries are kept: $XDG_CACHE_HOME/minivllm, by default ~/.cache/minivllm."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "minivllm"


def build_and_load(folder: Path) -> ctypes.CDLL:
    """Load the library from `folder`, building it if it is not there or is damaged.

    Raises:
        BuildError: no compiler, or it fails.
    """
    if sys.platform == "win32":
        raise BuildError("they are not built on Windows")
    compiler = find_compiler()
    target = folder / f"minivllm-cpu-{fingerprint(compiler)}.so"
    if target.exists():
        try:
            return ctypes.CDLL(str(target))
        except OSError as error:
            logger.warning("%s is damaged and is built again (%s)", target, error)
    return _build(compiler, target)


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of COMPILERS.

    Raises:
        BuildError: there is none.
    """
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else COMPILERS:
        if path := shutil.which(name):
            return path
    looked_for = chosen or ", ".join(COMPILERS)
    raise BuildError(f"no C++ compiler was found (looked for {looked_for}; CXX names another one)")


def fingerprint(compiler: str) -> str:
    """Changes with anything that the library depends on."""
    stat = Path(compiler).stat()
    flags = [repr(FLAGS), repr(EXTRA_FLAGS), os.environ.get("CXXFLAGS", "")]
    parts = [compiler, str(stat.st_size), str(stat.st_mtime_ns), *flags, _processor()]
    parts += [source.name + source.read_text(encoding="utf-8") for source in sorted(FOLDER.iterdir())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What -march=native looks at: a home folder may be shared by different machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return "\0".join([platform.machine(), platform.processor(), *flags[:1]])


def _build(compiler: str, target: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="minivllm-") as temporary:
        built = Path(temporary) / target.name
        start = time.monotonic()
        logger.info("Building the C++ kernels with %s, once; this takes a few seconds", compiler)
        _compile(compiler, built)
        logger.info("Built the C++ kernels in %.1f s", time.monotonic() - start)
        try:
            return ctypes.CDLL(str(_keep(built, target)))
        except OSError as error:
            raise BuildError(f"what {compiler} built cannot be loaded ({error})") from error


def _keep(built: Path, target: Path) -> Path:
    """Move the library to where the next process finds it. Where that cannot be, this one still runs."""
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, partial)
        partial.replace(target)
    except OSError as error:
        logger.warning("The C++ kernels cannot be kept (%s): every start builds them again", error)
        with suppress(OSError):  # as little can be removed there, perhaps
            partial.unlink()
        return built
    return target


def _compile(compiler: str, target: Path) -> None:
    """Each source by a process of its own, side by side; then all of them into one library."""
    objects = {source: target.with_name(f"{source.stem}.o") for source in sorted(FOLDER.glob("*.cpp"))}
    complaint = ""
    for extra in EXTRA_FLAGS:
        command = [compiler, *FLAGS, *extra, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        compile_all = [[*command, "-c", str(source), "-o", str(made)] for source, made in objects.items()]
        link = [*command, "-shared", *map(str, objects.values()), "-o", str(target)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failed = next(filter(None, pool.map(_complaint, compile_all)), None) or _complaint(link)
        if not failed:
            return
        complaint = complaint or failed
    raise BuildError(f"{compiler} failed: {complaint}")


def _complaint(command: Sequence[str]) -> str | None:
    """Run the compiler. What it says first, if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run ({error})") from error
    if done.returncode == 0:
        return None
    return next(iter(done.stderr.splitlines()), f"exit status {done.returncode}")
