"""Cartoon faces: an identity is the shapes and colours of a face, an image adds what varies from photo to photo."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

SIZE = 112  # of an image, in pixels
ZOOM = 2  # it is drawn larger, then averaged down
CENTRE = (56.0, 61.0)  # where the middle of an upright face lies, in pixels
TURN = np.linspace(0, 2 * math.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)  # clockwise from the right, as y points down

Colour = tuple[Any, ...]  # red, green and blue, 0 to 255
Points = np.ndarray | Sequence[tuple[float, float]]  # [n, 2], x and y
Job = tuple[int, int, int, int]

# Few colours, which identities share: a colour alone must not tell who it is.
SKINS = [(247, 217, 194), (236, 194, 160), (219, 169, 128), (190, 135, 96), (150, 100, 68), (108, 72, 52)]
HAIRS = [(35, 28, 26), (70, 45, 30), (150, 95, 50), (205, 165, 95), (160, 70, 35), (165, 160, 155)]
EYES = [(70, 45, 25), (60, 100, 150), (70, 115, 75), (110, 80, 40), (95, 105, 115)]
LIPS = [(185, 95, 90), (160, 70, 75), (205, 120, 115), (150, 85, 75)]


def generator(*key: int) -> np.random.Generator:
    """Return a random generator that depends on nothing but the integers in `key`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def random_identity(rng: np.random.Generator) -> SimpleNamespace:
    """Return what stays the same in all images of one identity. Lengths are in pixels of an upright face."""
    u, choice = rng.uniform, rng.choice
    skin, hair, iris, lips = (
        tuple(np.clip(choice(palette) + rng.normal(0, 7, 3), 5, 250)) for palette in (SKINS, HAIRS, EYES, LIPS)
    )
    width, height = u(29, 38), u(38, 47)
    return SimpleNamespace(
        skin=skin,
        hair=hair,
        iris=iris,
        lips=lips,
        width=width,
        height=height,
        square=u(1.9, 2.9),
        jaw=u(0.02, 0.36),
        chin=u(0, 4.5),
        ear=u(5, 10),
        ear_y=u(-5, 4),
        eye_gap=u(12, 18),
        eye_y=u(-11, -3),
        eye_width=u(4.6, 8),
        eye_height=u(2.6, 5),
        eye_tilt=u(-0.2, 0.2),
        brow_gap=u(6, 11),
        brow_width=u(1.4, 4.4),
        brow_length=u(6, 10),
        brow_rise=u(-0.3, 0.3),
        nose_length=u(12, 22),
        nose_width=u(3.5, 8.5),
        nose_bridge=u(1, 3.5),
        brow_arch=u(0, 3),
        mouth_y=u(0.46, 0.62) * height,
        mouth_width=u(8, 16),
        lip_top=u(1, 3.4),
        lip_bottom=u(1.4, 4.4),
        mouth_curve=u(-2, 3),
        beard=choice(["none"] * 5 + ["moustache", "goatee", "both"]),
        hair_front=choice(["smooth"] * 5 + ["curly", "curly", "spiky", "spiky", "bald"]),
        hair_back=choice(["none", "none", "bob", "long", "bun"]),
        hair_volume=u(1.5, 9),
        hair_line=u(-0.8, -0.4) * height,
        hair_part=u(-8, 8),
        hair_sides=u(-0.45, -0.05) * height,
        hair_temple=u(1.5, 6),
        freckles=u([-0.7, 0], [0.7, 0.4], (choice([0, 0, 0, 0, 14]), 2)),  # shares of width and height
        moles=u([-0.7, -0.1], [0.7, 0.75], (choice([0, 0, 1, 2]), 2)),
    )


