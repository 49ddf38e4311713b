"""A run of several processes, one a host: how they find each other, and how they end together.

JAX's coordination service, which process 0 runs, is also where they leave word for each other: a
process that fails says why, the others read it and end. Process 0 looks for signs of life as well,
since one that is killed says nothing. If process 0 itself is killed, JAX ends the others.
"""

import atexit
import dataclasses
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

import jax
from jax._src import cloud_tpu_init, distributed

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel.exchange import first, from_first, gather, several

# Seconds: for all processes to come, for the word of one to reach the others, and without a sign of
# life.
ARRIVAL, PERIOD, PATIENCE = 300.0, 1.0, 60.0
FAILED, ALIVE = "pivotrl/failed/", "pivotrl/alive/"
COUNT, MET = "pivotrl/count", "pivotrl/met"


@dataclasses.dataclass(frozen=True)
class Place:
    """Number `process` of `processes`, of which number 0 listens at `coordinator` (host:port)."""

    coordinator: str
    processes: int
    process: int


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    arrival: float = ARRIVAL,
    patience: float = PATIENCE,
) -> None:
    """Joins this process with the others of its run. Comes before any other use of JAX.

    All arguments say where it belongs; without any, what Cloud TPU, SLURM or Kubernetes tell JAX.
    Where neither speaks of several processes, and for `processes=1`, nothing happens. Raises
    UserError for arguments that do not fit together; ends the process with a sentence if the
    others do not come within `arrival` seconds. From then on, one that gives no sign of life for
    `patience` seconds counts as lost, and ends them all.
    """
    place = _place(coordinator, processes, process)
    if place is None and (processes == 1 or not in_cluster(os.environ)):
        return
    # Its handler would swallow a SIGTERM that comes while no training step is there to see it.
    jax.config.update("jax_enable_preemption_service", False)
    _join(place, arrival)
    if several():
        _begin_watch(patience)
        _require_same_count(place, arrival)
        # The first exchange has a time limit of its own on CPU, which a late process would break.
        _client().wait_at_barrier(MET, int(1000 * arrival))
        gather(None)


def _place(coordinator: str | None, processes: int | None, process: int | None) -> Place | None:
    """None where the arguments name none."""
    if processes == 1 or (coordinator, processes, process) == (None, None, None):
        return None
    if coordinator is None or processes is None or process is None:
        raise UserError(
            "--coordinator, --processes and --process belong together; give all three of them, or "
            "none where Cloud TPU, SLURM or Kubernetes start the run"
        )
    if not 0 <= process < processes:
        raise UserError(
            f"--process={process} is not one of --processes={processes}; number them from 0 to "
            f"{processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT; name process 0's host")
    return Place(coordinator, processes, process)


def in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether the environment is one of those that tell JAX of the other processes of a job."""
    several = int(environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in environ
    indexed = "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ
    on_tpu = cloud_tpu_init.running_in_cloud_tpu_vm and environ.get("JAX_PLATFORMS") != "cpu"
    return several or indexed or on_tpu


def devices_of_slurm(environ: Mapping[str, str]) -> list[int] | None:
    """All GPUs of a node for its only task; None for JAX's own choice, a GPU for each task."""
    alone = environ.get("SLURM_NTASKS") == environ.get("SLURM_STEP_NUM_NODES", "")
    gpus = int(environ.get("SLURM_GPUS_ON_NODE", 0))
    return list(range(gpus)) if alone and gpus else None


def _join(place: Place | None, arrival: float) -> None:
    # JAX would abort with a page of addresses where this ends with a sentence.
    late = threading.Timer(arrival, _not_there, (place, arrival))
    late.daemon = True
    late.start()
    # Cloud TPU, SLURM and Kubernetes are asked only where no place is given.
    given: dict[str, Any] = {"local_device_ids": devices_of_slurm(os.environ)}
    if place is not None:
        given = {
            "coordinator_address": place.coordinator,
            "num_processes": place.processes,
            "process_id": place.process,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(initialization_timeout=int(arrival) + 60, **given)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run could not be joined ({_line(error)}); give --coordinator, "
            "--processes and --process, with a free port, or --processes=1 for one alone (in "
            "Kubernetes, `pip install jax[k8s]` finds them as well)"
        ) from error
    finally:
        late.cancel()


