"""The judge's endpoint: questions asked a bounded number at a time, with retries and a cache."""

import collections
import dataclasses
import hashlib
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.judge.cache import ReplyCache
from pivotrl_jax.verifiers.judge.prompt import Chat
from pivotrl_jax.verifiers.judge.transport import Failure, Limits, post
from pivotrl_jax.verifiers.labels import parse_label

_MOST_TOKENS = 1 << 31  # of one reply; a server that states more is not believed


@dataclasses.dataclass(frozen=True)
class EndpointSettings:
    """An OpenAI-compatible server and how to treat it.

    `url` ends where the OpenAI clients' base URL does ("http://localhost:8000/v1");
    `key_variable` names the environment variable that holds the API key (None: no key).
    `concurrency` requests at most are under way at a time. A question fails after `attempts`
    requests or `deadline_seconds`, whichever comes first; the n-th wait between them is a random
    part of `backoff_seconds` * 2**n, one half at least, or what the server asks for if that is
    longer. `cache` is a directory (None: none); prices are per token.
    """

    url: str
    model: str
    key_variable: str | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    concurrency: int = 16
    attempts: int = 5
    backoff_seconds: float = 0.5
    connect_seconds: float = 5.0
    read_seconds: float = 60.0
    deadline_seconds: float = 180.0
    max_reply_bytes: int = 1 << 20
    cache: str | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        for field in ("max_tokens", "concurrency", "attempts", "deadline_seconds"):
            if getattr(self, field) <= 0:
                raise UserError(f"judge.{field} is {getattr(self, field)}: give a positive number")


@dataclasses.dataclass(frozen=True)
class JudgeStats:
    """What a client did so far.

    Of all `questions`, `cached` cost no request. `retried` counts failed requests that were made
    again, `failed` the questions that ended without a label, both by reason. Tokens are those
    that the server states; `cost` is in the unit of the settings' prices.
    """

    questions: int
    cached: int
    requests: int
    retried: Mapping[str, int]
    failed: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    cost: float


class JudgeClient:
    """Asks an endpoint for labels; may be shared by threads."""

    def __init__(self, settings: EndpointSettings) -> None:
        """UserError for a URL or an API key that cannot be used."""
        self.settings = settings
        self._url = _endpoint(settings.url)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if settings.key_variable is not None:
            self._headers["Authorization"] = f"Bearer {_key(settings.key_variable)}"
        self._cache = None if settings.cache is None else ReplyCache(Path(settings.cache))
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._retried: collections.Counter[str] = collections.Counter()
        self._failed: collections.Counter[str] = collections.Counter()

    def ask(self, chat: Chat) -> bool:
        """The label of the endpoint's reply, True for equal; raises Failure.

        Beside those of `transport.post`, no_label is a reason. Only replies with a label are
        cached, so that a later run asks again where there was none.
        """
        try:
            return self._label(self._body(chat))
        except Failure as failure:
            self._count(self._failed, failure.reason)
            raise

    def stats(self) -> JudgeStats:
        with self._lock:
            counts = collections.Counter(self._counts)
            retried, failed = dict(self._retried), dict(self._failed)
        tokens = counts["prompt_tokens"], counts["completion_tokens"]
        prices = self.settings.prompt_price, self.settings.completion_price
        cost = sum(number * price for number, price in zip(tokens, prices, strict=True))
        work = counts["questions"], counts["cached"], counts["requests"]
        return JudgeStats(*work, retried, failed, *tokens, cost)

    def _body(self, chat: Chat) -> bytes:
        request = {
            "model": self.settings.model,
            "messages": chat,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        return json.dumps(request).encode()

    def _label(self, body: bytes) -> bool:
        # The request holds all that a reply depends on: model, prompt, texts and sampling.
        key = hashlib.sha256(body).hexdigest()
        self._count(self._counts, "questions")
        known = self._cache.get(key) if self._cache else None
        label = None if known is None else parse_label(known)
        if label is not None:
            self._count(self._counts, "cached")
            return label
        text = self._reply(body)
        label = parse_label(text)
        if label is None:
            raise Failure("no_label")
        if self._cache:
            self._cache.put(key, text)
        return label

    def _reply(self, body: bytes) -> str:
        """The reply's text, after as many attempts as it takes."""
        deadline = time.monotonic() + self.settings.deadline_seconds
        for attempt in range(self.settings.attempts):
            try:
                return self._attempt(body, deadline)
            except Failure as failure:
                # Without the jitter, all who failed together would come back together.
                backoff = self.settings.backoff_seconds * 2**attempt * random.uniform(0.5, 1.0)
                wait = max(failure.wait, backoff)
                last = attempt + 1 == self.settings.attempts
                if last or not failure.passing or time.monotonic() + wait >= deadline:
                    raise
                self._count(self._retried, failure.reason)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, body: bytes, deadline: float) -> str:
        s = self.settings
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Failure("timeout", "no free slot")
        try:
            self._count(self._counts, "requests")
            limits = Limits(s.connect_seconds, s.read_seconds, s.max_reply_bytes)
            reply = post(self._url, self._headers, body, limits, deadline)
        finally:
            self._slots.release()
        for name in ("prompt_tokens", "completion_tokens"):
            self._count(self._counts, name, _used(reply, name))
        return _content(reply)

    def _count(self, counter: collections.Counter[str], name: str, number: int = 1) -> None:
        with self._lock:
            counter[name] += number


def _endpoint(base: str) -> urllib.parse.SplitResult:
    try:
        url = urllib.parse.urlsplit(base)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(
            f"judge.url {base!r} is no address: give one like 'http://localhost:8000/v1'"
        )
    return url._replace(path=url.path.rstrip("/") + "/chat/completions")


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    # Checked here, since http.client would print the key in its own complaint.
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(
            f"the environment variable {variable!r} (judge.key_variable) holds no usable API key: "
            "export one line of plain ASCII in it, or leave judge.key_variable unset"
        )
    return key


def _content(reply: Any) -> str:
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise Failure("bad_reply", "no choices[0].message.content") from error
    if not isinstance(content, str):
        raise Failure("bad_reply", "the content is not text")
    return content


def _used(reply: Any, name: str) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if isinstance(number, int) and 0 < number < _MOST_TOKENS else 0
