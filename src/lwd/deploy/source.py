"""A policy as source code: C for a microcontroller, or one Python file that needs numpy alone."""

from __future__ import annotations

import base64
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.deploy import policy as runtime
from lwd.deploy.policy import Policy
from lwd.files import write_text

KERNEL = Path(__file__).parent / "c"
TESTS = 64  # observations of the test vector, a quarter of them far away from the data
TOLERANCE = 1e-5  # of the action's range
CHECK = """\
/* Compares the compiled policy with what it should do: prints the largest error in ranges of the action, and ends with 1 if it is above
 * {tolerance:g}. */
#include <math.h>
#include <stdio.h>

#include "policy.h"

enum {{ TESTS = {tests} }};
{arrays}
int main(void) {{
    float worst = 0, action[POLICY_ACTION_DIM];
    for (int i = 0; i < TESTS; i++) {{
        const int code = lwd_policy_step(&policy, obs[i], ages[i], action);
        if (code != LWD_OK) {{
            printf("test %d: %s\\n", i, lwd_policy_error(code));
            return 1;
        }}
        for (int j = 0; j < POLICY_ACTION_DIM; j++) {{
            const float error = fabsf(action[j] - actions[i][j]) / ranges[j];
            worst = error > worst ? error : worst;
        }}
    }}
    printf("%d tests, largest error %.1e of the action's range\\n", TESTS, (double)worst);
    return worst > {tolerance:g}f;
}}
"""


def write_c(policy: Policy, folder: Path) -> list[Path]:
    """Writes the kernel, the policy as constants (policy.h, policy.c), and check.c, a program that compares the two with a test vector.

    `gcc -std=c99 -O3 *.c -lm` makes the check; a program of one's own takes the place of check.c."""
    own, widest, depth = policy.tensors, max(*policy.sizes, policy.obs_dim), len(policy.sizes) - 1
    arrays = {name: own[name] for name in runtime.KINDS if name not in ("obs_limit", "phase_steps")}
    # names may hold anything: as JSON with these two escaped, nothing in them ends a comment or is a trigraph
    about = json.dumps(policy.about, indent=1).replace("*", "\\u002a").replace("?", "\\u003f")
    macros = {"POLICY_OBS_DIM": policy.obs_dim, "POLICY_ACTION_DIM": policy.action_dim, "POLICY_WEIGHTS": len(own["weights"])}
    header = f'/* A generated policy.\n{about} */\n#ifndef POLICY_H\n#define POLICY_H\n\n#include "lwd_policy.h"\n\n'
    header += "".join(f"#define {name} {value}\n" for name, value in macros.items())
    header += f"#define POLICY_RATE {policy.rate}f /* steps per second */\n" if policy.rate else ""
    header += f"#if LWD_MAX_WIDTH < {widest} || LWD_MAX_LAYERS < {depth}\n"
    header += f'#error "this policy needs LWD_MAX_WIDTH {widest} and LWD_MAX_LAYERS {depth}"\n#endif\n\n'
    header += "extern const lwd_policy policy;\n\n#endif\n"
    code = '#include "policy.h"\n\n' + "".join(_array(f"{name}_", value) for name, value in arrays.items())
    scalars = {"layers": depth, "obs_dim": policy.obs_dim, "linear": len(own["obs_center"])}
    values = {**{name: f"{name}_" for name in arrays}, **{name: str(value) for name, value in scalars.items()}}
    values |= {name: f"{own[name][0]}f" for name in ("obs_limit", "phase_steps")}
    code += "\nconst lwd_policy policy = {\n" + "".join(f"    .{name} = {value},\n" for name, value in values.items()) + "};\n"
    files = {"policy.h": header, "policy.c": code, "check.c": _check(policy)}
    files |= {path.name: path.read_text() for path in sorted(KERNEL.glob("lwd_policy.[ch]"))}
    return _write(files, folder)


def write_numpy(policy: Policy, folder: Path) -> list[Path]:
    """Writes policy.py, which has `act(obs, t)`: the numpy code of this package with the policy in it."""
    code = Path(runtime.__file__).read_text()
    own, alone = "from lwd.errors import LWDError\n", 'class LWDError(Exception):\n    """Bad input."""\n'
    assert own in code
    packed = "\n".join(textwrap.wrap(base64.b64encode(policy.to_bytes()).decode(), 120))
    code = f"# A generated policy, made by `lwd export`: from policy import act; action = act(obs, t)\n{code.replace(own, alone)}"
    code += f'\n\nimport base64  # noqa: E402\n\nPOLICY = parse(base64.b64decode("""\n{packed}\n"""))\nact = POLICY.act\n'
    return _write({"policy.py": code}, folder)


def test_vector(policy: Policy) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Raw observations (N, Do) in and far out of the data's range, ages (N,), and the actions (N, Da) that the policy answers with."""
    own, random = policy.tensors, np.random.default_rng(0)
    linear, phase = len(own["obs_center"]), float(own["phase_steps"][0])
    features = random.uniform(-1, 1, (TESTS, policy.obs_dim))
    features[:, linear:] *= np.pi
    features[: TESTS // 4] *= 10.0 ** random.integers(0, 5, (TESTS // 4, 1))
    obs = np.empty((TESTS, policy.obs_dim), np.float32)
    scale = np.where(own["obs_scale"] > 0, own["obs_scale"], 1)
    obs[:, own["order"]] = np.concatenate([features[:, :linear] / scale + own["obs_center"], features[:, linear:]], 1)
    ages = random.integers(0, int(2 * phase) + 2, TESTS)
    return obs, ages, np.stack([policy.act(row, int(t)) for row, t in zip(obs, ages, strict=True)])


def action_range(policy: Policy) -> NDArray[np.float32]:
    """(Da,) raw: from the smallest to the largest action; that of the demonstrations where there is no limit."""
    own = policy.tensors
    wide = own["action_high"].astype(float) - own["action_low"]
    seen = 2 * own["action_half"]
    return np.where(wide < 1e30, wide, np.where(seen > 0, seen, 1)).astype(np.float32)


def _check(policy: Policy) -> str:
    obs, ages, actions = test_vector(policy)
    arrays = _array("ages", ages, "uint32_t") + _array("ranges", action_range(policy))
    arrays += _array("obs", obs, size="[TESTS][POLICY_OBS_DIM]") + _array("actions", actions, size="[TESTS][POLICY_ACTION_DIM]")
    return CHECK.format(tests=TESTS, tolerance=TOLERANCE, arrays=arrays)


def _array(name: str, values: NDArray[Any], kind: str = "", size: str = "[]") -> str:
    """A constant array of C. An empty one has an element, because C knows no empty arrays."""
    real = values.dtype.kind == "f"
    words, columns = [f"{value!s}f" if real else str(value) for value in values.ravel()] or ["0"], 8
    if values.ndim > 1:
        step, columns = values.shape[1], 1
        words = ["{" + ", ".join(words[i : i + step]) + "}" for i in range(0, len(words), step)]
    lines = ",\n    ".join(", ".join(words[i : i + columns]) for i in range(0, len(words), columns))
    return f"static const {kind or ('float' if real else 'int32_t')} {name}{size} = {{\n    {lines}\n}};\n"


def _write(files: dict[str, str], folder: Path) -> list[Path]:
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]
