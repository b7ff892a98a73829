"""The torch model behind the ``AttendingStepper`` protocol of ``freerun.search``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freerun.models.cpu_kernels import recurrent_product
from freerun.models.decoder import Tables
from freerun.models.device import products_of_fp32
from freerun.models.encoded import Encoded
from freerun.models.seq2seq import Seq2Seq
from freerun.models.torch_threads import Threads
from freerun.search.batches import split_features
from freerun.search.entries import SharedEntries
from freerun.search.stepper import Weights

__all__ = ["TorchStepper"]

Ids = NDArray[np.int64]


class TorchStepper:
    """Steps a model without gradients; keeps and re-orders the recurrent state itself.

    ``start`` prepares the decoder's tables, so weights may change between two calls of it, not in between. Each call
    uses ``threads`` threads of torch; 0: as many as torch has then.
    """

    def __init__(self, model: Seq2Seq, threads: int = 0) -> None:
        self.model = model
        self._threads = threads
        self.vocabulary_size = model.sizes.target_vocabulary
        self._encoded: Encoded | None = None
        self._entries = SharedEntries(0)
        self._tables: Tables | None = None
        self._log_probs_NV: Tensor | None = None
        self._before_NH: Tensor | None = None

    @property
    def attends(self) -> bool:
        """See ``AttendingStepper``."""
        return self.model.decoder.attention is not None

    @property
    def attends_features(self) -> bool:
        """See ``AttendingStepper``."""
        return self.model.sizes.has_feature_entries

    @torch.inference_mode()
    def start(self, source_ids: Ids, lengths: Ids) -> None:
        """Read sources: ids [B, S], right-padded, and their lengths [B]."""
        with Threads(self._threads), products_of_fp32(self.model.device):
            self._start(source_ids, lengths)

    def _start(self, source_ids: Ids, lengths: Ids) -> None:
        device = self.model.device
        features = None
        if self.model.sizes.has_features:
            source_ids, feature_ids = split_features(source_ids, lengths)
            features = torch.as_tensor(feature_ids, device=device)
        source = torch.as_tensor(source_ids, device=device)
        padded = bool((lengths < source_ids.shape[1]).any())
        real = torch.as_tensor(lengths, device=device) if padded else None
        self._encoded = self.model.encode(source, real, feature_ids_BQ=features)
        self._entries = SharedEntries(len(lengths))
        self._tables = self.model.decoder.tables()
        self._log_probs_NV = self._before_NH = None

    @torch.inference_mode()
    def step(
        self, tokens: Ids, origins: Ids, k: int | None = None, banned: Sequence[int] = ()
    ) -> tuple[Ids, NDArray[np.floating]]:
        """Feed tokens [N], row n continuing row origins[n]; the k best next tokens (ids, log-probabilities) [N, k].

        Log-probabilities are normalised over the whole vocabulary before anything is banned. Best first, ties to the
        lowest id; ``k=None``: all of them in the order of ids, banned ones at -inf.
        """
        with Threads(self._threads), products_of_fp32(self.model.device):
            return self._step(tokens, origins, k, banned)

    def _step(
        self, tokens: Ids, origins: Ids, k: int | None, banned: Sequence[int]
    ) -> tuple[Ids, NDArray[np.floating]]:
        assert self._encoded is not None and self._tables is not None, "start() comes first"
        device = self.model.device
        encoded, products = self._continued(origins)
        self._before_NH = encoded.state.h_LBH[-1]
        features, self._encoded = self.model.decoder.step(
            torch.as_tensor(tokens, device=device), encoded, self._tables, products_BG=products
        )
        self._log_probs_NV = log_probs = log_softmax(self.model.decoder.logits(features))
        if banned:
            log_probs = log_probs.clone()
            log_probs[:, list(banned)] = float("-inf")
        if k is None:
            ids = np.broadcast_to(np.arange(self.vocabulary_size), log_probs.shape)
            return ids, log_probs.cpu().numpy()
        return best(log_probs, min(k, self.vocabulary_size - len(set(banned))))

    def _continued(self, origins: Ids) -> tuple[Encoded, list[Tensor]]:
        """Return the state of the rows ``origins``, and each layer's recurrent matmul if it was computed for it."""
        assert self._encoded is not None and self._tables is not None
        changes, entries = self._entries.follow(origins)
        if not changes:
            return self._encoded, []
        parents, positions = np.unique(origins, return_inverse=True)
        products: list[Tensor] = []
        if len(parents) < len(origins):
            parents_P, positions_N = self._tensor(parents), self._tensor(positions)
            encoded = self._encoded.select_rows(parents_P.index_select(0, positions_N))
            products = self._products(parents_P, positions_N, self._tables)
        else:
            encoded = self._encoded.select_rows(self._tensor(origins))
        if encoded.memory is None or entries is None:
            return encoded, products
        return replace(encoded, memory=encoded.memory.select(self._tensor(entries))), products

    def _products(self, parents_P: Tensor, positions_N: Tensor, tables: Tables) -> list[Tensor]:
        """Return each layer's recurrent matmul for rows that continue the row ``parents_P[positions_N[n]]``.

        It depends on the row that is continued, not on the token that is fed, so it is computed once per parent.
        Hypotheses of a beam have fewer parents than there are hypotheses: by a third at inference time.
        """
        assert self._encoded is not None
        parents = self._encoded.state.select(parents_P)
        layers = zip(tables.step_weights, parents.h_LBH, strict=True)
        products = [recurrent_product(weights, h_BH) for weights, h_BH in layers if weights is not None]
        return [product.index_select(0, positions_N) for product in products]

    def _tensor(self, ids: Ids) -> Tensor:
        return torch.as_tensor(ids, device=self.model.device)

    @torch.inference_mode()
    def log_prob_of(self, tokens: Ids) -> NDArray[np.floating]:
        """Return the log-probability [N] of these tokens under the distributions of the last step."""
        assert self._log_probs_NV is not None, "step() comes first"
        index = torch.as_tensor(tokens, device=self._log_probs_NV.device).unsqueeze(1)
        values: NDArray[np.floating] = self._log_probs_NV.gather(1, index).squeeze(1).cpu().numpy()
        return values

    @torch.inference_mode()
    def attention(self) -> Weights:
        """Return the attention weights [N, S] of the last step, see ``AttendingStepper``."""
        assert self._encoded is not None and self._before_NH is not None, "step() comes first"
        attention, memory = self.model.decoder.attention, self._encoded.memory
        assert attention is not None and memory is not None, "check attends first"
        with Threads(self._threads), products_of_fp32(self.model.device):
            after_1NH = self._encoded.state.h_LBH[-1:]
            weights_NS = attention.weights_along(self._before_NH.unsqueeze(0), after_1NH, memory)[:, 0]
            if self.attends_features and memory.mask_BS is not None:
                weights_NS = _without_gaps(weights_NS, memory.mask_BS)
            values: Weights = weights_NS.float().cpu().numpy()
        return values


