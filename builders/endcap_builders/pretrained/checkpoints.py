"""What a setting `checkpoint` may name: a known pretrained model, a folder, or a checkpoint on the Hugging Face hub."""

import difflib
import re
from pathlib import Path
from typing import Any

from endcap_builders.pretrained.cache import ModelError, damage, location
from endcap_builders.pretrained.models import DEFAULT, KNOWN

HELP = "a name of `endcap models list`, a folder, or a name on the Hugging Face hub"
"""What the descriptions of such settings say."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CONFIGS = ("config.json", "modules.json")
_PROBE = "It's a 5-piece café set, 20V   cordless; size XL – 1/2 in."
"""Words, digits, an accent, spaces, punctuation: what tokenizers of different kinds read differently."""


def checkpoint_of(setting: str, value: str = "") -> str:
    """What transformers' `from_pretrained` is to load for the value of a setting.

    Args:
        setting: its name, for messages, e.g. "teacher.checkpoint".
        value: name or folder; "": the default encoder.

    Returns:
        A folder, or a name on the hub.

    Raises:
        ModelError: there is no such checkpoint; for an unknown name, the message lists what is known.
    """
    value = value or DEFAULT
    if (model := KNOWN.get(value)) is not None:
        if problem := damage(model):
            advice = "make setup, or endcap models fetch" if model.module else "endcap models fetch"
            raise ModelError(f"{setting}: expected the model {value}, but {problem}; run {advice} {value}")
        return str(location(model))
    folder = Path(value).expanduser()
    if folder.exists():
        if not any((folder / name).is_file() for name in _CONFIGS):
            raise ModelError(f"{setting}: expected a folder with config.json, got {value} without one")
        return str(folder)
    if not _HUB_NAME.fullmatch(value):
        raise _unknown(setting, value, "there is no such folder")
    from transformers.utils import cached_file  # takes seconds

    try:
        cached_file(value, "config.json")
    except OSError as error:
        raise _unknown(setting, value, str(error).splitlines()[0]) from error
    return value


def tokenizer_file(setting: str, value: str) -> Path:
    """The `tokenizer.json` of a checkpoint; the value may name the file itself, too.

    Raises:
        ModelError: there is no such checkpoint, or it has no such file.
    """
    named = Path(value).expanduser()
    if named.is_file():
        return named
    if named.suffix == ".json":
        raise ModelError(f"{setting}: expected a checkpoint or its tokenizer.json, got {value}, which does not exist")
    source = checkpoint_of(setting, value)
    if Path(source).is_dir():
        file = Path(source) / "tokenizer.json"
        if not file.is_file():
            raise ModelError(f"{setting}: expected a fast tokenizer, got {value} without tokenizer.json")
        return file
    from transformers.utils import cached_file

    try:
        return Path(cached_file(source, "tokenizer.json") or "")
    except OSError as error:
        raise ModelError(f"{setting}: expected a fast tokenizer, got {value}: {error}") from error


def check_tokenizer(checkpoint: str, tokenizer: Any, embeddings: int) -> None:
    """Refuse a tokenizer that does not fit its checkpoint.

    A configuration may name another class than the one that `tokenizer.json` is of. Such a class loads without an error
    and splits texts in other places, so that the model reads nonsense.

    Args:
        checkpoint: folder or hub name that it was loaded from.
        tokenizer: of transformers.
        embeddings: number of tokens that the model knows.

    Raises:
        ModelError: it has no tokenizer.json, reads texts otherwise than that, or has tokens that the model lacks.
    """
    name = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"checkpoint {checkpoint}: expected a fast tokenizer (tokenizer.json), got {name}")
    if len(tokenizer) > embeddings:
        raise ModelError(
            f"checkpoint {checkpoint}: expected a tokenizer of at most {embeddings:,} tokens, which the model knows, "
            f"got {len(tokenizer):,}; take tokenizer.json and config.json of the same model"
        )
    file = Path(checkpoint) / "tokenizer.json"
    if not file.is_file():
        return
    from tokenizers import Tokenizer

    exact = Tokenizer.from_file(str(file))
    exact.no_padding()
    exact.no_truncation()
    if tokenizer(_PROBE, add_special_tokens=False)["input_ids"] != exact.encode(_PROBE, add_special_tokens=False).ids:
        raise ModelError(
            f"checkpoint {checkpoint}: expected a tokenizer that reads texts as tokenizer.json does, got the class "
            f'{name}, which reads them otherwise; set "tokenizer_class" in tokenizer_config.json to the right class, '
            "or to PreTrainedTokenizerFast"
        )


def _unknown(setting: str, value: str, reason: str) -> ModelError:
    near = difflib.get_close_matches(value.rpartition("/")[2], KNOWN, 1, 0.75)
    hint = f"did you mean {near[0]}? " if near else ""
    return ModelError(
        f"{setting}: expected {HELP}, got {value!r} ({reason}); {hint}endcap models fetch knows {', '.join(KNOWN)}"
    )