def random_shot(rng: np.random.Generator) -> SimpleNamespace:
    """Return what differs between two images of one identity. Angles are in radians, lengths in pixels."""
    n, u = rng.normal, rng.uniform
    return SimpleNamespace(
        yaw=np.clip(n(0, 0.25), -0.55, 0.55),
        pitch=np.clip(n(0, 0.12), -0.26, 0.26),
        roll=np.clip(n(0, 0.1), -0.25, 0.25),
        scale=u(0.93, 1.09),
        shift=n(0, 2, 2),
        mouth_open=max(0, n(0, 3)),
        smile=n(0.5, 1.5),
        brows=n(0, 1.2),
        eyes_open=u(0.5, 1.1),
        cover=rng.choice(["none"] * 7 + ["sunglasses", "hand", "cap"]),
        cover_colour=tuple(u(20, 220, 3)),
        cover_at=u(-1, 1),
        gaze=n(0, 0.2, 2),
        background=u(20, 235, (2, 2, 3)),  # a colour in each corner
        light=u(0, 0.6),
        light_angle=u(0, 2 * math.pi),
        gain=u(0.55, 1.3),
        gamma=u(0.8, 1.25),
        warmth=n(0, 0.09),
        tint=n(0, 0.035),
        colour=u(0.3, 1.15),
        blur=u(0.01, 1.1),
        noise=u(0, 0.03),
        quality=int(u(60, 96)),
    )


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return the RGB colour that is `share` of `other` and the rest of `colour`."""
    return tuple((1 - share) * a + share * b for a, b in zip(colour, other, strict=True))


def dark(colour: Colour, share: float) -> Colour:
    """Return the colour, darker by `share`."""
    return mix(colour, (0, 0, 0), share)


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
    """Return 24 points [24, 2] on an ellipse around (x, y) with radii rx and ry, turned by `tilt` radians."""
    dx, dy, cos, sin = rx * CIRCLE[:, 0], ry * CIRCLE[:, 1], math.cos(tilt), math.sin(tilt)
    return np.array([x + dx * cos - dy * sin, y + dx * sin + dy * cos]).T


def head_outline(p: SimpleNamespace, grow: float = 0.0) -> np.ndarray:
    """Return 64 points [64, 2] around the head, clockwise from its left side over the top."""
    t = np.linspace(math.pi, 3 * math.pi, 64)
    x = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / p.square) * (p.width + grow)
    y = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / p.square) * (p.height + grow)
    below = np.clip(y / p.height, 0, 1)
    return np.stack([x * (1 - p.jaw * below**1.5), y + p.chin * below**4], axis=1)


class Canvas:
    """An RGB image, uint8 [224, 224, 3], drawn on in the face's coordinates: 0 is its middle, y down."""

    def __init__(self, identity: SimpleNamespace, shot: SimpleNamespace):
        self.identity, self.shot = identity, shot
        self.pixels = cv2.resize(shot.background.astype(np.uint8), (SIZE * ZOOM, SIZE * ZOOM))

    def project(self, points: Points, lift: float) -> np.ndarray:
        """Return where points [n, 2] of the face appear in the image: int32 [n, 2], in sixteenths of a pixel.

        `lift` is how far in front of the head's axis they lie: 0 is its outline, 1 its front, more is off the
        face. Turning the head moves the features against the outline, as in a photograph.
        """
        p, s = self.identity, self.shot
        x, y = np.asarray(points, dtype=np.float64).T
        depth = np.sqrt(np.maximum(1 - 0.7 * (x / p.width) ** 2 - 0.5 * (y / p.height) ** 2, 0.05))
        z = lift * p.width * depth
        front = min(max(lift, 0), 1)  # the outline stays as wide: seen from above, a head is nearly round
        x = x * (1 + front * (math.cos(s.yaw) - 1)) + z * math.sin(s.yaw)
        y = y * (1 + front * (math.cos(s.pitch) - 1)) + z * math.sin(s.pitch)
        xy = np.empty((len(x), 2))
        xy[:, 0] = s.scale * (x * math.cos(s.roll) - y * math.sin(s.roll)) + CENTRE[0] + s.shift[0]
        xy[:, 1] = s.scale * (x * math.sin(s.roll) + y * math.cos(s.roll)) + CENTRE[1] + s.shift[1]
        return np.rint(xy * (ZOOM * 16)).astype(np.int32)

    def fill(self, points: Points, colour: Colour, lift: float = 1.0) -> None:
        """Draw an area of one colour, given the points around it."""
        cv2.fillPoly(self.pixels, [self.project(points, lift)], colour, cv2.LINE_AA, shift=4)

    def line(self, points: Points, colour: Colour, width: float, lift: float = 1.0) -> None:
        """Draw a line of so many pixels through the points."""
        width = max(1, round(width * ZOOM * self.shot.scale))
        cv2.polylines(self.pixels, [self.project(points, lift)], False, colour, width, cv2.LINE_AA, shift=4)


