r"""The network of a Chimera draft head: a trigram encoder, one full-context layer, and a factored head for each depth.

Let ``h_j`` be the target's state that enters its head after tokens 0 .. j, E its frozen embedding table (divided by its
root mean square), and g the gain of its final norm.

.. math::

    u_j &= W_d\, \mathrm{Res}([E(x_{j-2}); E(x_{j-1}); E(x_j)]), \qquad \mathrm{Res}(z) = z + \mathrm{SiLU}(W z + b) \\
    d^{(i)} &= \text{one decoder layer, query } u_{j+1+i},\ \text{which sees } h_{\le j} \text{ and } u_{\le j+1+i} \\
    q^{(i)}(x_{j+2+i}) &= \text{target's head of } g \odot
        \mathrm{rms}(W^h_i\, \mathrm{rms}(h_j / g) + W^d_i\, \mathrm{rms}(d^{(i)}))

Depth i counts the drafted tokens before the one predicted: ``u_{j+2}`` and later ones read the draft's own tokens.

Source: Zeng et al. 2024, "Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by
Fusing all Tokens", arXiv 2402.15758.  Deviations: the paper's heads are full ``2H x V`` matrices, here two ``H x H``
matrices and the target's own frozen head; the frozen embedding is scaled to a root mean square of one; a node deeper
than the trained depths uses the last depth's matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu

from mdsd_bounds.problem import InputError

#: Variant -> (trigram encoder, full-context layer, target's states).
VARIANTS = {
    "full": (True, True, True),
    "context": (False, True, True),
    "trigram": (True, False, False),
    "medusa": (False, False, True),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a head: width H of the target's states, attention heads, trained depths, and the variant.

    Attributes
    ----------
    hidden : int
        H.
    attention_heads : int
        Divides H into parts of even width.
    depths : int
        1 to 4 matrices pairs, one for each drafted token.
    variant : str
        ``full``; ``context``: the token's own embedding in place of the trigram; ``trigram``: ``d = u``, no layer and
        no state of the target; ``medusa``: the state ``h_j`` alone, no drafted token.

    Examples
    --------
    >>> from mdsd_bounds.models.chimera import Shape
    >>> Shape(hidden=64, attention_heads=4, depths=2, variant="full").depths
    2
    """

    hidden: int
    attention_heads: int
    depths: int = 1
    variant: str = "full"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError(f"variant {self.variant!r}: choose {', '.join(VARIANTS)}")
        if not 1 <= self.depths <= 4:
            raise InputError(f"depths {self.depths}: give 1 to 4")
        if self.hidden % (2 * self.attention_heads):
            raise InputError(f"width {self.hidden} does not divide into {self.attention_heads} heads of even width")


