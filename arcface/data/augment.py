"""Random changes of face crops in training, beyond the flip.

Crop, low resolution and photometric are those that AdaFace was trained with, each with a probability of 0.2 there (Kim,
Jain and Liu, CVPR 2022, arXiv:2204.00964); occlusion is Random Erasing (Zhong et al., AAAI 2020, arXiv:1708.04896), in one
colour. Functions take an image as OpenCV has it, uint8 [height, width, 3], BGR, and return another of the same shape; they
leave the one given unchanged. What is random comes from the generator alone.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
GREY = np.array([0.114, 0.587, 0.299])  # how bright blue, green and red are (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """How likely each change is, independently of the others, between 0 and 1. False where none will ever be made."""

    photometric: float = 0.0
    low_resolution: float = 0.0
    crop: float = 0.0
    occlusion: float = 0.0

    def __bool__(self) -> bool:
        return any((self.photometric, self.low_resolution, self.crop, self.occlusion))

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the image with the changes that are drawn; crop and occlusion come last, so that nothing alters their areas."""
        chances = random.random(4)
        if chances[0] < self.photometric:
            image = change_light(image, random)
        if chances[1] < self.low_resolution:
            image = lower_resolution(image, random)
        if chances[2] < self.crop:
            image = crop(image, random)
        if chances[3] < self.occlusion:
            image = occlude(image, random)
        return image


def change_light(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Multiply brightness, contrast and saturation, each by 0.5 to 1.5."""
    brightness, contrast, saturation = random.uniform(0.5, 1.5, 3)
    mean = brightness * GREY @ cv2.mean(image)[:3]
    colours = saturation * np.eye(3) + (1 - saturation) * GREY
    return cv2.transform(image, np.column_stack([brightness * contrast * colours, np.full(3, (1 - contrast) * mean)]))


def lower_resolution(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shrink to 0.2 to 1 of the side length and enlarge again, each by a random interpolation."""
    height, width = image.shape[:2]
    scale = random.uniform(0.2, 1)
    down, up = random.integers(len(INTERPOLATIONS), size=2)
    small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=INTERPOLATIONS[down])
    return cv2.resize(small, (width, height), interpolation=INTERPOLATIONS[up])


def crop(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Keep a rectangle of 0.2 to 1 of the area, in its place, and make the rest black."""
    kept = _rectangle(image, (0.2, 1), (3 / 4, 4 / 3), random)
    result = np.zeros_like(image)
    result[kept] = image[kept]
    return result


def occlude(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Cover a rectangle of 0.02 to 0.3 of the area with one colour."""
    result = image.copy()
    result[_rectangle(image, (0.02, 0.3), (0.3, 1 / 0.3), random)] = random.integers(256, size=3)
    return result


def _rectangle(
    image: np.ndarray, areas: tuple[float, float], aspects: tuple[float, float], random: np.random.Generator
) -> tuple[slice, slice]:
    """Return rows and columns of a random rectangle inside the image: share of the area, and height / width, in the ranges."""
    height, width = image.shape[:2]
    area = random.uniform(*areas) * height * width
    aspect = math.exp(random.uniform(math.log(aspects[0]), math.log(aspects[1])))
    rows = min(height, max(1, round(math.sqrt(area * aspect))))
    columns = min(width, max(1, round(math.sqrt(area / aspect))))
    top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    return slice(top, top + rows), slice(left, left + columns)
