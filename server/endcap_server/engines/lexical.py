"""Lexical retrieval: a tantivy index of the words of products and of codes, such as part numbers."""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tantivy

from endcap_server.engines.allowed_rows import AllowedRows
from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.shop.columns import Array

LANGUAGES = (
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
    "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
)  # fmt: skip
"""Languages with a stemmer."""
META_FILE = "lexical.json"
_ANALYZER, _RAW = "words", "raw"
_TEXTS = ("title", "brand", "category", "description")
_HEAP_BYTES = 256 << 20
_MOST_QUERY_WORDS = 64
_SET_ROWS = 4096
"""Up to this many allowed rows, the filter is a part of the query. Above, more products are found, then filtered."""
_MOST_SCORED, _LEAST_SCORED = 30_000, 2_000
"""Products are found by a query's rarer words: those of at most this many products, and more words while few are found.
The other words only order them, so that a search costs no more in a larger catalogue."""
_SEPARATOR = re.compile(r"[\s,;|()\[\]{}\"'<>=]+")
_JOINTS = re.compile(r"[-/_.+#*:–—·\\]+")
_QUANTITY = re.compile(r"\d+(?:x\d+)*[a-z]{0,4}")
_LEAST_CODE = 5
"""Least characters of a code that can name a product inside a longer text."""


@dataclass(frozen=True)
class ProductWords:
    """What is indexed of one product."""

    product_id: str
    title: str
    brand: str = ""
    category: str = ""
    identifiers: str = ""
    description: str = ""


@dataclass(frozen=True)
class Boosts:
    """Weights of the fields, and of the query as a phrase in the title. A word counts in its best field only."""

    title: float = 1.0
    brand: float = 0.5
    category: float = 0.5
    code: float = 1.0
    description: float = 0.5
    phrase: float = 0.5


@dataclass(frozen=True)
class LexicalHits:
    """Results of a search: ``rows`` int64 [k], best first; ``scores`` float32 [k].

    ``exact`` bool [k] is true for products that the text names; they come first, whatever their score.
    """

    rows: Array
    scores: Array
    exact: Array


