"""The TensorRT-LLM engine's own work - deadlines, refusals, batching, closing - over a stand-in for the LLM API."""

import importlib.util
import json
import queue
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fake_tensorrt_llm
import pytest
from endcap_server.engines.llm_engine import AbandonedError, Completion, LlmError, LlmRequest
from endcap_server.engines.trtllm import TrtLlm, literals

FAR_NS = 2**62
CONFIG = {"max_position_embeddings": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from endcap_builders.llm.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("trtllm")
    train_tokenizer(["garden hose brass lamp oak table " * 9], 320).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrtLlm]:
    for name, module in fake_tensorrt_llm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    engine = TrtLlm(folder, cache_mb=1, max_sequences=3, max_waiting=4)
    yield engine
    engine.close()


@pytest.fixture
def llm(engine: TrtLlm) -> fake_tensorrt_llm.LLM:
    return fake_tensorrt_llm.LLM.opened[-1]


def submit(engine: TrtLlm, prompt: str = "brass lamp", grammar: str = "", **options: object) -> "queue.Queue[object]":
    results: queue.Queue[object] = queue.Queue()
    arguments = {"max_tokens": 8, "deadline_ns": FAR_NS, "on_done": results.put, **options}
    engine.submit(LlmRequest(prompt, grammar, **arguments))  # type: ignore[arg-type]
    return results


def test_options_of_the_engine(llm: fake_tensorrt_llm.LLM, folder: Path) -> None:
    assert llm.model == str(folder)
    assert llm.options["guided_decoding_backend"] == "xgrammar"
    # 1 MiB of keys and values: 2 layers x 32 numbers x (key, value) x 2 bytes = 256 bytes a token.
    assert llm.options["kv_cache_config"] == fake_tensorrt_llm.KvCacheConfig(max_tokens=4096, enable_block_reuse=True)
    assert (llm.options["max_batch_size"], llm.options["max_seq_len"]) == (3, 128)


def test_answers_keep_their_order_and_run_together(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    prompts = ["brass lamp", "oak table", "garden hose"] * 4
    assert engine.generate(prompts, [""] * 12, 20) == [Completion(prompt, "stop") for prompt in prompts]
    assert llm.most_active > 1
    assert llm.active == 0


def test_max_tokens_cuts(engine: TrtLlm) -> None:
    (answer,) = engine.generate(["brass lamp oak table"], [""], 1)
    assert answer.finish == "length"
    assert "brass lamp oak table".startswith(answer.text)


def test_a_grammar_reaches_the_decoder(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    engine.generate(["brass lamp", "oak table"], ['root ::= "a"', ""], 4)
    sampling = [output.sampling for output in llm.outputs]
    # A grammar is checked on a thread of its own, so that requests may reach the decoder in another order.
    found = {tuple(output._ids): output.sampling.guided_decoding for output in llm.outputs}
    of = {text: tuple(engine._tokenizer.encode(text).ids) for text in ("brass lamp", "oak table")}
    assert found.keys() == set(of.values())
    assert found[of["brass lamp"]].grammar == 'root ::= "a"'
    assert found[of["oak table"]] is None
    assert all(each.top_k == 1 and not each.detokenize for each in sampling)


def test_a_wrong_grammar_never_reaches_it(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    result = submit(engine, grammar='root ::= (("x"').get(timeout=10)
    assert isinstance(result, LlmError)
    assert "grammar refused" in str(result)
    assert llm.outputs == []


def test_a_literal_that_the_tokenizer_cannot_write_never_reaches_it(
    folder: Path, tmp_path: Path, engine: TrtLlm
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "oak": 1, "brass": 2}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    other = TrtLlm(tmp_path)
    try:
        assert isinstance(submit(other, "oak", 'root ::= "oak" | "brass oak"').get(timeout=10), Completion)
        refused = submit(other, "oak", 'root ::= "oak" | "brass hose" [^"]').get(timeout=10)
        assert isinstance(refused, LlmError)
        assert "the tokenizer writes 'brass [UNK]' for its literal 'brass hose'" in str(refused)
        assert len(fake_tensorrt_llm.LLM.opened[-1].outputs) == 1
    finally:
        other.close()


def test_literals_of_our_grammars() -> None:
    from endcap_server.shop.grammar import theme_grammar

    assert literals('root ::= "a\\"b" ["x] rest | "\\u00e9\\n"') == {'a"b', "é\n"}
    assert '[{"title":"' in literals(theme_grammar(2))


def test_a_deadline_aborts_and_keeps_what_is_written(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    llm.token_s = 0.05
    result = submit(engine, "oak table " * 9, max_tokens=80, deadline_ns=time.monotonic_ns() + 300_000_000).get(
        timeout=10
    )
    assert isinstance(result, Completion)
    assert result.finish == "cancelled"
    assert result.text
    assert llm.outputs[0].aborted


def test_a_deadline_before_the_first_token(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    llm.token_s = 30.0
    late = submit(engine, deadline_ns=time.monotonic_ns() + 20_000_000)
    assert isinstance(late.get(timeout=10), AbandonedError)
    assert llm.outputs[0].aborted
    assert isinstance(submit(engine, deadline_ns=time.monotonic_ns() - 1).get(timeout=10), AbandonedError)
    assert len(llm.outputs) == 1  # the second was not even started


def test_a_caller_who_leaves(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    asked = iter([False, False, True])
    result = submit(engine, "oak table " * 9, max_tokens=80, abandoned=lambda: next(asked)).get(timeout=10)
    assert isinstance(result, AbandonedError)
    assert llm.outputs[0].aborted


def test_too_many_are_refused_at_once(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    llm.token_s = 30.0
    for _ in range(7):
        assert submit(engine).empty()
    refused = submit(engine).get_nowait()
    assert isinstance(refused, LlmError)
    assert "busy: 4 requests wait" in str(refused)


@pytest.mark.parametrize(("prompt", "max_tokens"), [("", 4), ("oak table " * 100, 4), ("oak", 0), ("oak", 128)])
def test_lengths_are_checked(engine: TrtLlm, prompt: str, max_tokens: int) -> None:
    result = submit(engine, prompt, max_tokens=max_tokens).get(timeout=10)
    assert isinstance(result, LlmError)
    assert "expected 1..128 tokens together" in str(result)


def test_one_failure_costs_one_request(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    llm.fails = True
    result = submit(engine).get(timeout=10)
    assert isinstance(result, LlmError)
    assert "CUDA error" in str(result)
    llm.fails = False
    assert engine.generate(["oak table"], [""], 8) == [Completion("oak table", "stop")]


def test_closing_answers_what_is_in_flight(engine: TrtLlm, llm: fake_tensorrt_llm.LLM) -> None:
    llm.token_s = 30.0
    waiting = [submit(engine), submit(engine)]
    engine.close()
    for results in waiting:
        result = results.get(timeout=10)
        assert isinstance(result, LlmError)
        assert "closed" in str(result)
    assert llm.closed
    assert isinstance(submit(engine).get(timeout=10), LlmError)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_llm") is not None, reason="TensorRT-LLM is installed")
def test_tensorrt_llm_is_missing(folder: Path) -> None:
    with pytest.raises(LlmError, match=r"implementation tensorrt_llm: expected the package .*docs/gpu\.md"):
        TrtLlm(folder)
