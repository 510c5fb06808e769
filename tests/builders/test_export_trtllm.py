import json
from pathlib import Path

import torch
from endcap_builders.export.trtllm import export_for_tensorrt_llm
from endcap_builders.llm.student import save_student
from endcap_builders.llm.tokenizer import load_tokenizer, train_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}


def student(folder: Path, rope: dict[str, object]) -> None:
    torch.manual_seed(3)
    tokenizer = train_tokenizer(["garden hose brass lamp " * 4, "oak table lamp"], 320)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters=rope,
    )
    save_student(LlamaForCausalLM(config), tokenizer, folder)


def test_checkpoint_has_the_names_of_both_generations(tmp_path: Path) -> None:
    student(tmp_path / "hf", ROPE)
    export_for_tensorrt_llm(tmp_path / "hf", tmp_path / "trtllm")
    config = json.loads((tmp_path / "trtllm" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["rope_theta"] == 500_000.0
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert config["rope_parameters"] == ROPE
    tokenizer = json.loads((tmp_path / "trtllm" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_plain_rotary_embeddings_scale_nothing(tmp_path: Path) -> None:
    student(tmp_path / "hf", {"rope_type": "default", "rope_theta": 10_000.0})
    export_for_tensorrt_llm(tmp_path / "hf", tmp_path / "trtllm")
    config = json.loads((tmp_path / "trtllm" / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == 10_000.0
    assert config["rope_scaling"] is None


def test_exported_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    student(tmp_path / "hf", ROPE)
    export_for_tensorrt_llm(tmp_path / "hf", tmp_path / "trtllm")
    ids = load_tokenizer(tmp_path / "trtllm")("garden lamp", return_tensors="pt").input_ids
    assert ids.tolist() == load_tokenizer(tmp_path / "hf")("garden lamp", return_tensors="pt").input_ids.tolist()
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)(ids).logits
            for name in ("hf", "trtllm")
        ]
    assert (logits[0] - logits[1]).abs().max() < 0.02 * logits[0].abs().max()