def draw_head(canvas: Canvas, p: SimpleNamespace) -> None:
    """Draw long hair or a bun, neck, ears and the skin."""
    shade, w, h = dark(p.hair, 0.2), p.width + p.hair_volume, p.height
    if p.hair_back == "bun":
        canvas.fill(ellipse(0, -h - p.hair_volume, 13, 10), shade, lift=-0.2)
    elif p.hair_back != "none":
        end = 0.55 * h if p.hair_back == "bob" else 2 * h
        canvas.fill([(-w - 4, end), (-w, -0.3 * h), (-0.7 * w, -h), (0.7 * w, -h), (w, -0.3 * h), (w + 4, end)], shade, lift=-0.3)
    canvas.fill([(-16, 0.6 * h), (16, 0.6 * h), (20, 90), (-20, 90)], dark(p.skin, 0.25), lift=-0.1)
    for side in (-1, 1):
        canvas.fill(ellipse(side * p.width, p.ear_y, p.ear * 0.6, p.ear), dark(p.skin, 0.12), lift=-0.1)
    canvas.fill(head_outline(p), p.skin, lift=0)
    for x, y in p.freckles:
        canvas.fill(ellipse(x * p.width, y * h, 0.7, 0.7), dark(p.skin, 0.3))
    for x, y in p.moles:
        canvas.fill(ellipse(x * p.width, y * h, 1.5, 1.5), dark(p.skin, 0.7))


def draw_nose(canvas: Canvas, p: SimpleNamespace, s: SimpleNamespace) -> None:
    """Draw the nose, with a shade on the side that the face is turned from."""
    top, tip, w = p.eye_y + 1, p.eye_y + p.nose_length, p.nose_width
    away = -1 if s.yaw > 0 else 1  # the side that lies in shade
    shade = [(0, top), (away * p.nose_bridge, top), (away * w, tip), (0, tip + 1.5)]
    canvas.fill(shade, dark(p.skin, 0.13), lift=1.1)
    canvas.line(ellipse(0, tip, w, 2.8)[:13], dark(p.skin, 0.42), 1.2, lift=1.2)
    for side in (-1, 1):
        canvas.fill(ellipse(side * w * 0.5, tip + 0.8, 1.4, 0.9), dark(p.skin, 0.6), lift=1.2)


def draw_mouth(canvas: Canvas, p: SimpleNamespace, s: SimpleNamespace) -> None:
    """Draw beard and lips, and teeth in an open mouth."""
    beard, y, w = mix(p.skin, p.hair, 0.8), p.mouth_y, p.mouth_width
    if p.beard in ("goatee", "both"):
        canvas.fill(ellipse(0, y + 9, w * 0.7, 8), beard)
    if p.beard in ("moustache", "both"):
        canvas.fill([(-w, y + 1), (-w * 0.5, y - 5.5), (w * 0.5, y - 5.5), (w, y + 1)], beard)
    t = np.linspace(-1, 1, 13)
    bow = 1 - t**2
    x = t * w * (1 + 0.04 * s.smile)
    middle = y + (p.mouth_curve + s.smile) * (bow - 0.5)
    lower = middle + s.mouth_open * bow

    def fill(above: np.ndarray, below: np.ndarray, colour: Colour) -> None:
        canvas.fill(np.stack([np.append(x, x[::-1]), np.append(above, below[::-1])], axis=1), colour)

    fill(middle - p.lip_top * bow * (1 - 0.3 * np.cos(3 * t)), lower + p.lip_bottom * bow, p.lips)
    fill(middle, lower + 0.8, dark(p.lips, 0.6))
    if s.mouth_open > 2:
        fill(middle, middle + 1.6 * bow, (240, 238, 230))


def draw_eyes(canvas: Canvas, p: SimpleNamespace, s: SimpleNamespace) -> None:
    """Draw the eyes and brows."""
    height, t = p.eye_height * s.eyes_open, np.linspace(-1, 1, 7)
    for side in (-1, 1):
        x, y, tilt = side * p.eye_gap, p.eye_y, side * p.eye_tilt
        canvas.fill(ellipse(x, y, p.eye_width + 1, height + 1, tilt), dark(p.skin, 0.35))
        canvas.fill(ellipse(x, y, p.eye_width, height, tilt), (240, 238, 234))
        at, radius = (x + s.gaze[0] * p.eye_width, y + s.gaze[1] * height), min(3.4, height)
        canvas.fill(ellipse(*at, radius, radius), p.iris)
        canvas.fill(ellipse(*at, radius * 0.5, radius * 0.5), (15, 12, 12))
        canvas.line(ellipse(x, y, p.eye_width + 0.5, height + 0.5, tilt)[12:], dark(p.skin, 0.75), 1.3)
        brow = y - p.brow_gap - s.brows + side * p.brow_rise * p.brow_length * t - p.brow_arch * (1 - t**2)
        canvas.line(np.stack([x + t * p.brow_length, brow], axis=1), dark(p.hair, 0.25), p.brow_width)


