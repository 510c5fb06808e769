"""What settings may name as a checkpoint, and checkpoints that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from endcap_builders.captions.captioners import captioner_of
from endcap_builders.captions.settings import CaptionSettings
from endcap_builders.llm.settings import StudentSettings
from endcap_builders.llm.student import make_student
from endcap_builders.pretrained.cache import ModelError
from endcap_builders.pretrained.checkpoints import check_tokenizer, checkpoint_of, tokenizer_file
from endcap_builders.pretrained.models import DEFAULT, KNOWN
from endcap_builders.relevance.checkpoints import load_model
from endcap_builders.relevance.encode import PairFormat
from endcap_builders.relevance.pairs import RelevanceError
from tiny_classes import tokenizer_of, write_encoder
from transformers import LlamaConfig, LlamaForSequenceClassification


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and nothing fetched."""
    monkeypatch.setenv("ENDCAP_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "checkpoint", "mpnet")
    return tmp_path / "checkpoint"


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def test_a_name_a_folder_and_nothing(checkpoint: Path) -> None:
    assert checkpoint_of("x.checkpoint", str(checkpoint)) == str(checkpoint)
    assert (Path(checkpoint_of("x.checkpoint")) / "model.safetensors").exists()
    assert checkpoint_of("x.checkpoint", DEFAULT) == checkpoint_of("x.checkpoint")


@pytest.mark.parametrize("value", ["nobody/nothing", "minilm", "./nowhere", "/no/where", "a/b/c", "é"])
def test_an_unknown_name_lists_what_is_known(value: str) -> None:
    with pytest.raises(ModelError, match=rf"^x\.checkpoint: expected a name .*, got '{value}'") as raised:
        checkpoint_of("x.checkpoint", value)
    assert all(name in str(raised.value) for name in KNOWN)
    assert "did you mean" not in str(raised.value)


def test_a_misspelt_name_is_recognised() -> None:
    with pytest.raises(ModelError, match=r"did you mean all-mpnet-base-v2\?"):
        checkpoint_of("x.checkpoint", "sentence-transformers/all-mpnet-base-v3")


def test_a_model_that_is_not_fetched_says_what_to_run() -> None:
    with pytest.raises(ModelError, match="it is not fetched; run endcap models fetch all-mpnet-base-v2"):
        checkpoint_of("teacher.checkpoint", "all-mpnet-base-v2")


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"x.checkpoint: expected a folder with config\.json, got"):
        checkpoint_of("x.checkpoint", str(tmp_path))


@pytest.mark.parametrize(
    "opened",
    [
        lambda name: make_student(StudentSettings(checkpoint=name), []),
        lambda name: captioner_of(CaptionSettings(checkpoint=name)),
    ],
)
def test_every_setting_resolves_its_checkpoint_alike(opened: Callable[[str], Any]) -> None:
    with pytest.raises(ModelError, match=r"expected a name .*, got 'nobody/nothing'.*SmolLM2-135M-Instruct"):
        opened("nobody/nothing")


def test_tokenizer_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "tokenizer.json"
    assert tokenizer_file("store.tokenizer", str(checkpoint)) == file
    assert tokenizer_file("store.tokenizer", str(file)) == file
    file.unlink()
    with pytest.raises(ModelError, match=r"store.tokenizer: expected a fast tokenizer, got .* without tokenizer\.json"):
        tokenizer_file("store.tokenizer", str(checkpoint))


def test_a_tokenizer_of_another_class_is_refused(tmp_path: Path) -> None:
    """The configuration names XLM-R's class, tokenizer.json is of a tokenizer that keeps spaces."""
    write_encoder(tmp_path, "xlm-roberta")
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    load_model(str(tmp_path), labels=1)
    edit(
        tmp_path / "tokenizer.json", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    )
    with pytest.raises(ModelError, match=r"got the class XLMRobertaTokenizer, which reads them otherwise; set"):
        load_model(str(tmp_path), labels=1)


def test_a_class_that_reads_texts_otherwise_is_refused(checkpoint: Path) -> None:
    other = tokenizer_of("xlm-roberta")
    with pytest.raises(
        ModelError, match=r"reads texts as tokenizer\.json does, got the class .*, which reads them oth"
    ):
        check_tokenizer(str(checkpoint), other, 1000)


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(checkpoint: Path) -> None:
    tokenizer = tokenizer_of("mpnet")
    tokenizer.add_tokens(["sofa", "bed"])
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(
        ModelError, match=f"at most {len(tokenizer) - 2} tokens, which the model knows, got {len(tokenizer)}"
    ):
        load_model(str(checkpoint), labels=1)


def test_an_encoder_without_a_padding_token_is_refused() -> None:
    tokenizer = tokenizer_of("bert")
    tokenizer.pad_token = None
    with pytest.raises(RelevanceError, match=r"expected a padding token, got none; name it in tokenizer_config\.json"):
        PairFormat.of(tokenizer)


def test_a_language_model_without_padding_and_end_token_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("mpnet")
    for name in ("pad_token", "eos_token", "cls_token", "sep_token"):
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(tmp_path)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 4, "eos_token_id": None, "bos_token_id": None}
    torch.manual_seed(1)
    LlamaForSequenceClassification(LlamaConfig(**shape, **layers)).save_pretrained(tmp_path)
    with pytest.raises(RelevanceError, match="expected a padding token or an end token, got neither"):
        load_model(str(tmp_path), labels=1)
    with pytest.raises(ValueError, match="expected a tokenizer with an eos_token, got none"):
        make_student(StudentSettings(checkpoint=str(tmp_path)), [])
