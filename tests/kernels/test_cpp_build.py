"""Building the C++ kernels: once, into a cache; and what happens where that is not possible."""

import logging
import os
import stat
import subprocess
import sys

import pytest

from minivllm import ops
from minivllm.kernels import _cpp

needs_compiler = pytest.mark.skipif(not ops.has_cpp(), reason="the C++ kernels cannot be built here")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder with one small source, which builds in no time."""
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "answer.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(_cpp, "FOLDER", folder)
    return folder


@pytest.fixture
def commands(monkeypatch):
    """The command lines that compile a source, as they are run."""
    seen = []
    real = subprocess.run

    def run(command, **options):
        if "-c" in command:
            seen.append(command)
        return real(command, **options)

    monkeypatch.setattr(_cpp.subprocess, "run", run)
    return seen


@pytest.fixture(autouse=True)
def _warnings_only(caplog):
    """Whatever else has run in this process, and what it has asked to be told."""
    caplog.set_level(logging.WARNING, logger="minivllm.kernels")


@needs_compiler
def test_it_is_built_once_and_again_when_a_source_changes(sources, commands, tmp_path):
    assert _cpp.build_and_load(tmp_path / "cache").answer() == 42
    assert _cpp.build_and_load(tmp_path / "cache").answer() == 42
    assert len(commands) == 1
    (sources / "answer.cpp").write_text('extern "C" int answer() { return 43; }\n')
    assert _cpp.build_and_load(tmp_path / "cache").answer() == 43
    assert len(commands) == 2 and len(list((tmp_path / "cache").iterdir())) == 2


@needs_compiler
def test_it_is_built_again_for_other_flags(sources, commands, tmp_path, monkeypatch):
    (sources / "answer.cpp").write_text('extern "C" int answer() { return ANSWER; }\n')
    for answer in (7, 8, 7):
        monkeypatch.setenv("CXXFLAGS", f"-DANSWER={answer}")
        assert _cpp.build_and_load(tmp_path / "cache").answer() == answer
    assert len(commands) == 2


@needs_compiler
def test_several_sources_become_one_library(sources, commands, tmp_path):
    (sources / "question.cpp").write_text(
        'extern "C" int answer(); extern "C" int question() { return answer() * 2; }\n'
    )
    library = _cpp.build_and_load(tmp_path / "cache")
    assert (library.answer(), library.question(), len(commands)) == (42, 84, 2)


@needs_compiler
def test_a_mistake_in_one_source_is_said(sources, tmp_path):
    (sources / "other.cpp").write_text("int other() { return nothing; }\n")
    with pytest.raises(_cpp.BuildError, match="failed: .*other.cpp"):
        _cpp.build_and_load(tmp_path / "cache")


@needs_compiler
def test_a_damaged_library_is_built_again(sources, commands, tmp_path):
    target = tmp_path / f"minivllm-cpu-{_cpp.fingerprint(_cpp.find_compiler())}.so"
    target.write_bytes(b"half of a libr")
    assert _cpp.build_and_load(tmp_path).answer() == 42
    assert len(commands) == 1


@needs_compiler
def test_a_cache_that_cannot_be_written_is_no_obstacle(sources, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert _cpp.build_and_load(tmp_path / "cache").answer() == 42
    assert "every start builds them again" in caplog.text


@needs_compiler
def test_processes_that_build_at_once_do_not_disturb_one_another(tmp_path):
    code = "from minivllm.kernels._cpp import library; assert library().panel_size() >= 4"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0]
    assert [path.suffix for path in (tmp_path / "minivllm").iterdir()] == [
        ".so"
    ]  # nothing half-written is left


@needs_compiler
def test_flags_that_the_compiler_does_not_know_are_left_out(sources, commands, monkeypatch, tmp_path):
    monkeypatch.setattr(_cpp, "EXTRA_FLAGS", (("-march=unheard-of",), ()))
    assert _cpp.build_and_load(tmp_path / "cache").answer() == 42
    assert ["-march=unheard-of" in command for command in commands] == [True, False]


def test_what_the_compiler_complains_about_is_said_in_one_line(sources, monkeypatch, tmp_path, caplog):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'no such thing' >&2\necho more >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MINIVLLM_CPP", raising=False)
    assert _cpp.library.__wrapped__() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "compiler failed: no such thing" in record.message


def test_without_a_compiler_there_is_one_line_and_torch(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CXX", "unheard-of++")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MINIVLLM_CPP", raising=False)
    assert _cpp.library.__wrapped__() is None
    (record,) = caplog.records
    assert "unheard-of++" in record.message and "slower" in record.message


def test_it_can_be_switched_off(monkeypatch, caplog):
    monkeypatch.setenv("MINIVLLM_CPP", "0")
    assert _cpp.library.__wrapped__() is None
    assert not caplog.records
