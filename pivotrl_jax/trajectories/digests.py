"""Short names of messages, by content."""

import dataclasses
import hashlib
import json
from typing import Any

from pivotrl_jax.trajectories.schema import Message

BYTES = 16


def json_digest(value: Any) -> bytes:
    """Equal for equal JSON, whatever the order of keys."""
    # Not to ASCII, which is slow; a lone surrogate must not be an error.
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=BYTES).digest()


def digest(message: Message) -> bytes:
    """Equal for equal messages."""
    seen = [message.failed, message.answers, message.content]
    return json_digest([message.reasoning, *seen, *_done(message)])


def action_digest(message: Message) -> bytes:
    """Equal for messages that say and call the same.

    Reasoning is not looked at, nor is white space around the text, which taking the reasoning out
    leaves behind.
    """
    return json_digest([message.content.strip(), *_done(message)])


def prefix_digests(messages: tuple[Message, ...]) -> list[bytes]:
    """For each message, one digest of everything up to and with it.

    Without reasoning and without text beside calls, neither of which a label has.
    """
    state = hashlib.blake2b(digest_size=BYTES)
    found = []
    for message in messages:
        bare = dataclasses.replace(message, content="") if message.calls else message
        state.update(action_digest(bare))
        found.append(state.copy().digest())
    return found


def _done(message: Message) -> list[Any]:
    return [message.role, [[call.name, call.arguments] for call in message.calls]]