def draw_hair(canvas: Canvas, p: SimpleNamespace) -> None:
    """Draw the hair around the forehead, unless it is bald."""
    if p.hair_front == "bald":
        return
    outer = head_outline(p, p.hair_volume)
    outer = outer[outer[:, 1] <= p.hair_sides]
    if p.hair_front == "spiky":
        outer[::2] *= 1.1
    x = np.linspace(outer[-1, 0], outer[0, 0], 24)
    across = np.clip(x / p.width, -1, 1)
    inner = p.hair_line + (outer[0, 1] - p.hair_line) * np.abs(across) ** p.hair_temple
    inner += p.hair_part * across * (1 - across**2)
    canvas.fill(np.concatenate([outer, np.stack([x, inner], axis=1)]), p.hair, lift=0.35)
    if p.hair_front == "curly":
        for cx, cy in outer[::2]:
            canvas.fill(ellipse(cx * 0.97, cy * 0.97, 6, 6), p.hair, lift=0.2)
    elif p.hair_front == "smooth":
        canvas.line(outer[4:-4] * 0.92, mix(p.hair, (255, 255, 255), 0.13), 1, lift=0.3)


def draw_cover(canvas: Canvas, p: SimpleNamespace, s: SimpleNamespace) -> None:
    """Draw what hides a part of the face in this image only."""
    if s.cover == "sunglasses":
        for side in (-1, 1):
            canvas.fill(ellipse(side * p.eye_gap, p.eye_y, 10.5, 7.5), (25, 25, 30), 1.1)
        canvas.line([(-p.width, p.eye_y - 4), (p.width, p.eye_y - 4)], (25, 25, 30), 2, 1.0)
    elif s.cover == "cap":
        dome, brim = head_outline(p, p.hair_volume + 2), -0.48 * p.height
        canvas.fill(dome[dome[:, 1] <= brim + 5], s.cover_colour, 0.3)
        canvas.fill(ellipse(0, brim, p.width + 3, 6), dark(s.cover_colour, 0.3), 0.6)
    elif s.cover == "hand":
        x, y = s.cover_at * p.width * 0.8 - 14, p.height
        for i in range(4):
            canvas.line([(x + 7 * i, y + 20), (x + 8 * i, y - 22 - 4 * (i % 3))], dark(p.skin, 0.06 * i), 6.5)


def photograph(pixels: np.ndarray, s: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [112, 112, 3]: the drawing [224, 224, 3] in this image's light, with blur and noise."""
    image = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    warmth = np.array([[1 + s.warmth], [1 + s.tint], [1 - s.warmth]])
    image = cv2.transform(image, s.gain * warmth * (s.colour * np.eye(3) + (1 - s.colour) / 3))
    ramp = np.linspace(-s.light, s.light, SIZE, dtype=np.float32)
    image *= (1 + ramp * math.cos(s.light_angle) + ramp[:, None] * math.sin(s.light_angle))[..., None]
    image = cv2.GaussianBlur(cv2.pow(np.clip(image, 0, 1), s.gamma), (5, 5), s.blur)
    image += s.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def draw_identity(job: Job) -> list[bytes]:
    """Return the JPEG files of an identity; `job` is (seed, group, identity, images), the key of its draws."""
    seed, group, identity, images = job
    p, jpegs = random_identity(generator(seed, group, identity, 0)), []
    for image in range(images):
        rng = generator(seed, group, identity, 1 + image)  # 0 is the identity; numpy takes a missing word for it
        s = random_shot(rng)
        canvas = Canvas(p, s)
        draw_head(canvas, p)
        draw_nose(canvas, p, s)
        draw_mouth(canvas, p, s)
        draw_eyes(canvas, p, s)
        draw_hair(canvas, p)
        draw_cover(canvas, p, s)
        bgr = photograph(canvas.pixels, s, rng)[..., ::-1]
        jpegs.append(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, s.quality])[1].tobytes())
    return jpegs
