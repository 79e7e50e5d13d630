"""Programs as forks of a process that has imported their libraries: what a forked child does in place of `exec`.

A cold `sotto vault start` spends seven seconds of CPU on imports, and a test run starts hundreds of programs. So
most are forked from one process, `tests/programs/server.py`, that imported it all once, before any thread existed.
A forked program has arguments, environment, working directory and output of its own and a command line that `ps`
shows, and ends as any Python program does. What it starts itself is forked too, as long as it has one thread.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.metadata
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.programs.pristine import Pristine

# Console scripts of Flower; ours is started as a module.
SCRIPTS = ("flower-superlink", "flower-superexec", "flwr-serverapp", "flwr")
_MOST_DESCRIPTORS = 4096
# Set by the server when it has imported everything.
pristine: Pristine | None = None
_run_exit_functions: Callable[[], None] = vars(atexit)["_run_exitfuncs"]
_clear_exit_functions: Callable[[], None] = vars(atexit)["_clear"]
_wait_for_threads: Callable[[], None] = vars(threading)["_shutdown"]


def module_or_script(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """What a command runs, if a fork can run it: a module's or script's name, and the arguments."""
    program, *arguments = command
    if program == sys.executable:
        if arguments[:1] == ["-P"]:
            arguments = arguments[1:]
        return (arguments[1], arguments[2:]) if arguments[:1] == ["-m"] and len(arguments) > 1 else None
    name = Path(program).name
    return (name, arguments) if name in SCRIPTS else None


def is_single_threaded() -> bool:
    """Whether this process has one thread, of the system's, and so can be forked."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


class ForkingPopen(subprocess.Popen[Any]):
    """Takes the place of `subprocess.Popen` in a forked program: forks again where that is safe."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, *rest: Any) -> None:
        names = ("pass_fds", "cwd", "env", "startupinfo", "creationflags", "shell")
        names += ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals")
        names += ("gid", "gids", "uid", "umask", "start_new_session", "process_group")
        given = dict(zip(names, rest, strict=True))
        env = os.environ if given["env"] is None else given["env"]
        command = [str(part) for part in args] if isinstance(args, list | tuple) else [str(args)]
        if not (module_or_script(command) and is_forkable(env)):
            super()._execute_child(args, executable, preexec_fn, close_fds, *rest)  # type: ignore[misc]
            return
        pid = os.fork()
        if pid == 0:
            become(
                command,
                env=env,
                cwd=given["cwd"] or ".",
                streams=[given["p2cread"], given["c2pwrite"], given["errwrite"]],
                prepare=preexec_fn,
                new_session=given["start_new_session"],
            )
        self.pid = pid
        self._child_created = True
        for ours, theirs in (("p2cwrite", "p2cread"), ("c2pread", "c2pwrite"), ("errread", "errwrite")):
            if given[ours] != -1 and given[theirs] != -1:
                os.close(given[theirs])


def is_forkable(env: Mapping[str, str]) -> bool:
    """Whether a program of this environment may be forked from this process: it would import the same code.

    SQLite forbids a process that has a database open to fork one that opens it, too.
    """
    same = env.get("PYTHONPATH") == os.environ.get("PYTHONPATH")
    opened = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
    databases = [path for path in opened if ".db" in Path(path).suffixes]
    return same and not env.get("SOTTO_TEST_COLD") and not databases and is_single_threaded()


def become(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | Path,
    streams: Sequence[int],
    prepare: Callable[[], None] | None = None,
    new_session: bool = False,
) -> NoReturn:
    """In a fork: be the program of a command until it ends.

    Args:
        command: that a fork can run.
        env: the whole environment.
        cwd: the working directory.
        streams: descriptors of standard input, output and error; -1 for this process's own.
        prepare: called before the program, as `preexec_fn`.
        new_session: whether it leads a session of its own.
    """
    code = 1
    try:
        _start_clean(env, cwd, streams)
        if new_session:
            os.setsid()
        if prepare is not None:
            prepare()
        code = _run(command)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _start_clean(env: Mapping[str, str], cwd: str | Path, streams: Sequence[int]) -> None:
    assert pristine is not None, "only forks of the server become programs"
    # What the parent would do at its end is not this program's.
    _clear_exit_functions()
    vars(weakref.finalize)["_registry"].clear()
    for own, given in enumerate(streams):
        if given not in (-1, own):
            os.dup2(given, own)
    os.closerange(3, _MOST_DESCRIPTORS)
    pristine.restore()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    wanted = dict(env)  # it may be this process's own environment
    os.environ.clear()
    os.environ.update(wanted)
    os.chdir(cwd)
    tempfile.tempdir = None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = pristine.stream(number)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    subprocess.Popen = ForkingPopen  # type: ignore[misc]


def _run(command: Sequence[str]) -> int:
    found = module_or_script(command)
    assert found is not None
    name, arguments = found
    _show(command)
    sys.orig_argv = list(command)
    sys.argv = [str(command[0]), *arguments]
    _set_log_level()
    try:
        if name in SCRIPTS:
            (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
            sys.exit(entry.load()())
        sys.modules.pop(name, None)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def _show(command: Sequence[str]) -> None:
    """Make `/proc/PID/cmdline` that of the program; slashes before its path fill the room of the server's."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(part) + b"\0" for part in command)
    assert len(text) <= end - start, f"a command of {len(text)} bytes; the server has room for {end - start}"
    ctypes.memmove(start, text.rjust(end - start, b"/"), end - start)


def _set_log_level() -> None:
    """What Flower read from the environment while it was imported."""
    from flwr.supercore import logger

    logger.console_handler.setStream(sys.stderr)
    logger.update_console_handler(level=os.environ.get("FLWR_LOG_LEVEL", "INFO"))


def _end(code: int) -> NoReturn:
    """End as the interpreter does: threads, exit functions, buffers."""
    try:
        _wait_for_threads()
        _run_exit_functions()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)
