"""Build cyipopt against the IPOPT inside casadi's wheel: no root, no system IPOPT, no pkg-config needed.

cyipopt has no Linux wheel, and its build asks the program `pkg-config` where IPOPT is. casadi's wheel carries
both the library and its headers, so this script puts a two-line program of that name first on PATH, which
answers with casadi's folders, and lets pip build. The extension finds the library through a run path relative
to itself, hence the environment may be moved.

Run it with the interpreter of the environment that shall have cyipopt:

    .venv/bin/python tools/build_cyipopt.py            # builds where it is missing or broken
    .venv/bin/python tools/build_cyipopt.py --check    # only says whether it works

Exit code 0: cyipopt works. 1: it does not, and what was printed says why; casadi's own IPOPT serves then.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# The folder of the extension is <site-packages>/cyipopt, its sibling is <site-packages>/casadi.
_ORIGIN = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
_RUN_PATH = f"-Wl,-rpath,{_ORIGIN}/../casadi"

# Problem 71 of Hock and Schittkowski: min x1 x4 (x1+x2+x3) + x3 s.t. x1 x2 x3 x4 >= 25, sum of squares = 40.
_HS071 = """
import cyipopt, numpy as np
class HS071:
    def objective(self, x): return x[0]*x[3]*(x[0] + x[1] + x[2]) + x[2]
    def gradient(self, x):
        return [x[3]*(2*x[0] + x[1] + x[2]), x[0]*x[3], x[0]*x[3] + 1, x[0]*(x[0] + x[1] + x[2])]
    def constraints(self, x): return [np.prod(x), np.dot(x, x)]
    def jacobian(self, x): return np.concatenate([np.prod(x)/x, 2*x])
nlp = cyipopt.Problem(n=4, m=2, problem_obj=HS071(), lb=[1]*4, ub=[5]*4, cl=[25, 40], cu=[2e19, 40])
for name, value in {"print_level": 0, "sb": "yes", "hessian_approximation": "limited-memory"}.items():
    nlp.add_option(name, value)
x, info = nlp.solve(np.array([1.0, 5.0, 5.0, 1.0]))
assert info["status"] == 0 and abs(info["obj_val"] - 17.0140173) < 1e-5, info
version = ".".join(map(str, cyipopt.IPOPT_VERSION))
print(f"cyipopt {cyipopt.__version__} with IPOPT {version}: solves HS071")
"""


def check() -> tuple[bool, str]:
    """Whether cyipopt solves a small problem in a fresh process, and its last line of output or error."""
    done = subprocess.run([sys.executable, "-c", _HS071], capture_output=True, text=True, timeout=120)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"


def casadi_folder() -> Path | None:
    """casadi's package folder, found without importing it; None where it is not installed."""
    spec = importlib.util.find_spec("casadi")
    return Path(spec.origin).parent if spec and spec.origin else None


def compiler() -> str | None:
    """The C compiler that Python itself was built with, else any that is there; None where there is none."""
    own = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    for command in (own, "gcc", "cc", "clang"):
        if shutil.which(shlex.split(command)[0]):
            return str(command)
    return None


def missing(casadi: Path | None) -> str | None:
    """The reason why a build cannot succeed, or None."""
    if casadi is None:
        return "casadi is not installed (pip install casadi)"
    if not (casadi / "include" / "coin-or" / "IpStdCInterface.h").is_file():
        return f"this casadi carries no IPOPT headers ({casadi}/include/coin-or); casadi>=3.7 does"
    if not any(casadi.glob("libipopt.so*")) and not any(casadi.glob("libipopt*.dylib")):
        return f"this casadi carries no IPOPT library ({casadi}/libipopt.*)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's C headers are missing (on Debian: package python3-dev)"
    if compiler() is None:
        return "there is no C compiler (gcc, cc or clang) on PATH"
    return None


def build(casadi: Path) -> subprocess.CompletedProcess[str]:
    """Let pip build and install cyipopt against `casadi`; returns pip's finished process."""
    with tempfile.TemporaryDirectory(prefix="cyipopt-") as name:
        folder = Path(name)
        # Links, because the build splits the flags at blanks and casadi's path may have some.
        (folder / "include").symlink_to(casadi / "include" / "coin-or")
        (folder / "lib").symlink_to(casadi)
        flags = f"-I{folder}/include -L{folder}/lib -lipopt"
        program = folder / "bin" / "pkg-config"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho {shlex.quote(flags)}\n")
        program.chmod(0o755)
        environment = os.environ | {
            "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "CC": compiler() or "cc",
            "LDFLAGS": f"{os.environ.get('LDFLAGS', '')} {_RUN_PATH}".strip(),
        }
        # --no-cache-dir: a cached wheel may have been linked otherwise. --no-deps: numpy is there already.
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        options = ["--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", "cyipopt"]
        return subprocess.run(
            [*pip, *options, "cyipopt"],
            env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def main(arguments: list[str]) -> int:
    works, message = check()
    if works or "--check" in arguments:
        print(message if works else f"cyipopt does not work here: {message}")
        return 0 if works else 1
    casadi = casadi_folder()
    reason = missing(casadi)
    if reason is None and casadi is not None:
        print("building cyipopt against casadi's IPOPT (about 15 s) ...", flush=True)
        pip = build(casadi)
        works, message = check()
        if works:
            print(message)
            return 0
        if pip.returncode:
            print("\n".join((pip.stdout + pip.stderr).strip().splitlines()[-12:]), file=sys.stderr)
            message = f"pip ended with code {pip.returncode}, see above"
        reason = message
    print(
        f"NOTE: cyipopt was not built: {reason}.\n"
        "      Nothing is lost: nonlinear models are solved by the IPOPT inside casadi.\n"
        "      Once the cause is removed, `make ipopt` tries again.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