def _not_there(place: Place | None, arrival: float) -> Never:
    others = "the other processes"
    if place is not None and place.process:
        others = f"process 0 at {place.coordinator}"
    _end(
        f"{others} could not be reached within {arrival:.0f} s; start the same command on every "
        "host at about the same time, with a coordinator address that all of them can reach"
    )


def _require_same_count(place: Place | None, arrival: float) -> None:
    """Process 0 says how many there are; JAX would wait for those that nobody started."""
    if place is None:
        return
    client = _client()
    if place.process == 0:
        client.key_value_set(COUNT, str(place.processes))
    said = client.blocking_key_value_get(COUNT, int(1000 * arrival))
    if said != str(place.processes):
        raise UserError(
            f"process {place.process} was started with --processes={place.processes} and process "
            f"0 with --processes={said}; give all of them the same number"
        )


def _client() -> Any:
    """Through which JAX's coordination service is asked and told; JAX has no public name for it."""
    return distributed.global_state.client


def _begin_watch(patience: float) -> None:
    """A thread watches over the others until this process exits."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(patience, over), daemon=True)

    def end() -> None:
        # A thread that comes back from JAX's client into an interpreter that is being finalized
        # aborts the process.
        over.set()
        thread.join()

    atexit.register(end)
    thread.start()


def _watch(patience: float, over: threading.Event) -> None:
    """Ends this process once another one has failed or is lost."""
    own, silent = str(jax.process_index()), dict[str, tuple[str, int]]()
    while (client := _client()) is not None:
        # Process 0 ends together with its service; JAX notices that by itself.
        with suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(ALIVE + own, str(time.monotonic()), allow_overwrite=True)
            for key, words in client.key_value_dir_get(FAILED):
                if not key.endswith(f"/{own}"):
                    _end_of_run(f"process {key.removeprefix(FAILED)} ended: {words}")
            if own == "0" and (lost := _lost(client, silent, patience / PERIOD)):
                words = f"no sign of life for {patience:.0f} s"
                client.key_value_set(FAILED + lost, words, allow_overwrite=True)
        if over.wait(PERIOD):
            return


def _lost(client: Any, silent: dict[str, tuple[str, int]], most: float) -> str | None:
    """A process whose sign of life is the same for more than `most` looks in a row.

    Looks, not seconds: while this process itself does not come to look, nobody is silent. `silent`
    keeps each one's last sign and the looks that found no other.
    """
    for key, sign in client.key_value_dir_get(ALIVE):
        last, looks = silent.get(key, ("", 0))
        silent[key] = (sign, looks + 1 if sign == last else 0)
    late = [key for key, (_, looks) in silent.items() if looks > most]
    return late[0].removeprefix(ALIVE) if late else None


def leave(error: BaseException, words: str | None = None, code: int = 1) -> None:
    """Ends this process, with exit code `code`, and all others for an error, which `words` put in a
    sentence.

    Returns in a run of one process, where nobody else has to be told. What JAX reports of others
    (a connection that broke) may be the failure of one of them, which is waited for.
    """
    if not several():
        return
    if isinstance(error, jax.errors.JaxRuntimeError):
        time.sleep(PATIENCE + 10 * PERIOD)
    if words is None:
        traceback.print_exception(error)
        words = f"{type(error).__name__}: {_line(error)}"
    client = _client()
    with suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(FAILED + str(jax.process_index()), words, allow_overwrite=True)
    _end_of_run(words, code)


def _end_of_run(words: str, code: int = 1) -> Never:
    if first():
        # Its service must stay until the others have read why.
        time.sleep(3 * PERIOD)
    _end(words, code)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _end(words: str, code: int = 1) -> Never:
    """Leaves at once: an orderly exit would wait for the other processes."""
    print(f"error: {words}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def require_shared(directory: Path) -> None:
    """Raises UserError, on every process, unless all see `directory` as process 0 does.

    It exists afterwards. A run of one process needs nothing of the kind.
    """
    if not several():
        return
    mark = from_first(lambda: _marked(directory))
    seen = gather((directory / mark).exists())
    from_first((directory / mark).unlink)
    if not all(seen):
        raise UserError(
            f"process {seen.index(False)} does not see what process 0 writes to {directory}; give "
            "a --workdir on a file system that all hosts share"
        )


def _marked(directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    mark = f".shared-{uuid.uuid4().hex}"
    (directory / mark).touch()
    return mark