def codes(text: str) -> list[str]:
    """The tokens of a text that have a digit, as they are compared: in lower case, without hyphens and the like."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    found = (_JOINTS.sub("", token) for token in _SEPARATOR.split(folded))
    return [code for code in found if len(code) > 1 and any(character.isdigit() for character in code)]


def _whole(text: str) -> str:
    """A text as one code."""
    return _JOINTS.sub("", "".join(_SEPARATOR.split(unicodedata.normalize("NFKC", text).casefold())))


def _names_a_product(code: str) -> bool:
    """Whether a code inside a longer text can name a product: sizes, short numbers and years cannot."""
    if len(code) < _LEAST_CODE:
        return False
    return len(code) >= _LEAST_CODE + 1 if code.isdigit() else not _QUANTITY.fullmatch(code)


def _any_of(queries: list[Any]) -> Any:
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, each) for each in queries])


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", indexed=True, fast=True)
    for field in _TEXTS:
        builder.add_text_field(field, tokenizer_name=_ANALYZER)
    for field in ("code", "name"):
        builder.add_text_field(field, tokenizer_name=_RAW, index_option="basic")
    return builder.build()


def _analyzer(language: str) -> Any:
    steps = (tantivy.Filter.remove_long(60), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold())
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in steps:
        builder = builder.filter(step)
    if language:
        builder = builder.filter(tantivy.Filter.stemmer(language))
    return builder.build()


def write_lexical(folder: Path, products: Iterable[ProductWords], language: str) -> None:
    """Write the index of products, in the order of their rows, into an empty folder.

    Args:
        folder: ``lexical/`` of a build.
        products: One a row.
        language: Whose words are stemmed, one of LANGUAGES; "" for none.
    """
    index = tantivy.Index(_schema(), path=str(folder))
    index.register_tokenizer(_ANALYZER, _analyzer(language))
    # With one thread, rows stay in order, and equal catalogues give equal indexes.
    writer = index.writer(_HEAP_BYTES, 1)
    for row, product in enumerate(products):
        document = tantivy.Document()
        document.add_unsigned("row", row)
        for field in _TEXTS:
            if text := getattr(product, field):
                document.add_text(field, unicodedata.normalize("NFKC", text))
        names = {_whole(each) for each in (product.product_id, *product.identifiers.split("|"))} - {""}
        for code in names | set(codes(f"{product.title} {product.identifiers}")):
            document.add_text("code", code)
        for name in names:
            document.add_text("name", name)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    (folder / META_FILE).write_text(json.dumps({"language": language}) + "\n", encoding="utf-8")


class LexicalIndex:
    """Finds products by their words.

    Args:
        folder: ``lexical/`` of a build.
        boosts: Weights of the fields.

    Raises:
        EngineLoadError: the folder holds no such index.
    """

    def __init__(self, folder: Path, boosts: Boosts):
        try:
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            self._index = tantivy.Index.open(str(folder))
            self._analyzer = _analyzer(meta["language"])
        except (OSError, ValueError, KeyError) as error:
            raise EngineLoadError(
                f"{folder}: expected a lexical index, got {error}; run endcap build lexical"
            ) from error
        self._index.register_tokenizer(_ANALYZER, self._analyzer)
        self._searcher, self._schema, self._boosts = self._index.searcher(), self._index.schema, boosts
        self._weights = {field: weight for field in _TEXTS if (weight := getattr(boosts, field))}

    def __len__(self) -> int:
        """Number of products."""
        return int(self._searcher.num_docs)

    def search(self, text: str, k: int, allowed: AllowedRows | None = None) -> LexicalHits:
        """The ``k`` products whose words match ``text`` best.

        Args:
            text: The query.
            k: Products to find.
            allowed: The products that may be found; None: every product.
        """
        query = self._query(text)
        if query is None or not k:
            return LexicalHits(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.bool_))
        rows, scores = self._allowed(query, k, allowed)
        exact = np.isin(rows, self._exact(text))
        order = np.argsort(~exact, kind="stable")
        return LexicalHits(rows[order], scores[order], exact[order])

    def _term(self, field: str, term: str, boost: float, option: str) -> Any:
        return tantivy.Query.boost_query(tantivy.Query.term_query(self._schema, field, term, option), boost)

    def _query(self, text: str) -> Any:
        boosts = self._boosts
        words = self._analyzer.analyze(unicodedata.normalize("NFKC", text))[:_MOST_QUERY_WORDS]
        rare, common = self._by_rarity(list(dict.fromkeys(words)))
        finding, ordering = [self._of_word(word) for word in rare], [self._of_word(word) for word in common]
        if boosts.code:
            named = dict.fromkeys([*codes(text), _whole(text)])
            finding += [self._term("code", code, boosts.code, "basic") for code in named]
        if boosts.phrase and len(words) > 1:
            phrase = tantivy.Query.phrase_query(self._schema, "title", list(words))
            ordering.append(tantivy.Query.boost_query(phrase, boosts.phrase))
        if not finding:
            return None
        if not common:  # a phrase holds all words, so that it finds nothing more
            return _any_of([*finding, *ordering])
        parts = [(tantivy.Occur.Must, _any_of(finding)), *((tantivy.Occur.Should, each) for each in ordering)]
        return tantivy.Query.boolean_query(parts)

    def _of_word(self, word: str) -> Any:
        fields = [self._term(field, word, weight, "freq") for field, weight in self._weights.items()]
        return tantivy.Query.disjunction_max_query(fields)

    def _by_rarity(self, words: list[str]) -> tuple[list[str], list[str]]:
        """The words that find products, and those that only order them, each in the order of the query."""
        held = {word: max((self._searcher.doc_freq(each, word) for each in self._weights), default=0) for word in words}
        rare: set[str] = set()
        total = 0
        for word in sorted(words, key=lambda each: held[each]):
            if total + held[word] > _MOST_SCORED and total >= _LEAST_SCORED:
                break
            rare.add(word)
            total += held[word]
        return [word for word in words if word in rare], [word for word in words if word not in rare]

    def _allowed(self, query: Any, k: int, allowed: AllowedRows | None) -> tuple[Array, Array]:
        if allowed is None:
            return self._hits(query, k)
        if allowed.count <= _SET_ROWS:
            among = tantivy.Query.term_set_query(self._schema, "row", np.flatnonzero(allowed.each).tolist())
            both = [(tantivy.Occur.Must, query), (tantivy.Occur.Must, tantivy.Query.boost_query(among, 0.0))]
            return self._hits(tantivy.Query.boolean_query(both), k)
        depth = min(len(self), 2 * k * allowed.rows // allowed.count)
        while True:
            rows, scores = self._hits(query, depth)
            kept = allowed.each[rows]
            if kept.sum() >= k or len(rows) < depth or depth >= len(self):
                return rows[kept][:k], scores[kept][:k]
            depth = min(len(self), 4 * depth)

    def _hits(self, query: Any, k: int) -> tuple[Array, Array]:
        hits = self._searcher.search(query, k, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return np.array(rows, np.int64), np.array([score for score, _ in hits], np.float32)

    def _exact(self, text: str) -> Array:
        """Row of the product that a text names by id, part number, EAN or model number: int64 [at most 1]."""
        if len(rows := self._named(_whole(text))):
            return rows
        inside = [self._named(code) for code in dict.fromkeys(codes(text)) if _names_a_product(code)]
        rows = np.unique(np.concatenate([np.empty(0, np.int64), *inside]))
        return rows if len(rows) == 1 else rows[:0]

    def _named(self, code: str) -> Array:
        """Row of the only product with this name, else of the only one with this code: int64 [at most 1]."""
        for field in ("name", "code"):
            if code and self._searcher.doc_freq(field, code) == 1:
                return self._hits(tantivy.Query.term_query(self._schema, field, code, "basic"), 1)[0]
        return np.empty(0, np.int64)
