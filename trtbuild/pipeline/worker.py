"""A process that runs jobs, one after the other: `python -m trtbuild.pipeline.worker`.

It reads a line `{"job": path, "workspace": path, "log": path}` from its standard input and answers one on the pipe
given as argument. What a job prints goes to its log, never to the build's own output. The process lives for many jobs,
so that a second job with PyTorch does not import it again; it ends when its standard input closes, which also happens
when the build dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from trtbuild.core.disk import FULL_DISK_HINT
from trtbuild.core.errors import TrtbuildError
from trtbuild.pipeline import job as jobs

GROWN_BYTES = 1 << 31
"""Resident memory above which a worker is replaced. PyTorch, transformers and ModelOpt together need less than half."""
TIDIED_BYTES = GROWN_BYTES // 2
"""Resident memory above which a finished job's garbage is collected. With PyTorch loaded that takes 0.3 s, more than
many a job."""


def main(answers: int) -> None:
    """Serve jobs from standard input until it closes."""
    requests = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    lines: list[str] = []
    arrived = threading.Condition()
    threading.Thread(target=_listen, args=(requests, lines, arrived), daemon=True).start()
    while True:
        with arrived:
            arrived.wait_for(lambda: bool(lines))
            request = json.loads(lines.pop(0))
        answer = _serve(request)
        os.write(answers, (json.dumps({**answer, "retire": _has_grown()}) + "\n").encode())


def _listen(requests: int, lines: list[str], arrived: threading.Condition) -> None:
    """Collect requests; when the pipe closes the build is gone, and work nobody will collect stops at once."""
    with os.fdopen(requests) as stream:
        for line in stream:
            with arrived:
                lines.append(line)
                arrived.notify()
    os._exit(0)


def _has_grown() -> bool:
    """Whether this process still holds so much that the next job should have a fresh one.

    What a job leaves behind in cycles and in malloc's arenas is given back first; what libraries cache is not.
    """
    if _resident_bytes() <= TIDIED_BYTES:
        return False
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    return _resident_bytes() > GROWN_BYTES


def _resident_bytes() -> int:
    """The process's resident memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _serve(request: dict[str, str]) -> dict[str, Any]:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        job = jobs.Job.model_validate_json(Path(request["job"]).read_bytes())
        outputs = jobs.run(job, Path(request["workspace"]))
        return {"outputs": {name: output.model_dump(mode="json") for name, output in outputs.items()}}
    except TrtbuildError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except OSError as error:
        traceback.print_exc()
        return {
            "error": "StoreError",
            "message": f"{error.filename or ''}: {error.strerror}",
            "hint": FULL_DISK_HINT if error.errno == errno.ENOSPC else "",
        }
    except BaseException as error:  # the border of a job: whatever a library raises becomes the step's failure
        traceback.print_exc()
        return {"error": "", "message": f"{type(error).__name__}: {error}".strip()}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
