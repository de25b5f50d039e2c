"""Statistics of a sample of encoded images, and of the identities of a dataset."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from arcface.data.duplicates import UNKNOWN, image_hash
from arcface.errors import UserError
from arcface.io.images import SIZE, decode_any_size, mostly_black


@dataclass
class ImageStatistics:
    """What was seen in some images.

    Attributes:
        hashes: the `image_hash` of each image; UNKNOWN where it cannot be read.
        problems: what is wrong with the images that cannot be read or decoded, or are not 112x112.
        sizes: how many images are of each (width, height).
        grey: how many have no colours.
        red, blue: sums of the other images' means of the channel, 0 .. 255.
        redder: how many of these have more red than blue.
        black: the names of images of which over half of the pixels are exactly 0.
    """

    hashes: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    grey: int = 0
    red: float = 0.0
    blue: float = 0.0
    redder: int = 0
    black: list[str] = field(default_factory=list)


def examine_images(indices: Sequence[int], read: Callable[[int], bytes], name: Callable[[int], str]) -> ImageStatistics:
    """Read and decode images; `read` may raise UserError, `name` is for messages."""
    seen = ImageStatistics()
    for index in indices:
        content = UNKNOWN
        try:
            encoded = read(index)
            content = image_hash(encoded)
            image = decode_any_size(encoded, name(index))
        except UserError as error:
            seen.problems.append(str(error))
            continue
        finally:
            seen.hashes.append(content)
        height, width = image.shape[:2]
        seen.sizes[width, height] += 1
        if (width, height) != (SIZE, SIZE):
            seen.problems.append(f"{name(index)}: {width}x{height} pixels, not {SIZE}x{SIZE}; align and crop it first")
        if mostly_black(image):
            seen.black.append(name(index))
        blue, green, red, _ = cv2.mean(image)
        if max(blue, green, red) - min(blue, green, red) < 1:
            seen.grey += 1
        else:
            seen.red += red
            seen.blue += blue
            seen.redder += red > blue
    return seen


def describe_identities(labels: np.ndarray) -> str:
    """Return how many images identities have, given the images' labels, int64 [n]."""
    counts = np.bincount(labels)
    return (
        f"{counts.min():,} to {counts.max():,} images, median {np.median(counts):g};"
        f" identities by number of images: {text_histogram(counts)}"
    )


def text_histogram(counts: np.ndarray) -> str:
    """Return how many of the counts, whole numbers from 1, are 1, 2-3, 4-7 and so on, from the first such range that has any."""
    numbers = np.bincount(np.frexp(counts)[1] - 1)
    ranges = [f"{2**power}-{2 ** (power + 1) - 1}" if power else "1" for power in range(len(numbers))]
    shown = list(zip(ranges, numbers, strict=True))[np.argmax(numbers > 0) :]
    return ", ".join(f"{range_}: {number:,}" for range_, number in shown)


def describe_sizes(seen: ImageStatistics) -> tuple[str, str | None]:
    """Return how many images could be decoded and of which sizes, and what to do if not all are as they should be."""
    decoded = seen.sizes.total()
    sizes = ", ".join(
        f"{width}x{height}" + (f" ({count:,})" if len(seen.sizes) > 1 else "")
        for (width, height), count in seen.sizes.most_common(3)
    )
    more = f" and {len(seen.sizes) - 3} more sizes" if len(seen.sizes) > 3 else ""
    text = f"{decoded:,} of {len(seen.hashes):,} readable" if decoded < len(seen.hashes) else "all readable"
    advice = f"{len(seen.problems):,} wrong, the first: {seen.problems[0]}" if seen.problems else None
    return (f"{text}, {sizes}{more}" if decoded else text), advice


def advise_black(seen: ImageStatistics) -> str | None:
    """Return what to do if images are black to more than half; None if none is."""
    if not seen.black:
        return None
    return (
        f"{len(seen.black):,} of which over half of the pixels are 0, the first: {seen.black[0]}; were they aligned by landmarks in"
        " another order, or of another photo? Align them again, or remove them"
    )


def describe_colours(seen: ImageStatistics) -> tuple[str, str | None]:
    """Return what the colours say about the order of the channels, and what to do if it looks wrong.

    Skin has more red than blue, so have nearly all face crops: 99 % of CelebA's and of LFW's.
    """
    coloured = seen.sizes.total() - seen.grey
    grey = f"; {seen.grey:,} grey" if seen.grey else ""
    if not coloured:
        return "no colours to see" + grey, None
    red, blue, share = seen.red / coloured, seen.blue / coloured, seen.redder / coloured
    text = f"mean red {red:.0f}, blue {blue:.0f}, red above blue in {share:.0%}"
    if red > blue and share > 0.75:
        return f"{text}: RGB, as expected of faces{grey}", None
    if red < blue and share < 0.25:
        return text + grey, "more blue than red: were the images written with their channels in the wrong order? Write them again"
    return f"{text}: does not tell the order of channels{grey}", None