class Chimera(nn.Module):
    """The trainable part of a draft head; embedding and head stay the target's.

    Parameters
    ----------
    shape : Shape
        Sizes.
    gain : Tensor
        ``[H]``: the gain g of the target's final norm, ones where it has none.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.models.chimera import Chimera, Shape
    >>> network = Chimera(Shape(8, 2, 2, "full"), torch.ones(8))
    >>> len(network(torch.zeros(1, 5, 8), torch.zeros(1, 5, 8)))
    2
    """

    gain: Tensor

    def __init__(self, shape: Shape, gain: Tensor) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden
        self.has_trigram, self.has_layer, self.has_states = VARIANTS[shape.variant]
        self.has_text = shape.variant != "medusa"
        self.register_buffer("gain", gain.float())
        if self.has_trigram:
            self.mix = nn.Linear(3 * size, 3 * size)
            self.reduce = nn.Linear(3 * size, size, bias=False)
        if self.has_layer:
            self.layer = ContextLayer(size, shape.attention_heads)
        if self.has_states:
            self.from_state = nn.Parameter(torch.empty(shape.depths, size, size))
        if self.has_text:
            self.from_text = nn.Parameter(torch.empty(shape.depths, size, size))
        else:
            self.block = nn.Parameter(torch.zeros(shape.depths, size, size))
        self._begin()

    def _begin(self) -> None:
        """What is residual begins at zero; :mod:`.start` fills in the matrices before the head."""
        size = self.shape.hidden
        eye = torch.eye(size)
        if self.has_trigram:
            nn.init.zeros_(self.mix.weight)
            nn.init.zeros_(self.mix.bias)
            nn.init.normal_(self.reduce.weight, std=0.05 * (3 * size) ** -0.5)
            with torch.no_grad():
                self.reduce.weight[:, 2 * size :] += eye
        for i in range(self.shape.depths):
            if self.has_states:
                with torch.no_grad():
                    self.from_state[i] = eye
            if self.has_text:
                nn.init.normal_(self.from_text[i], std=0.002 if self.has_states else size**-0.5)

    def trigrams(self, embedded: Tensor) -> Tensor:
        """``u_j`` of each place: ``[..., T, H]`` embeddings to ``[..., T, H]``; zeros stand before the text."""
        if not self.has_trigram:
            return embedded
        before = pad(embedded, (0, 0, 2, 0))
        return self.encode(torch.cat([before[..., :-2, :], before[..., 1:-1, :], embedded], -1))

    def encode(self, three: Tensor) -> Tensor:
        """``u`` from three embeddings ``[..., 3H]``, oldest first; the last of them without a trigram encoder."""
        if not self.has_trigram:
            return three[..., 2 * self.shape.hidden :]
        encoded: Tensor = self.reduce(three + silu(self.mix(three)))
        return encoded

    def entering(self, state: Tensor, text: Tensor, depth: int) -> Tensor:
        """What enters the target's head at ``depth``, from ``h_j`` and ``d``, ``[..., H]`` each."""
        i = min(depth, self.shape.depths - 1)
        total = torch.zeros_like(text)
        if self.has_states:
            normed = rms(state / self.gain)
            total = total + normed @ self.from_state[i].T
            if not self.has_text:
                total = total + silu(normed @ self.block[i].T)
        if self.has_text:
            total = total + rms(text) @ self.from_text[i].T
        return self.gain * rms(total)

    def forward(self, embedded: Tensor, states: Tensor, depths: Sequence[int] | None = None) -> Tensor:
        """Depths at every place of texts, in one masked pass.

        Parameters
        ----------
        embedded : Tensor
            ``[B, T, H]``: scaled embeddings of the tokens.
        states : Tensor
            ``[B, T, H]``: ``h_0 .. h_{T-1}``.
        depths : sequence of int or None
            Which depths D; None: all that were trained.

        Returns
        -------
        Tensor
            ``[D, B, T, H]``, what enters the target's head: row a at depth i predicts token a + 1 and reads tokens
            0 .. a and states up to ``a - 1 - i`` alone.
        """
        wanted = range(self.shape.depths) if depths is None else depths
        length = embedded.shape[1]
        u = self.trigrams(embedded)
        before = [pad(states, (0, 0, 1 + i, 0))[:, :length] for i in wanted]
        if not self.has_layer:
            return torch.stack([self.entering(state, u, i) for i, state in zip(wanted, before, strict=True)])
        places = torch.arange(length)
        keys, values = self.layer.both(states, u, places, places)
        sees = torch.cat([torch.cat([_up_to(length, 1 + i), _up_to(length, 0)], 1) for i in wanted])
        d = self.layer(u.repeat(1, len(wanted), 1), places.repeat(len(wanted)), keys, values, sees)
        parts = zip(wanted, before, d.split(length, 1), strict=True)
        return torch.stack([self.entering(state, part, i) for i, state, part in parts])


class ContextLayer(nn.Module):
    """One decoder layer whose keys are the target's states and the draft's trigrams, each with a norm of its own."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        inner = 8 * size // 3
        self.heads = heads
        self.norm_states, self.norm_text, self.norm_inner = (nn.Parameter(torch.ones(size)) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(size, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, size, bias=False)
        for linear in (self.query, self.key, self.value, self.gate, self.up):
            nn.init.normal_(linear.weight, std=size**-0.5)
        for linear in (self.out, self.down):
            nn.init.zeros_(linear.weight)

    def of_states(self, states: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, heads, T, H / heads]`` of the target's states."""
        return self._pair(rms(states) * self.norm_states, places)

    def of_text(self, u: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of trigrams."""
        return self._pair(rms(u) * self.norm_text, places)

    def both(self, states: Tensor, u: Tensor, at: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states, then of trigrams."""
        (first, second), (third, fourth) = self.of_states(states, at), self.of_text(u, places)
        return torch.cat([first, third], 2), torch.cat([second, fourth], 2)

    def forward(self, u: Tensor, places: Tensor, keys: Tensor, values: Tensor, sees: Tensor) -> Tensor:
        """``d`` ``[B, Q, H]`` of queries ``u`` at ``places``; ``sees`` ``[Q, K]`` says which keys each may see."""
        query = turned(self._parts(self.query(rms(u) * self.norm_text)), places)
        mixed = scaled_dot_product_attention(query, keys, values, attn_mask=sees)
        u = u + self.out(mixed.transpose(1, 2).flatten(2))
        inner = rms(u) * self.norm_inner
        result: Tensor = u + self.down(silu(self.gate(inner)) * self.up(inner))
        return result

    def _pair(self, normed: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return turned(self._parts(self.key(normed)), places), self._parts(self.value(normed))

    def _parts(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)


def rms(x: Tensor) -> Tensor:
    """``x`` divided by its root mean square along the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def turned(x: Tensor, places: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of ``[..., T, D]`` at ``places`` ``[T]``, base 10,000."""
    half = x.shape[-1] // 2
    angle = places.to(x.dtype)[:, None] * 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _up_to(length: int, lag: int) -> Tensor:
    """``[T, T]``: place a sees places up to ``a - lag``."""
    return torch.ones(length, length, dtype=torch.bool).tril(-lag)
