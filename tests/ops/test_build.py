"""Building and loading: once per machine, whatever else happens on it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import defectgen
from defectgen.errors import ConfigError, KernelBuildError
from defectgen.ops import _build, _cache, _compilers, _recipe

ROOT = Path(defectgen.__file__).parents[1]

try:
    _compilers.find("cpu")
except KernelBuildError as error:
    LACKING: str | None = str(error)
else:
    LACKING = None
compiles = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

# A process that builds the library of the workshop and says where it is.
BUILDER = """
import sys
from pathlib import Path
from defectgen.ops import _build, _recipe
_recipe.CSRC = Path(sys.argv[1])
print(_build.build("cpu"))
"""


def builder(workshop: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, workshop / "csrc"],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def program(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def compiler(workshop: Path, when_compiling: str) -> str:
    """The usual compiler, which does something else first when it comes to the library."""
    case = f'case "$*" in *-c*bind_cpu.cpp*) {when_compiling};; esac'
    return program(workshop / "compiler" / "g++", case, f'exec {_compilers._cxx()} "$@"')


@pytest.fixture
def pretend(monkeypatch):
    """The compiler is not called: ``pretend`` lists the flags it would have been called with."""
    calls: list[list[str]] = []

    def write(kind, name, fresh, flags, tools):
        calls.append(flags)
        (fresh / _build._file(kind)).write_bytes(b"machine code")

    monkeypatch.setattr(_build, "_compile", write)
    return calls


# -- the usual case --------------------------------------------------------------------------------


@compiles
def test_a_library_is_built_loaded_and_found_again(workshop, monkeypatch, capsys):
    assert _build.status("cpu").state == "not built"
    assert not _build.is_built("cpu")
    assert not (workshop / "cache").exists()  # asking writes nothing
    path = _build.load("cpu")
    assert ctypes.CDLL(str(path)).answer() == 42
    assert str(path) in torch.ops.loaded_libraries
    assert _build.load("cpu") == _build.status("cpu").path == path
    assert _build.status("cpu").state == "loaded"
    assert sorted(p.name for p in path.parent.iterdir()) == ["config.json", path.name]
    for folder in (workshop / "cache", path.parents[1], path.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.count("compiling") == 1
    # Another process finds it, even one without a compiler.
    monkeypatch.setattr(_build, "_loaded", {})
    monkeypatch.setenv("CXX", str(workshop / "gone"))
    assert _build.status("cpu").state == "built"
    assert (
        _build.status("cpu").compiler
        == json.loads((path.parent / "config.json").read_text())["compiler"]
    )
    assert _build.load("cpu") == path
    assert capsys.readouterr().err == ""


def test_a_build_that_exists_is_loaded_without_the_machinery_that_builds():
    if not _build.is_built("cpu"):
        pytest.skip("no build of the kernels here")
    script = (
        "import sys; from defectgen.ops import _build; before = set(sys.modules); "
        "assert not _build.is_loaded('cpu'); _build.load('cpu'); "
        "print('torch.utils.cpp_extension' in sys.modules, *set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stdout + done.stderr


def test_the_key_knows_what_a_build_depends_on(workshop, monkeypatch):
    keys = {_recipe.key("cpu")}

    def changed() -> bool:
        before = len(keys)
        keys.add(_recipe.key("cpu"))
        return len(keys) > before

    assert not changed()
    (workshop / "csrc" / "answer.h").write_text("#define ANSWER 43\n")
    assert changed()
    (workshop / "csrc" / "more_cpu.cpp").write_text("")
    assert changed()
    (workshop / "csrc" / "answer_cuda.cu").write_text("")
    assert not changed()
    monkeypatch.setattr(_recipe, "_processor", lambda: ["a cheaper one"])
    assert changed()
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert changed()
    monkeypatch.setattr(_recipe, "_MATH", ("-O2",))
    assert changed()
    monkeypatch.setenv("CXX", "another")
    assert not changed()


def test_the_cuda_key_knows_the_gpus(workshop, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    before = _recipe.key("cuda")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    assert _recipe.key("cuda") != before


def test_architectures_are_those_of_the_visible_gpus_that_torch_knows(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_100", "compute_100"])
    gpus = [(9, 0), (8, 0), (9, 0), (12, 0)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", gpus.__getitem__)
    assert _recipe.architectures() == "8.0;9.0;10.0+PTX"


def test_the_processor_is_read_without_its_clock():
    facts = _recipe._processor()
    assert facts == _recipe._processor()
    if Path("/proc/cpuinfo").is_file():
        assert max(len(fact) for fact in facts) > 20


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("DEFECTGEN_CACHE", str(tmp_path / "a"))
    assert _cache.folder() == tmp_path / "a" / "kernels"
    monkeypatch.delenv("DEFECTGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert _cache.folder() == tmp_path / "b" / "defectgen" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert _cache.folder() == tmp_path / "c" / ".cache" / "defectgen" / "kernels"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kind: must be one of"):
        _build.build("tpu")


# -- other processes -------------------------------------------------------------------------------


@compiles
def test_a_killed_build_is_in_nobodys_way(workshop):
    slow = compiler(workshop, f"touch {workshop}/compiling; sleep 60")
    victim = builder(workshop, CXX=slow)
    deadline = time.monotonic() + 50
    while not (workshop / "compiling").exists():
        assert victim.poll() is None, victim.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.kill()
    victim.wait()
    try:
        (left,) = (workshop / "cache" / "kernels").glob(".cpu-*")
        assert (left / "lock").exists()  # torch's own, for which a later build would wait for ever
        path = _build.build("cpu")  # while the compiler of the dead one still runs
        assert ctypes.CDLL(str(path)).answer() == 42
        assert not left.exists()
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.communicate()


@compiles
def test_two_processes_at_once_compile_once(workshop):
    counting = compiler(workshop, f"echo >> {workshop}/count; sleep 0.3")
    both = [builder(workshop, CXX=counting) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert Path(said[0][0].strip()).is_file()
    assert (workshop / "count").read_text() == "\n"


def test_a_half_made_folder_is_no_build(workshop, pretend):
    path = _build.build("cpu")
    (path.parent / "config.json").unlink()
    (path.parent / "lock").touch()
    assert not _build.is_built("cpu")
    assert _build.build("cpu") == path
    assert len(pretend) == 2
    assert not (path.parent / "lock").exists()


# -- the cache -------------------------------------------------------------------------------------


@pytest.mark.parametrize("obstacle", ["a file", "no permission", "another user's"])
def test_an_unusable_cache_is_replaced_for_this_process(
    workshop, pretend, monkeypatch, capsys, obstacle
):
    if obstacle == "a file":
        (workshop / "cache").touch()
    elif obstacle == "no permission":
        (workshop / "cache").mkdir(mode=0o500)
        if os.access(workshop / "cache", os.W_OK):
            pytest.skip("this user may write everywhere")
    else:
        (workshop / "cache" / "kernels").mkdir(parents=True)
        if os.getuid() == 0:
            try:
                os.chown(workshop / "cache" / "kernels", 1, -1)
            except PermissionError:
                pytest.skip("an administrator without rights")
        else:
            monkeypatch.setattr(os, "getuid", lambda: 1)
    path = _build.build("cpu")
    try:
        assert not path.is_relative_to(workshop)
        assert path.parents[1].stat().st_mode & 0o777 == 0o700
        said = capsys.readouterr().err
        assert str(workshop / "cache" / "kernels") in said
        assert "set DEFECTGEN_CACHE to" in said
        if obstacle != "another user's":
            assert _build.build("cpu") == path
            assert len(pretend) == 1
            assert capsys.readouterr().err == ""
    finally:
        _cache._remove(path.parents[1], os.getpid())
    assert not path.exists()


def test_a_cache_that_others_may_write_to_is_closed_first(workshop, pretend):
    folder = workshop / "cache" / "kernels"
    path = _build.build("cpu")
    folder.chmod(0o777)
    assert not _build.is_built("cpu")  # anybody may have put it there
    assert _build.build("cpu") == path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(pretend) == 2  # what lay there is not taken


def test_a_full_disk_is_one_sentence(workshop, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_build, "_compile", full)
    with pytest.raises(KernelBuildError, match="room on the disk.*No space left.*DEFECTGEN_CACHE"):
        _build.build("cpu")


# -- what is missing -------------------------------------------------------------------------------


def test_no_compiler(workshop, monkeypatch):
    monkeypatch.setenv("CXX", str(workshop / "c++"))
    with pytest.raises(KernelBuildError, match=r"CXX=.*install g\+\+ and ninja, or set DEFECTGEN_"):
        _build.load("cpu")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(workshop))
    with pytest.raises(KernelBuildError, match="compiler: .*none in PATH"):
        _build.load("cpu")
    assert _build.status("cpu").state == "unavailable"
    assert "g++" in _build.status("cpu").reason
    assert not (workshop / "cache").exists()


def test_no_ninja(workshop, monkeypatch):
    monkeypatch.setenv("PATH", str(workshop))
    monkeypatch.setattr(_compilers, "_places", lambda: str(workshop))
    monkeypatch.setenv("CXX", program(workshop / "c++", "echo fake 1.0"))
    with pytest.raises(KernelBuildError, match="ninja: .*pip install ninja"):
        _build.load("cpu")


def test_no_compiler_is_called_without_ninja(workshop, monkeypatch):
    monkeypatch.setenv("PATH", str(workshop))
    monkeypatch.setattr(_compilers, "_places", lambda: str(workshop))
    monkeypatch.setenv("CXX", program(workshop / "c++", f"touch {workshop}/called", "echo fake"))
    with pytest.raises(KernelBuildError, match="ninja: "):
        _compilers.find("cpu")
    assert not (workshop / "called").exists()


def test_the_stub_of_a_bare_mac_is_not_called(workshop, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", f"{workshop}:/bin:/usr/bin")
    where = {"c++": "/usr/bin/c++"}
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda *a, **k: where.get(a[0]) or which(*a, **k))
    monkeypatch.setattr(_compilers, "_places", lambda: str(workshop))
    program(workshop / "ninja", "echo 1.11")
    program(workshop / "c++", f"touch {workshop}/called", "echo fake 1.0")
    program(workshop / "xcode-select", "exit 2")
    with pytest.raises(KernelBuildError, match="compiler: .*only a stub; run 'xcode-select --inst"):
        _compilers.find("cpu")
    assert not (workshop / "called").exists()
    where.clear()  # one from elsewhere is none of these stubs
    assert _compilers.find("cpu").name == "fake 1.0"
    where["c++"] = "/usr/bin/c++"
    program(workshop / "xcode-select", "echo /Library/Developer/CommandLineTools")
    assert _compilers.find("cpu").name == "fake 1.0"


def test_ninja_beside_this_python_is_found(workshop, monkeypatch):
    monkeypatch.setenv("PATH", str(workshop))
    monkeypatch.setattr(sys, "executable", str(workshop / "bin" / "python"))
    program(workshop / "bin" / "ninja", "echo 1.11")
    monkeypatch.setenv("CXX", program(workshop / "c++", "echo fake 1.0"))
    assert _compilers.find("cpu").name == "fake 1.0"


def test_a_compiler_that_knows_no_native_flag_gets_none(workshop, pretend, monkeypatch):
    case = 'case "$*" in *march=native*) exit 1;; esac'
    monkeypatch.setenv("CXX", program(workshop / "c++", case, "echo fake 1.0"))
    monkeypatch.setattr(_compilers, "_places", lambda: str(workshop))
    program(workshop / "ninja", "echo 1.11")
    _build.build("cpu")
    monkeypatch.setenv("CXX", program(workshop / "c++", "echo fake 1.0"))
    _build.build("cpu", force=True)
    assert ["-march=native" in flags for flags in pretend] == [False, True]
    assert [flag for flag in pretend[1] if flag != "-march=native"] == pretend[0]


@pytest.fixture
def cuda(workshop, monkeypatch):
    """A PyTorch for CUDA 13.0; ``cuda(lines)`` installs an nvcc that runs these lines."""
    from torch.utils import cpp_extension

    home = workshop / "cuda"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(_compilers, "_places", lambda: str(workshop))
    monkeypatch.setenv("CXX", program(workshop / "c++", "echo fake 1.0"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    program(workshop / "ninja", "echo 1.11")

    def install(*lines: str) -> str:
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(home))
        return program(home / "bin" / "nvcc", *lines)

    return install


def test_no_nvcc(cuda):
    with pytest.raises(KernelBuildError, match="nvcc: .*the CUDA 13 toolkit; found none;.*_HOME"):
        _build.build("cuda")
    cuda("exit 1")
    with pytest.raises(KernelBuildError, match="found none in .*cuda; install it"):
        _build.build("cuda")
    assert _build.status("cuda").state == "unavailable"


def test_an_nvcc_of_another_cuda(cuda):
    cuda("echo Cuda compilation tools, release 12.4, V12.4.131")
    with pytest.raises(KernelBuildError, match=r"CUDA 13\.0; found 12\.4 in .*a CUDA 13 toolkit"):
        _build.build("cuda")
    assert "12.4" in _build.status("cuda").reason


def test_an_nvcc_of_another_minor_version_will_do(cuda, pretend):
    cuda("echo Cuda compilation tools, release 13.2, V13.2.1")
    tools = _compilers.find("cuda")
    assert tools.name == "nvcc 13.2, fake 1.0"
    assert tools.environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert _build.build("cuda").name == "defectgen_cuda.so"
    assert _build.status("cuda").state == "built"


def test_a_torch_without_cuda_is_no_failure(workshop, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _build.status("cuda") == _build.KernelStatus(
        "cuda", "unavailable", "this PyTorch has no CUDA"
    )
    with pytest.raises(KernelBuildError, match="this PyTorch has no CUDA; set DEFECTGEN_KERNELS"):
        _build.load("cuda")


def test_a_machine_without_a_gpu_is_no_failure(workshop, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU is visible" in _build.status("cuda").reason


def test_all_that_can_exist_is_built(cuda, pretend):
    assert [str(e)[:5] for e in _build.build_all()] == ["nvcc:"]
    assert _build.is_built("cpu")
    cuda("echo release 13.0")
    assert _build.build_all() == []
    assert len(pretend) == 2
    assert _build.build_all(force=True) == []
    assert len(pretend) == 4


# -- failures --------------------------------------------------------------------------------------


@compiles
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("int answer() { return forty_two; }\n", "forty_two"),
        ("int forty_two(); int answer() { return forty_two(); }\n", "undefined symbol"),
    ],
    ids=["does not compile", "does not load"],
)
def test_a_failure_is_explained_remembered_and_forgotten(workshop, monkeypatch, source, said):
    (workshop / "csrc" / "bind_cpu.cpp").write_text(source)
    with pytest.raises(KernelBuildError) as caught:
        _build.build("cpu")
    first = str(caught.value)
    assert said in first
    assert "\n" not in first
    (log,) = (workshop / "cache" / "kernels").glob("*.log")
    assert str(log) in first
    assert said in log.read_text()
    assert _build.status("cpu").state == "unavailable"
    assert _build.status("cpu").reason == first
    # The same again is not tried again ...
    tried = []
    monkeypatch.setattr(_build, "_compile", lambda *arguments: tried.append(arguments))
    with pytest.raises(KernelBuildError) as caught:
        _build.build("cpu")
    assert str(caught.value) == first
    assert tried == []
    # ... with another compiler, or by force, it is.
    monkeypatch.setattr(_build, "_compile", _pretended)
    if said == "forty_two":
        monkeypatch.setenv("CXX", program(workshop / "g++", 'echo other; exec g++ "$@"'))
        _build.build("cpu")
    else:
        _build.build("cpu", force=True)
    assert _build.is_built("cpu")
    assert not list((workshop / "cache" / "kernels").glob("*.failed.json"))


def _pretended(kind, name, fresh, flags, tools):
    (fresh / _build._file(kind)).write_bytes(b"machine code")


@compiles
def test_a_build_that_something_killed_is_tried_again(workshop, monkeypatch):
    done = subprocess.CompletedProcess([], -9, "")
    with monkeypatch.context() as patch:
        patch.setattr(_build.subprocess, "run", lambda *a, **k: done)
        patch.setattr(_compilers, "_output", lambda command: "fake 1.0")
        with pytest.raises(KernelBuildError, match="ended by signal 9"):
            _build.build("cpu")
    assert _build.status("cpu").state == "not built"


@compiles
def test_a_compiler_that_ran_out_of_something_is_tried_again(workshop, monkeypatch):
    compiler = workshop / "g++"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-c*) ;; *) exec g++ "$@";; esac\n'
        'echo "fatal error: error writing to x.s: No space left on device" >&2; exit 1\n'
    )
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(KernelBuildError, match="No space left on device"):
        _build.build("cpu")
    assert _build.status("cpu").state == "not built"


@pytest.mark.parametrize("content", ["", "[]", '{"reason": 1}', "\xff" * 100_000])
def test_a_damaged_record_counts_as_none(workshop, content):
    _cache.folder().mkdir(parents=True)
    _cache._record("cpu-0").write_text(content, encoding="latin-1")
    assert _cache.recall("cpu-0", "g++") is None


@compiles
def test_sources_that_change_meanwhile_make_no_build(workshop, monkeypatch):
    def edit(kind, name, fresh, flags, tools):
        _pretended(kind, name, fresh, flags, tools)
        (workshop / "csrc" / "answer.h").write_text("#define ANSWER 43\n")

    monkeypatch.setattr(_build, "_compile", edit)
    with pytest.raises(KernelBuildError, match="changed while compiling"):
        _build.build("cpu")
    assert not list((workshop / "cache" / "kernels").glob("cpu-*/"))


def test_a_library_that_cannot_be_loaded_names_the_way_out(workshop, pretend):
    _build.build("cpu")
    with pytest.raises(KernelBuildError, match="cannot be loaded;.*kernels build --force"):
        _build.load("cpu")
    assert not _build.is_loaded("cpu")


def test_a_program_that_is_not_python_is_not_called_as_one(workshop, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(KernelBuildError, match="part of another program"):
        _build.build("cpu")
