"""A process that has imported everything and forks a child for each command: a start costs milliseconds, not seconds.

It has run no operation of PyTorch and has one thread, so that a child computes what a fresh process does. Requests come
as lines of JSON on standard input: a list of commands that run at the same time. Answers go to standard output.
"""

import atexit
import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

IMPORTS = (
    "onnx", "onnxscript", "scipy.optimize", "scipy.stats", "timm",
    "torch.export", "torch.onnx", "torchvision", "torch._dynamo",
)  # fmt: skip
FEW = ("cifar.cli", "cifar.pipeline", "cifar.reporting.pictures")
LATE = {"cifar.__main__", "cifar.serving.demo"}  # not imported: the one runs, the other is heavy


def import_all(*, few: bool) -> None:
    """Import the package, and what it imports late; or only what a training needs."""
    import cifar

    importlib.import_module("matplotlib.backends.backend_agg")
    for name in FEW:
        importlib.import_module(name)
    if not few:
        has_optuna = importlib.util.find_spec("optuna") is not None
        for module in pkgutil.walk_packages(cifar.__path__, "cifar."):
            if module.name not in LATE and (has_optuna or not module.name.startswith("cifar.sweep.")):
                importlib.import_module(module.name)
        importlib.import_module("cifar.models.repair").repair_torchvision()
        for name in IMPORTS:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    assert threads == 1, f"{threads} threads would not survive a fork"


def serve() -> None:
    """Answer requests until standard input ends."""
    import_all(few="few" in sys.argv)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_together(json.loads(line))), file=answers, flush=True)
    os._exit(0)  # the interpreter takes a second to go


def run_together(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fork a child for each command, send it its signals when they are due, and wait for all.

    Args:
        commands: see `storms.forks.Command`.

    Returns:
        of each its exit code (negative: the signal that ended it), its seconds, and whether it ran out of time.
    """
    start = time.monotonic()
    waiting = sorted(range(len(commands)), key=lambda index: commands[index]["delay"])
    running: dict[int, int] = {}
    due = [(entry["delay"] + after, number, index) for index, entry in enumerate(commands)
           for after, number in entry["signals"]]  # fmt: skip
    due += [(entry["delay"] + entry["timeout"], 0, index) for index, entry in enumerate(commands)]
    due.sort()
    results: list[dict[str, Any]] = [{"code": None, "late": False} for _ in commands]
    children: dict[int, int] = {}
    while waiting or running:
        now = time.monotonic() - start
        while waiting and commands[waiting[0]]["delay"] <= now:
            index = waiting.pop(0)
            children[index] = fork(commands[index])
            running[children[index]] = index
        while due and due[0][0] <= now:
            _, number, index = due.pop(0)
            if children.get(index) in running:
                results[index]["late"] = not number
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(children[index], number or signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if pid:
            index = running.pop(pid)
            results[index] |= {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - start}
        else:
            time.sleep(0.001)
    return results


def fork(command: dict[str, Any]) -> int:
    """The process id of a child that runs a command, in a session of its own."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # as the child does: whoever comes first
        return pid
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        code = run_child(command)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_child(command: dict[str, Any]) -> int:
    """Set the child up as a fresh process would be, run the command, and give its exit code."""
    for number, name in ((0, os.devnull), (1, command["out"]), (2, command["err"])):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) if command["log"] else -1
    os.environ.update(command["env"])
    os.chdir(command["cwd"])
    if command["max_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["max_file"], command["max_file"]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does at its start
    if command["uid"]:
        matplotlib = sys.modules["matplotlib"]  # it has found its folders already, as another user
        for name in ("get_configdir", "get_cachedir"):
            setattr(matplotlib, name, getattr(matplotlib, name).__wrapped__)
        os.setgroups([])
        os.setgid(command["uid"])
        os.setuid(command["uid"])
    if command["prepare"]:
        module, _, function = command["prepare"].partition(":")
        getattr(importlib.import_module(module), function)(command)
    if command["folder"]:
        arm = ctypes.CDLL(None).fault_arm
        arm(command["folder"].encode(), command["number"], command["action"], command["stays"], log)
    sys.argv = ["cifar", *command["argv"]]
    from cifar.__main__ import main

    code: object
    try:
        code = main()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    serve()
