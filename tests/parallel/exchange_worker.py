"""What one of several processes sees of the others, for test_hosts.py.

The argument is JSON: `directory`, `coordinator`, `sizes`, `process`, `arrival`, and `how` process
`hit` ends ("error", "kill", or not at all). The last line that it prints is what it found, as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import (
    MeshSettings,
    divided,
    fetch,
    first,
    from_first,
    gather,
    highest,
    leave,
    make_mesh,
    mine,
    put_rows,
    put_whole,
    require_shared,
    start,
)


def found(process: int) -> dict[str, Any]:
    mesh = make_mesh(MeshSettings())
    with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        host = np.arange(24, dtype=np.float32).reshape(8, 3)
        x = put_rows(host, mesh)
        return {
            "first": first(),
            "gather": gather({"process": process, "text": "ä" * 3000 * process}),
            "from_first": from_first(lambda: f"made by {process}"),
            "highest": highest(process),
            "divided": divided(range(11), lambda item: [item, process], at_once=2),
            "mine": [number for number in range(7) if mine(number)],
            "own_rows": [shard.data.shape[0] for shard in x.addressable_shards],
            "fetch": np.asarray(fetch({"rows": x, "sum": x.sum()})["rows"]).tolist(),
            "whole": float(fetch(put_whole(np.float32(7)))),
        }


def main(given: dict[str, Any]) -> None:
    process = given["process"]
    try:
        start(given["coordinator"], given["sizes"][process], process, arrival=given["arrival"])
        print(json.dumps(found(process)), flush=True)
        require_shared(Path(given["directory"].format(process=process)))
        if process == given["hit"] and given["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if process == given["hit"] and given["how"] == "error":
            raise UserError("the disk of this process is full")
        if given["how"]:
            gather(process)
    except Exception as error:
        leave(error, str(error) if isinstance(error, UserError) else None)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
