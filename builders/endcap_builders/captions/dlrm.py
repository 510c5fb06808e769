"""A ranker of the DLRM type (arXiv 1906.00091) in plain torch: embeddings, dot products of all pairs, and an MLP.

Ids of a product are its own, its category, the category above it and its brand. Token sets (caption tokens, semantic
ids) are multi-hot: the mean of the product's token embeddings, and the decayed mean of the history's. Examples of a
visit share the shopper's side, so a batch is made of whole visits and computes it once for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from endcap_server.shop.columns import Array, Ragged
from endcap_server.stages.sources.profile import HALF_LIFE_ITEMS
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn

from endcap_builders.captions.visits import Visits
from endcap_builders.step import Settings

IDS = ("product", "category", "parent", "brand")
_LIMIT = 4.0
"""Standard deviations at which dense features are cut."""


class DlrmSettings(Settings):
    """Options of the ranker."""

    dimension: int = Field(16, ge=1, le=256, description="numbers of an embedding")
    hidden: int = Field(64, ge=1, le=1024, description="units of a layer")
    epochs: int = Field(5, ge=1, description="passes over the examples at most; validation chooses the best")
    visits: int = Field(16, ge=1, description="visits of a batch")
    learning_rate: float = Field(2e-3, gt=0, description="of Adam")
    weight_decay: float = Field(1e-5, ge=0, description="of Adam, decoupled")
    id_dropout: float = Field(0.3, ge=0, lt=1, description="share of product ids that are hidden in training")
    profile: bool = Field(True, description="whether the history's tokens are features, too")
    least_sold: int = Field(3, ge=1, description="training purchases from which a product has an embedding")


@dataclass(frozen=True)
class Inputs:
    """What the model reads of v visits with n examples.

    Attributes:
        dense: float32 [n, 2 F], standardised, 0 if missing, and whether it is.
        ids: int64 [n, 4].
        product: int64 [n].
        starts: int64 [v + 1], first example of each visit.
        history: CSR [v, products], decayed shares of the history, 1 in sum.
        bought: float32 [n].
        weight: float32 [n].
    """

    dense: Tensor
    ids: Tensor
    product: Array
    starts: Array
    history: sparse.csr_matrix
    bought: Tensor
    weight: Tensor


class Bags(nn.Module):
    """Embedding bags of one token set: product side and history side."""

    def __init__(self, size: int, dimension: int, profile: bool):
        super().__init__()
        self.product = nn.EmbeddingBag(size, dimension, mode="sum")
        self.history = nn.EmbeddingBag(size, dimension, mode="sum") if profile else None
        for bag in (self.product, self.history):
            if bag is not None:
                nn.init.normal_(bag.weight, std=0.1)


class Dlrm(nn.Module):
    """Logits of purchases; all tables are small."""

    def __init__(self, dense: int, sizes: Mapping[str, int], tokens: Mapping[str, int], settings: DlrmSettings):
        super().__init__()
        width = settings.dimension
        self.bottom = nn.Sequential(nn.Linear(dense, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, width))
        self.tables = nn.ModuleDict({name: nn.Embedding(size, width) for name, size in sizes.items()})
        self.past = nn.ModuleDict(
            {name: nn.EmbeddingBag(sizes[name], width, mode="sum") for name in ("product", "category")}
        )
        for table in (*self.tables.values(), *self.past.values()):
            for weight in table.parameters():
                nn.init.normal_(weight, std=0.1)
        self.bags = nn.ModuleDict({name: Bags(size, width, settings.profile) for name, size in tokens.items()})
        fields = 1 + len(sizes) + 2 + len(tokens) * (2 if settings.profile else 1)
        self.pairs = torch.triu_indices(fields, fields, 1)
        self.top = nn.Sequential(
            nn.Linear(dense + width + self.pairs.shape[1], settings.hidden), nn.ReLU(),
            nn.Linear(settings.hidden, settings.hidden // 2), nn.ReLU(), nn.Linear(settings.hidden // 2, 1),
        )  # fmt: skip

    def forward(self, dense: Tensor, product: list[Tensor], shopper: list[Tensor], member: Tensor) -> Tensor:
        """Logits [n].

        Args:
            dense: [n, F].
            product: vectors of products, [n, width] each.
            shopper: vectors of visits, [v, width] each.
            member: int64 [n], visit of each example.
        """
        bottom = self.bottom(dense)
        fields = torch.stack([bottom, *product, *(each[member] for each in shopper)], dim=1)
        dots = torch.bmm(fields, fields.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([dense, bottom, dots], dim=1)).squeeze(1)


class DlrmRanker:
    """A DLRM with what turns visits into its inputs; fit it once."""

    def __init__(self, ids: Mapping[str, Array], tokens: Mapping[str, tuple[Ragged, int]], settings: DlrmSettings):
        """Prepare a ranker.

        Args:
            ids: category, parent and brand of each product, int [n], -1 none.
            tokens: token set -> the ids of each product, and their number.
            settings: of the ranker.
        """
        self._settings, self._given = settings, ids
        self._tokens = {name: (_shares(column, size), size) for name, (column, size) in tokens.items()}
        self.history_losses: list[float] = []

    def fit(self, train: Visits, validation: Visits, columns: list[int], seed: int) -> "DlrmRanker":
        """Train on visits by time order of their periods; validation chooses the epoch."""
        torch.manual_seed(seed)
        settings, rng = self._settings, np.random.default_rng(seed)
        self._columns = columns
        self._scale(train)
        self._ids(train)
        sizes = {name: int(column.max()) + 1 for name, column in self._id.items()}
        tokens = {name: size for name, (_, size) in self._tokens.items()}
        self.model = Dlrm(2 * len(columns), sizes, tokens, settings)
        learned, judged = self._inputs(train), self._inputs(validation)
        best, kept = np.inf, self.model.state_dict()
        batches = -(-len(train.sizes) // settings.visits) * settings.epochs
        adam = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )
        pace = torch.optim.lr_scheduler.OneCycleLR(adam, settings.learning_rate, batches, pct_start=0.1)
        for _ in range(settings.epochs):
            self.model.train()
            order = rng.permutation(len(train.sizes))
            for start in range(0, len(order), settings.visits):
                chosen = order[start : start + settings.visits]
                logit, rows = self._logits(learned, chosen, rng)
                loss = _loss(logit, learned.bought[rows], learned.weight[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
                pace.step()
            raw = torch.from_numpy(self._predict(judged))
            found = float(_loss(raw, judged.bought, judged.weight))
            self.history_losses.append(found)
            if found < best:
                best, kept = found, {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(kept)
        return self

    def predict(self, visits: Visits) -> Array:
        """Logits of examples: float32 [n]."""
        return self._predict(self._inputs(visits))

    def _predict(self, inputs: Inputs) -> Array:
        self.model.eval()
        visits = len(inputs.starts) - 1
        with torch.no_grad():
            parts = [
                self._logits(inputs, np.arange(start, min(start + 64, visits)), None)[0].numpy()
                for start in range(0, visits, 64)
            ]
        return np.concatenate(parts)

    def _logits(self, inputs: Inputs, chosen: Array, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """Logits of the examples of some visits, and their rows."""
        model, settings = self.model, self._settings
        lengths = (inputs.starts[1:] - inputs.starts[:-1])[chosen]
        rows = np.repeat(inputs.starts[chosen] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        member = torch.from_numpy(np.repeat(np.arange(len(chosen)), lengths))
        at = torch.from_numpy(rows)
        ids = inputs.ids[at]
        if rng is not None and settings.id_dropout:
            hidden = torch.from_numpy(rng.random(len(rows)) < settings.id_dropout)
            ids = torch.cat([ids[:, :1].masked_fill(hidden[:, None], 0), ids[:, 1:]], dim=1)
        product = [model.tables[name](ids[:, place]) for place, name in enumerate(IDS)]
        past = inputs.history[chosen]
        shopper = [_bag(bag, past, torch.from_numpy(self._id[name])) for name, bag in model.past.items()]
        distinct, place = np.unique(inputs.product[rows], return_inverse=True)
        back = torch.from_numpy(place)
        for name, bags in model.bags.items():
            shares = self._tokens[name][0]
            product.append(_bag(bags.product, shares[distinct])[back])
            if bags.history is not None:
                shopper.append(_bag(bags.history, past @ shares))
        return model(inputs.dense[at], product, shopper, member), at

    def _scale(self, train: Visits) -> None:
        values = train.features[:, self._columns]
        known = np.maximum((~np.isnan(values)).sum(axis=0), 1)
        self._mean = np.nansum(values, axis=0, dtype=np.float64) / known
        self._spread = np.sqrt(np.nansum((values - self._mean) ** 2, axis=0) / known) + 1e-6

    def _ids(self, train: Visits) -> None:
        """Ids from 1; 0 is unknown, and the id of products with few purchases."""
        sold = np.bincount(train.product[train.bought], minlength=len(self._given["category"]))
        known = sold >= self._settings.least_sold
        product = np.where(known, np.cumsum(known), 0)
        self._id = {
            "product": product,
            **{name: np.asarray(self._given[name]).astype(np.int64) + 1 for name in IDS[1:]},
        }

    def _inputs(self, visits: Visits) -> Inputs:
        values = (visits.features[:, self._columns] - self._mean) / self._spread
        missing = np.isnan(values)
        dense = np.concatenate([np.clip(np.where(missing, 0, values), -_LIMIT, _LIMIT), missing], axis=1)
        ids = np.stack([self._id[name][visits.product] for name in IDS], axis=1)
        ids[visits.cold, 0] = 0
        lengths = np.diff(visits.history.offsets)
        ends = np.repeat(visits.history.offsets[1:], lengths) - 1 - np.arange(len(visits.history.values))
        weights = np.exp2(-ends / HALF_LIFE_ITEMS).astype(np.float32)
        shape = (len(lengths), len(self._given["category"]))
        history = sparse.csr_matrix((weights, visits.history.values, visits.history.offsets), shape, copy=True)
        history.sum_duplicates()
        return Inputs(
            dense=torch.from_numpy(dense.astype(np.float32)),
            ids=torch.from_numpy(ids),
            product=visits.product,
            starts=np.r_[0, np.cumsum(visits.sizes)],
            history=_normalised(history),
            bought=torch.from_numpy(visits.bought.astype(np.float32)),
            weight=torch.from_numpy(visits.weight),
        )


def _loss(logit: Tensor, bought: Tensor, weight: Tensor) -> Tensor:
    loss = nn.functional.binary_cross_entropy_with_logits(logit, bought, weight, reduction="sum")
    return loss / weight.sum()


def _bag(bag: Any, rows: sparse.csr_matrix, ids: Tensor | None = None) -> Tensor:
    """Weighted sums of embeddings by the rows of a sparse matrix; ``ids`` maps its columns to embeddings."""
    columns = torch.from_numpy(rows.indices.astype(np.int64))
    if ids is not None:
        columns = ids[columns]
    starts = torch.from_numpy(rows.indptr[:-1].astype(np.int64))
    found: Tensor = bag(columns, starts, per_sample_weights=torch.from_numpy(rows.data.astype(np.float32)))
    return found


def _shares(column: Ragged, size: int) -> sparse.csr_matrix:
    values = np.ones(len(column.values), np.float32)
    return _normalised(sparse.csr_matrix((values, column.values, column.offsets), (len(column), max(size, 1))))


def _normalised(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    total = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-9)
    return (sparse.diags((1 / total).astype(np.float32)) @ matrix).tocsr()
