"""The kernel in C: it compiles without a warning, does what torch does, reads policy files, and refuses everything else."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwd.cli import main
from lwd.deploy import Policy
from lwd.deploy.policy import parse
from lwd.deploy.source import KERNEL, write_c
from lwd.errors import LWDError
from test_deploy import KINDS, largest_error, planned

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
pytestmark = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler here: apt install gcc")
OK, MALFORMED, BAD_VALUE, TOO_LARGE, MISALIGNED, NOT_FINITE = range(6)

FUZZ = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lwd_policy.h"

static uint32_t state = 1;
static uint32_t below(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % n;
}

int main(int argc, char **argv) { /* FILE RUNS: damages the file in many ways, and prints how often each code was returned */
    static unsigned char whole[1 << 16];
    static const char marks[] = "{}[],:\"\\ u0123456789";
    static const uint32_t words[] = {0, 1, 2, 3, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fc00000, 0x7f800000, 0x7f7fffff, 600};
    static float obs[LWD_MAX_WIDTH], action[LWD_MAX_WIDTH];
    long counts[LWD_NOT_FINITE + 1] = {0}, runs = argc > 2 ? atol(argv[2]) : 0;
    FILE *file = fopen(argv[1], "rb");
    const uint32_t size = (uint32_t)fread(whole, 1, sizeof whole, file), header = whole[0] + 256u * whole[1];
    fclose(file);
    for (; runs > 0; runs--) {
        const uint32_t kept = below(4) ? size : below(size + 1);
        unsigned char *copy = malloc(kept ? kept : 1); /* as long as the file, so that the sanitizer sees every byte beyond */
        lwd_policy policy;
        int code;
        memcpy(copy, whole, kept);
        for (uint32_t changes = below(4); changes && kept == size; changes--) {
            const uint32_t at = 8 + below(header), word = words[below(sizeof words / sizeof *words)];
            switch (below(4)) {
            case 0: copy[below(below(2) ? 8 : size)] = (unsigned char)below(256); break;
            case 1: copy[at] = (unsigned char)below(256); break;
            case 2: copy[at] = (unsigned char)marks[below(sizeof marks - 1)]; break;
            default: memcpy(copy + 8 + header + 4 * below((size - 8 - header) / 4), &word, 4);
            }
        }
        code = lwd_policy_read(copy, kept, &policy);
        counts[code]++;
        for (int i = 0; i < LWD_MAX_WIDTH; i++) obs[i] = (float)below(1000) * (below(2) ? 1.0f : 1e30f);
        if (code == LWD_OK) lwd_policy_step(&policy, obs, below(100), action);
        free(copy);
    }
    for (int code = 0; code <= LWD_NOT_FINITE; code++) printf("%ld ", counts[code]);
    return 0;
}
"""


class Kernel:
    """The compiled kernel, called from Python."""

    def __init__(self, folder: Path, *flags: str) -> None:
        library = folder / "kernel.so"
        compile(library, [KERNEL / "lwd_policy.c"], "-O3", "-shared", "-fPIC", *flags)
        self.c = ctypes.CDLL(str(library))

    def read(self, content: bytes, shift: int = 0) -> tuple[int, Any, Any]:
        """Code, the policy (opaque), and the buffer that it points into."""
        buffer = ctypes.create_string_buffer(b"\0" * shift + content, shift + max(len(content), 1))
        policy = (ctypes.c_double * 32)()
        return self.c.lwd_policy_read(ctypes.byref(buffer, shift), ctypes.c_size_t(len(content)), policy), policy, buffer

    def load(self, content: bytes) -> Callable[[np.ndarray, int], np.ndarray]:
        """The control step of a policy; an error is a ValueError with its code."""
        code, policy, buffer = self.read(content)
        assert code == OK
        pointer, dim = ctypes.POINTER(ctypes.c_float), parse(content).action_dim

        def act(obs: np.ndarray, t: int) -> np.ndarray:
            seen, action = np.ascontiguousarray(obs, np.float32), np.full(dim, 77.0, np.float32)
            assert len(buffer)  # it lives as long as the step
            step = self.c.lwd_policy_step(policy, seen.ctypes.data_as(pointer), ctypes.c_uint32(t), action.ctypes.data_as(pointer))
            if step != OK:
                assert (action == 77).all()
                raise ValueError(step)
            return action

        return act


def compile(out: Path, files: list[Path], *flags: str, compiler: str = COMPILERS[0] if COMPILERS else "gcc") -> str:
    """Compile strictly; returns what the compiler said where that failed."""
    command = [compiler, *STRICT, *flags, f"-I{KERNEL}", *map(str, files), "-lm", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel(tmp_path_factory.mktemp("kernel"))


@pytest.mark.parametrize("kind", KINDS)
def test_c_does_what_torch_does(kernel: Kernel, kind: str) -> None:
    controller, policy = planned(kind)
    act = kernel.load(policy.to_bytes())
    assert largest_error(controller, policy, act) < 1e-5
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=str(NOT_FINITE)):
            act(np.array([0.0, bad, 0.0]), 0)
    np.testing.assert_allclose(act(np.ones(3), 2**32 - 1), policy.act(np.ones(3), 2**32 - 1), atol=1e-3)
    large = Policy(
        {**policy.tensors, "weights": np.random.default_rng(0).choice([3e38, -3e38], len(policy.tensors["weights"]))}, policy.about
    )
    with pytest.raises(ValueError, match=str(NOT_FINITE)):
        kernel.load(large.to_bytes())(np.array([1.0, 2.0, 3.0]), 0)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", ["phase, horizons, tasks", "mlp, tasks"])
