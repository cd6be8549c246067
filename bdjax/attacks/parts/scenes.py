"""Pictures that look a little like photographs, drawn from a seed: things of all sizes in front of one another.

Dead leaves, as Lee, Mumford, Huang, Occlusion Models for Natural Images, IJCV 2001,
https://doi.org/10.1023/A:1011109015675, describe them: shapes whose size is distributed as its inverse cube occlude one
another, which gives the edges and the spectrum of natural images.
"""

import numpy as np

KINDS = {
    "street": (False, 0.0, (0.5, 0.48, 0.45), 0.25),
    "garden": (True, np.pi, (0.35, 0.42, 0.25), 0.22),
    "room": (False, 0.3, (0.5, 0.4, 0.3), 0.22),
    "night": (True, np.pi, (0.1, 0.1, 0.14), 0.2),
}
"""What is in a picture of each kind: whether things are round, how far they turn, their mean colour and its spread."""

SHAPES = 60
SMALLEST, LARGEST = 0.06, 0.6
"""How many things there are, and their radii as shares of the picture's side."""


def scenes(seed: np.ndarray, count: int, height: int, width: int, exposure: str) -> np.ndarray:
    """Pictures, uint8 (count, height, width, 3), of all kinds in turn.

    Args:
        seed: uint32 (2,).
        count, height, width: how many pictures, and of how many pixels.
        exposure: `natural`, or `dim` for the brightness and contrast that reflections have on glass.
    """
    random = np.random.RandomState(seed)  # the generator that NumPy promises not to change
    drawn = [scene(random, list(KINDS)[number % len(KINDS)], height, width) for number in range(count)]
    if exposure == "dim":
        drawn = [dimmed(random, picture) for picture in drawn]
    return np.round(np.clip(np.stack(drawn), 0, 1) * 255).astype(np.uint8)


def dimmed(random: np.random.RandomState, picture: np.ndarray) -> np.ndarray:
    """A picture of less than half its contrast about a mean of 0.04 to 0.5, as likely below as above 0.14."""
    return np.exp(random.uniform(np.log(0.04), np.log(0.5))) + 0.45 * (picture - picture.mean())


def scene(random: np.random.RandomState, kind: str, height: int, width: int) -> np.ndarray:
    """One picture of a kind, float64 (height, width, 3), about in [0, 1]: a lit ground and SHAPES things before it."""
    side = max(height, width)
    y, x = (np.arange(height)[:, None] + 0.5) / side, (np.arange(width)[None, :] + 0.5) / side
    colour, spread = np.array(KINDS[kind][2]), KINDS[kind][3]
    picture = colour * (1.5 - y[:, :, None] * np.ones((1, width, 1)))
    for _ in range(SHAPES):
        cover, along = leaf(random, kind, y, x)
        tone = colour + spread * random.normal() + 0.3 * spread * random.normal(size=3)
        if kind == "night" and random.uniform() < 0.1:
            tone = random.uniform(0.5, 1, 3)  # a lamp
        shade = tone * (1 - 0.3 * along[:, :, None])
        picture += cover[:, :, None] * (np.clip(shade, 0, 1) - picture)
    return picture


def leaf(random: np.random.RandomState, kind: str, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One thing: how much of each pixel it covers, (height, width), and where on the thing that is, top -1 to end 1."""
    round_, turn = KINDS[kind][:2]
    ends = SMALLEST**-2.0, LARGEST**-2.0
    radius = random.uniform(ends[1], ends[0]) ** -0.5
    slender, angle = random.uniform(0.5, 1), random.uniform(-turn, turn) / 2
    down, across = y - random.uniform(), x - random.uniform()
    along = (np.cos(angle) * down + np.sin(angle) * across) / radius
    aside = (np.cos(angle) * across - np.sin(angle) * down) / (radius * slender)
    distance = np.hypot(along, aside) if round_ else np.maximum(np.abs(along), np.abs(aside))
    pixels = radius * max(y.size, x.size)
    return np.clip((1 - distance) * pixels + 0.5, 0, 1), np.clip(along, -1, 1)
