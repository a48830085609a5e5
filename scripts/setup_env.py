"""Create or repair .venv with the pinned packages and the project. Standard library only.

Runs under any Python 3 so that an old one gets told what is missing. A stamp inside .venv says for
which pins it was completed; as long as that holds, a run ends at once.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "course-complete.json")
UNDERWAY = os.path.join(VENV, "course-underway")
SUPPORTED = [(3, 13), (3, 12), (3, 11)]  # the newest first; pyproject.toml says the same
VERSIONS = "Python 3.11, 3.12 or 3.13"
GB = 10**9
# Measured with the pins of 2026-11: .venv takes 1.9 GB, with CUDA 5.8 GB. The rest is for the
# wheels, which pip keeps twice while it installs: in its cache and among the temporary files.
SPACE_CPU = 3 * GB
SPACE_CUDA = 12 * GB

NETWORK_SIGNS = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeout|Max retries exceeded"
    r"|Temporary failure in name resolution|Network is unreachable|No route to host"
    r"|Connection (refused|reset|broken|aborted)|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED"
    r"|Could not fetch URL|IncompleteRead|ProtocolError|HTTP error 5\d\d"
)
DISK_SIGNS = re.compile(r"No space left on device|Disk quota exceeded|Errno 28\b|Errno 122\b")
CPU_HINT = (
    "PyTorch's smaller build for the CPU: on PyTorch's 'Get started' page choose Linux, Pip, CPU,\n"
    "take the address after --index-url and run\n"
    "    PIP_EXTRA_INDEX_URL=<that address> make lab\n"
)


class Trouble(Exception):
    """Something the user can act on; the text says how."""


class NoNetwork(Trouble):
    """pip could not download. It downloads everything before it installs anything."""


def say(text):
    """Print at once, also into a pipe."""
    print(text, flush=True)


def answer_of(command):
    """Standard output of a short command, or None where it fails."""
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def probe(python):
    """(version, executable, can it make environments) of a Python command; None if it is none."""
    code = (
        "import sys, importlib.util as u; print('%d.%d.%d' % sys.version_info[:3]); "
        "print(sys.executable); print(bool(u.find_spec('ensurepip') and u.find_spec('venv')))"
    )
    lines = (answer_of([python, "-c", code]) or "").splitlines()
    if len(lines) != 3:
        return None
    return tuple(int(n) for n in lines[0].split(".")), lines[1], lines[2] == "True"


def find_python(commands=None):
    """Executable of a supported Python that can make environments: the running one first."""
    names = ["python%d.%d" % version for version in SUPPORTED] + ["python3", "python"]
    found = [probe(python) for python in commands or [sys.executable] + names]
    found = [one for one in found if one]
    usable = [one for one in found if one[0][:2] in SUPPORTED]
    if usable and found[0] not in usable:
        say("Python %d.%d.%d (%s) is not one of" % (found[0][0] + (found[0][1],)))
        say("%s, which the course needs; looking for another." % VERSIONS)
    for _, executable, complete in usable:
        if complete:
            return executable
    if usable:
        version = "%d.%d" % usable[0][0][:2]
        raise Trouble(
            "Python %s is here, but not the part that makes virtual environments.\n"
            "On Debian or Ubuntu: sudo apt install python%s-venv (or python3-venv), then try again."
            % (version, version)
        )
    seen = sorted({"%d.%d.%d (%s)" % (one[0] + (one[1],)) for one in found})
    raise Trouble(
        "The course needs %s. Found: %s.\n"
        "Install one from python.org, your package manager, pyenv or conda; if it is not on PATH,\n"
        "name it: make lab PYTHON=/path/to/python3.12" % (VERSIONS, ", ".join(seen) or "none")
    )


def venv_python():
    """The environment's Python."""
    return os.path.join(VENV, "bin", "python")


def fingerprint(version):
    """What a complete environment was made for: pins, Python version and place."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return {"pins": digest.hexdigest(), "python": version, "place": os.path.realpath(VENV)}


def venv_version():
    """Version of the environment's Python; None if it lacks pip, was moved or is unsupported."""
    code = (
        "import sys, importlib.util as u; print(sys.prefix if u.find_spec('pip') else ''); "
        "print('%d.%d.%d' % sys.version_info[:3])"
    )
    lines = (answer_of([venv_python(), "-c", code]) or "").splitlines()
    if len(lines) != 2 or os.path.realpath(lines[0]) != os.path.realpath(VENV):
        return None
    supported = tuple(int(n) for n in lines[1].split(".")[:2]) in SUPPORTED
    return lines[1] if supported else None


