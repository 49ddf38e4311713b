"""Replies of an LLM judge on disk, one small file each."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from pivotrl_jax.errors import UserError


class ReplyCache:
    """Replies by key in `directory`, safe for threads and processes that share it.

    A file is whole or absent, and a damaged one counts as absent. `key` is a hexadecimal digest
    of everything that a reply depends on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{directory}: the judge's cache cannot be written ({error.strerror}): "
                "name another directory"
            ) from error

    def get(self, key: str) -> str | None:
        try:
            reply = json.loads(self._path(key).read_bytes())["reply"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, key: str, reply: str) -> None:
        path = self._path(key)
        # A reply that could not be kept, on a full disk say, is only asked for again.
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            self._replace(path, json.dumps({"reply": reply}).encode())

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / f"{key}.json"

    def _replace(self, path: Path, data: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
