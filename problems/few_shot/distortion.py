"""Random pictures of a glyph: another pose, stroke and colour in each, all pictures of a batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

OVERSAMPLING = 2  # pictures are drawn at twice their size and averaged down
KNOTS = 5  # of the elastic displacement, a side
CELLS = 4  # of the texture, a side


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How far a glyph is moved: every amount is drawn uniformly from [-amount, amount].

    rotation, shear   radians, and horizontal shift per unit of height
    scale             relative change of size, of width and height apart
    shift, elastic    in half widths of the picture: of the whole glyph, and of each knot of a 5 x 5 grid
    stroke            share of the way from the stroke to one a pixel (of the doubled picture) wider on all sides, or
                      thinner
    margin            half width of the upright glyph in half widths of the picture
    """

    rotation: float
    shear: float
    scale: float
    shift: float
    elastic: float
    stroke: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """How a glyph is coloured, all in units of the range from black to white.

    contrast   least difference between the mean levels of ink and paper, before they are clipped; either may be the
               lighter one
    chroma     largest distance of a channel from the mean level
    gradient   largest change of a channel of the paper from its middle to an edge
    texture    largest amount of a smooth random pattern, of each channel its own, on ink and paper
    noise      standard deviation of each value
    """

    contrast: float
    chroma: float
    gradient: float
    texture: float
    noise: float


def distort(masters: Tensor, pose: Pose, colouring: Colouring | None, *, side: int, rng: torch.Generator) -> Tensor:
    """One random picture of each master: uint8 (n, side, side, C), C = 3 with a colouring, else 1.

    masters   (n, 64, 64) uint8 or float, 0 paper and 255 ink, on the CPU as `rng` is

    Without a colouring ink is white on black. Raises ValueError on masters of another shape.
    """
    if masters.dim() != 3:
        raise ValueError(f"expected masters of shape (n, height, width), got {tuple(masters.shape)}")
    ink = _posed(masters.to(torch.float32).unsqueeze(1) / 255, pose, side, rng)
    picture = ink if colouring is None else _coloured(ink, colouring, rng)
    return (255 * picture).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _uniform(rng: torch.Generator, *shape: int) -> Tensor:
    """Uniform on [-1, 1]."""
    return 2 * torch.rand(shape, generator=rng) - 1


def _posed(masters: Tensor, pose: Pose, side: int, rng: torch.Generator) -> Tensor:
    """Ink of (n, 1, side, side) in [0, 1]."""
    n, fine = len(masters), OVERSAMPLING * side
    bent = pose.elastic * functional.interpolate(
        _uniform(rng, n, 2, KNOTS, KNOTS), (fine, fine), mode="bicubic", align_corners=True
    )
    grid = functional.affine_grid(_matrices(n, pose, rng), [n, 1, fine, fine], align_corners=False)
    ink = functional.grid_sample(masters, grid + bent.permute(0, 2, 3, 1), align_corners=False)
    amount = pose.stroke * _uniform(rng, n, 1, 1, 1)
    wider, thinner = functional.max_pool2d(ink, 3, 1, 1), -functional.max_pool2d(-ink, 3, 1, 1)
    ink = ink + amount.clamp(min=0) * (wider - ink) + amount.clamp(max=0) * (ink - thinner)
    return functional.avg_pool2d(ink, OVERSAMPLING)


def _matrices(n: int, pose: Pose, rng: torch.Generator) -> Tensor:
    """From a place in the picture to one in the master, (n, 2, 3): the inverse of rotate(shear(scale(x))) + shift."""
    angle = pose.rotation * _uniform(rng, n)
    shear = pose.shear * _uniform(rng, n)
    size = pose.margin * (1 + pose.scale * _uniform(rng, n, 2))
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2)
    slant = torch.stack([torch.ones(n), shear, torch.zeros(n), torch.ones(n)], -1).view(n, 2, 2)
    inverse = torch.linalg.inv(rotation @ slant * size.unsqueeze(-2))
    shift = pose.shift * _uniform(rng, n, 2, 1)
    return torch.cat([inverse, -inverse @ shift], -1)


def _coloured(ink: Tensor, colouring: Colouring, rng: torch.Generator) -> Tensor:
    """The ink in one colour on paper of another, (n, 3, side, side)."""
    n, _, side, _ = ink.shape
    gap = colouring.contrast + (1 - colouring.contrast) * torch.rand(n, generator=rng) / 2
    dark = (1 - gap) * torch.rand(n, generator=rng)
    levels = torch.stack([dark, dark + gap], -1)
    levels = torch.where(torch.rand(n, 1, generator=rng) < 0.5, levels, levels.flip(-1))
    tint = _uniform(rng, n, 2, 3)
    colours = levels.unsqueeze(-1) + colouring.chroma * (tint - tint.mean(-1, keepdim=True)) / 2
    inks, paper = colours.clamp(0, 1).view(n, 2, 3, 1, 1).unbind(1)
    ramp = torch.linspace(-1, 1, side)
    slope = colouring.gradient * _uniform(rng, n, 2, 3, 1, 1) / 2
    paper = paper + slope[:, 0] * ramp + slope[:, 1] * ramp.unsqueeze(-1)
    cells = _uniform(rng, n, 3, CELLS, CELLS)
    texture = colouring.texture * functional.interpolate(cells, (side, side), mode="bilinear", align_corners=True)
    noise = colouring.noise * torch.randn(n, 3, side, side, generator=rng)
    return paper + ink * (inks - paper) + texture + noise
