"""Decoding one token at a time without copies: a cache with room, and attention that reads it."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

CACHE_BLOCK = 16  # tokens that the cache has room for before it is copied; more is slower to shrink


def grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "b H 1 D"],
    key: Float[Tensor, "b K L D"],
    value: Float[Tensor, "b K L D"],
    attention_mask: Bool[Tensor, "b 1 1 L"] | None,
    scaling: float | None = None,
    **_,
) -> tuple[Float[Tensor, "b 1 H D"], None]:
    """transformers' "sdpa" attention for one new token a row, without copies of the cache.

    H/K query heads read the same key head (Ainslie et al. 2023). transformers copies keys and
    values H/K times; here the H/K queries stand in the place of positions: the same result.
    """
    batch, heads, _, width = query.shape
    queries = query.reshape(batch, key.shape[1], -1, width)  # (b, K, H/K, D)
    output = scaled_dot_product_attention(
        queries, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(batch, 1, heads, width), None


AttentionInterface.register("grouped_attention", grouped_attention)
AttentionMaskInterface.register("grouped_attention", sdpa_mask)


@contextmanager
def grouped(model: nn.Module) -> Iterator[None]:
    """A model that uses "sdpa" attends with `grouped_attention` inside the block."""
    before = model.config._attn_implementation
    if before != "sdpa":
        yield
        return
    model.set_attn_implementation("grouped_attention")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def repeated(cache: Cache, group_size: int) -> Cache:
    """The prompts' cache, each row `group_size` times, with room for the tokens to come."""
    cache.batch_repeat_interleave(group_size)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:  # others (a sliding window, say) work in their own way
            cache.layers[number] = RoomyLayer(layer)
    return cache


class RoomyLayer(DynamicLayer):
    """A cache layer with room for tokens to come; transformers' copies itself for every token."""

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._make_room(layer.keys, layer.values, CACHE_BLOCK)

    def _make_room(
        self, keys: Float[Tensor, "b K L D"], values: Float[Tensor, "b K L D"], tokens: int
    ) -> None:
        """Hold copies of keys and values with room for some tokens more."""
        self.rooms = []
        for states in (keys, values):
            rows, heads, length, width = states.shape
            room = states.new_empty(rows, heads, length + tokens, width)
            room[:, :, :length] = states
            self.rooms.append(room)
        self._use(keys.shape[2])

    def _use(self, length: int) -> None:
        self.keys, self.values = (room[:, :, :length] for room in self.rooms)

    def update(
        self, key_states: Float[Tensor, "b K n D"], value_states: Float[Tensor, "b K n D"], *_, **__
    ) -> tuple[Float[Tensor, "b K L D"], Float[Tensor, "b K L D"]]:
        """All keys and values, with the new ones at the end."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            self._make_room(self.keys, self.values, max(CACHE_BLOCK, end - start))
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self._use(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Int[Tensor, " k"]) -> None:
        """Keep these rows only."""
        self.rooms = [room.index_select(0, indices) for room in self.rooms]
        self._use(self.keys.shape[2])