def is_complete(version):
    """Whether the stamp says that the environment was completed for these pins, here."""
    try:
        with open(STAMP) as file:
            return json.load(file) == fingerprint(version)
    except (OSError, ValueError):
        return False


def make_venv(python):
    """A new, empty environment in place of whatever is there."""
    say("Creating .venv with %s" % python)
    old = VENV + ".old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.lexists(VENV):
        os.rename(VENV, old)
        shutil.rmtree(old, ignore_errors=True)
    os.mkdir(VENV)
    open(UNDERWAY, "w").close()
    if subprocess.call([python, "-m", "venv", VENV]) != 0:
        raise Trouble("%s could not create a virtual environment (see above)." % python)


def chosen_indexes():
    """What the user told pip about package indexes, by variable or configuration."""
    config = answer_of([venv_python(), "-m", "pip", "config", "list"]) or ""
    return re.findall(r"^.*(?:index-url|find-links)='[^']+'", config, re.MULTILINE)


def folder_bytes(path):
    """Bytes that the files below a folder take."""
    files = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    return sum(os.lstat(file).st_size for file in files)


def check_space(free, cuda, present=0):
    """Stop before the download if the disk is too small; explain the large build of PyTorch."""
    need = max((SPACE_CUDA if cuda else SPACE_CPU) - present, GB // 2)
    numbers = "needs about %.1f GB of free disk; %.1f GB are free" % (need / GB, free / GB)
    if free < need:
        text = "Not enough disk under %s: the set-up %s.\nFree some space and try again."
        text = text % (ROOT, numbers)
        raise Trouble(text + (" Or use\n" + CPU_HINT if cuda else ""))
    say("The set-up %s." % numbers)
    if cuda:
        say("On Linux, PyPI's PyTorch brings NVIDIA's libraries. Without an NVIDIA GPU, rather use")
        say(CPU_HINT)


def why_pip_failed(errors):
    """The trouble behind a failed installation, from the end of what pip wrote to stderr."""
    end = "\n".join(errors.splitlines()[-100:])
    if DISK_SIGNS.search(end):
        return Trouble(
            "The disk filled up during the installation. Free some space (also where temporary\n"
            "files go; TMPDIR moves that) and try again."
        )
    if NETWORK_SIGNS.search(end) and "ResolutionImpossible" not in end:
        return NoNetwork(
            "The package index could not be reached. Check the connection and run the same\n"
            "command again. Behind a proxy, set HTTPS_PROXY (and PIP_CERT, if the proxy has its\n"
            "own certificate); with a mirror of PyPI, set PIP_INDEX_URL."
        )
    return Trouble(
        "pip could not install the packages (see above).\n"
        "If the message is of no help, delete the folder .venv and run the same command again."
    )


def run_shown(command):
    """Run a command; show what it prints and return its exit status and standard error."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    errors = []
    for line in process.stderr:
        errors.append(line.decode(errors="replace"))
        sys.stderr.write(errors[-1])
        sys.stderr.flush()
    return process.wait(), "".join(errors)


def pip_install():
    """Install the pinned packages and the project; raise Trouble where that fails."""
    command = [venv_python(), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["-c", "constraints.txt", "-e", ".[dev]"]
    if not sys.stdout.isatty():
        command.append("--quiet")
    status, errors = run_shown(command)
    if status != 0:
        raise why_pip_failed(errors)


def complete(version):
    """Fill the environment and stamp it; an interrupted attempt leaves a mark instead."""
    cuda = platform.system() == "Linux" and not chosen_indexes()
    check_space(shutil.disk_usage(ROOT).free, cuda, folder_bytes(VENV))
    if os.path.exists(STAMP):
        os.unlink(STAMP)
    open(UNDERWAY, "w").close()
    say("Installing the packages; the first time this takes some minutes.")
    try:
        pip_install()
    except NoNetwork:
        os.unlink(UNDERWAY)
        raise
    with open(STAMP + ".part", "w") as file:
        json.dump(fingerprint(version), file)
    os.rename(STAMP + ".part", STAMP)
    os.unlink(UNDERWAY)
    say("The environment is ready.")


def set_up():
    """Bring .venv to the pinned state, with as little work as that takes."""
    version = venv_version()
    if version and is_complete(version):
        return
    if version is None or os.path.exists(UNDERWAY):
        make_venv(find_python())
        version = venv_version()
    complete(version)


def main():
    """Set up; print what to do where that is not possible."""
    try:
        set_up()
    except Trouble as trouble:
        print("\n%s" % trouble, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command starts again.", file=sys.stderr)
        return 130
    except OSError as error:
        print("\nThe set-up stopped: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