def _without_gaps(weights_NS: Tensor, mask_BS: Tensor) -> Tensor:
    """Move each row's padding between tokens and features to its end; N is a multiple of B."""
    order_BS = mask_BS.byte().argsort(dim=1, descending=True, stable=True)
    return weights_NS.gather(1, order_BS.repeat_interleave(len(weights_NS) // len(mask_BS), 0))


def log_softmax(logits: Tensor) -> Tensor:
    """Normalise over the whole vocabulary, in fp32 or higher precision."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def best(values_NV: Tensor, k: int) -> tuple[Ids, NDArray[np.floating]]:
    """Return the k largest values of each row, best first; ties go to the lowest id.

    ``topk`` breaks ties arbitrarily, so rows where the k-th and the next value are equal are sorted in full; they are
    rare, and for k = 1 ``max`` already returns the first.
    """
    if k == 1:
        top, index = values_NV.max(dim=1, keepdim=True)
        return index.cpu().numpy(), top.cpu().numpy()
    extra = min(k + 1, values_NV.shape[1])
    top, index = values_NV.topk(extra, dim=1)
    if bool((top[:, 1:] == top[:, :-1]).any()):
        top, index = values_NV.sort(dim=1, descending=True, stable=True)
    return index[:, :k].cpu().numpy(), top[:, :k].cpu().numpy()