def test_exported_policies_check_themselves(kind: str, compiler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, policy = planned(kind)
    policy.about["note"] = '*/ #error "/* ??/ \\'  # names are free text
    (tmp_path / "p.safetensors").write_bytes(policy.to_bytes())
    assert main(["export", str(tmp_path / "p.safetensors"), "--to", "c", "--out", str(tmp_path)]) == 0
    files = [path for path in map(Path, capsys.readouterr().out.split()) if path.suffix == ".c"]
    assert len(files) == 3 and compile(tmp_path / "check", files, *SANE, compiler=compiler) == ""
    assert "#define POLICY_RATE 10.0f " in (tmp_path / "policy.h").read_text()
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"64 tests, largest error \d\.\de-\d\d of the action's range\n", done.stdout), done.stdout
    code = (tmp_path / "policy.c").read_text()
    end = code.index("f\n}", code.index("weights_"))
    wrong = f"{code[: code.rindex(' ', 0, end)]} 9.0{code[end:]}"  # the last bias
    (tmp_path / "policy.c").write_text(wrong)
    assert compile(tmp_path / "check", files, compiler=compiler) == ""
    assert subprocess.run([tmp_path / "check"], capture_output=True).returncode == 1
    assert "this policy needs LWD_MAX_WIDTH" in compile(tmp_path / "check", files, "-DLWD_MAX_WIDTH=8", compiler=compiler)


def test_the_reader_refuses(kernel: Kernel, tmp_path: Path) -> None:
    _, policy = planned("phase, horizons, tasks")
    content = policy.to_bytes()
    assert [code for size in range(0, len(content)) if (code := kernel.read(content[:size])[0]) != MALFORMED] == []
    assert kernel.read(content)[0] == OK and kernel.read(content + b"\0" * 4)[0] == MALFORMED
    assert kernel.read(content, shift=1)[0] == MISALIGNED and kernel.read(content, shift=4)[0] == OK
    assert kernel.read((2**64 - 8).to_bytes(8, "little") + content[8:])[0] == MALFORMED
    for name, value in (
        ("weights", np.nan),
        ("obs_limit", -1.0),
        ("action_low", 1e9),
        ("order", 1),
        ("phase_steps", 0),
        ("obs_center", np.inf),
    ):
        tensors = {key: own.copy() for key, own in policy.tensors.items()}
        tensors[name][0] = value
        damaged = content[: -sum(own.nbytes for own in tensors.values())] + b"".join(own.tobytes() for own in tensors.values())
        assert kernel.read(damaged)[0] == BAD_VALUE, name
    for word, other in (
        (b'"I32"', b'"I64"'),
        (b'"order"', b'"weird"'),
        (b"{", b"["),
        (b'"shape":[4]', b'"shape":[5]'),
        (b"lwd-policy", b'lwd"policy'),
    ):
        assert word in content and kernel.read(content.replace(word, other, 1))[0] == MALFORMED, other
    small = Kernel(tmp_path, "-DLWD_MAX_WIDTH=8")
    assert small.read(content)[0] == TOO_LARGE


def test_both_readers_agree(kernel: Kernel) -> None:
    """Files with one damaged byte of the header that is not metadata: C refuses what numpy refuses."""
    _, policy = planned("angle, no limits")
    content, random, accepted = policy.to_bytes(), np.random.default_rng(0), 0
    begin, end = content.index(b'"sizes"'), 8 + int.from_bytes(content[:8], "little")
    for _ in range(1500):
        damaged = bytearray(content)
        damaged[random.integers(begin, end)] = random.choice(list(b'0123456789{}[]",: \\ue\x00\x7f'))
        try:
            parse(bytes(damaged))
            fine = True
        except LWDError:
            fine = False
        accepted += fine
        assert (kernel.read(bytes(damaged))[0] == OK) == fine, damaged[begin:end]
    assert 0 < accepted < 1000


@pytest.mark.parametrize("kind", ["phase, horizons, tasks", "angle, no limits"])
def test_the_reader_survives_damaged_files(kind: str, tmp_path: Path) -> None:
    _, policy = planned(kind)
    (tmp_path / "p.safetensors").write_bytes(policy.to_bytes())
    (tmp_path / "fuzz.c").write_text(FUZZ)
    assert compile(tmp_path / "fuzz", [tmp_path / "fuzz.c", KERNEL / "lwd_policy.c"], *SANE) == ""
    done = subprocess.run([tmp_path / "fuzz", tmp_path / "p.safetensors", "20000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.split()]
    assert sum(counts) == 20000 and min(counts[:4]) > 0, counts


def test_the_program_of_the_documentation(tmp_path: Path) -> None:
    """It compiles with what `lwd export` writes, and runs a policy that arrives as a file."""
    page = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text()
    _, policy = planned("phase, horizons, tasks")
    write_c(policy, tmp_path)
    (tmp_path / "check.c").unlink()
    (tmp_path / "new.safetensors").write_bytes(policy.to_bytes())
    programs = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        (tmp_path / "main.c").write_text(program)
        assert compile(tmp_path / "main", sorted(tmp_path.glob("*.c")), *SANE, f"-I{tmp_path}") == ""
        done = subprocess.run([tmp_path / "main", "new.safetensors"], cwd=tmp_path, capture_output=True, text=True, check=True)
        printed = np.array([[float(word) for word in line.split()] for line in done.stdout.splitlines()])
        np.testing.assert_allclose(printed, [policy.act(np.zeros(3), t) for t in range(3)], rtol=1e-4)
