"The places that generated cameras look at, painted once per camera, and what each camera does to colour and light"
import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

__all__ = ['SCENES', 'scene_camera']

SCENES = ('corridor', 'street', 'grass', 'shop', 'plaza', 'station')

# height and width of a painted view; one picture shows a part of it
HIGH,WIDE = 300,900


@functools.lru_cache(maxsize=64)
def scene_camera(
    seed:int, # Of the data set
    i:int,    # Which camera; its kind of place is `SCENES[i % 6]`
)->dict: # `scene` painted, `pitch` down in radians, `heading` of its path in degrees, colour, light and noise
    "What stays the same in all the pictures of one camera"
    rng = np.random.default_rng([seed, 1, i])
    kind,warm = SCENES[i % len(SCENES)], rng.normal(0, .09)
    return {'kind': kind, 'pitch': rng.uniform(.05, .42),
            'gain': np.array([1 + warm, 1 + rng.normal(0, .035), 1 - warm]), 'gamma': rng.uniform(.75, 1.35),
            'contrast': rng.uniform(.72, 1.12), 'saturation': rng.uniform(.6, 1.15), 'noise': rng.uniform(1, 6),
            'light': rng.uniform(-1, 1), 'soft': rng.uniform(0, .55), 'heading': rng.uniform(0, 360),
            'scene': _scene(kind, rng)}


def _darker(colour, k): return tuple(min(255, int(v*k)) for v in colour)


class _Place:
    "A view in the making: wall above the horizon, floor below it"
    def __init__(self, rng):
        self.rng,self.img = rng, Image.new('RGB', (WIDE, HIGH))
        self.pen = ImageDraw.Draw(self.img)
        self.horizon = int(rng.uniform(.22, .36)*HIGH)
        self.wall,self.floor = self.tone(120, 215), self.tone(85, 175)
        self.box(0, 0, WIDE, self.horizon, self.wall)
        self.box(0, self.horizon, WIDE, HIGH, self.floor)

    def tone(self, lo, hi, spread=8):
        "A brightness between `lo` and `hi`, slightly coloured"
        return tuple(int(v) for v in np.clip(self.rng.uniform(lo, hi) + self.rng.normal(0, spread, 3), 0, 255))

    def box(self, x1, y1, x2, y2, fill, **kwargs): self.pen.rectangle((x1, y1, x2, y2), fill=fill, **kwargs)

    def rays(self, step, spread, fill, top=None):
        "Lines on the floor that run towards the viewer"
        top = self.horizon if top is None else top
        for x in range(-40*step, 60*step, step):
            self.pen.line([(x, top), (WIDE/2 + (x - WIDE/2)*spread, HIGH)], fill=fill)

    def tiles(self, step, spread, fill):
        self.rays(step, spread, fill)
        for k in range(1, 14):
            y = self.horizon + (HIGH - self.horizon)*(k/14)**1.8
            self.pen.line([(0, y), (WIDE, y)], fill=fill)

    def corridor(self):
        self.tiles(60, 1.8, _darker(self.floor, .86))
        base = self.horizon + int(self.rng.uniform(20, 50))
        self.box(0, 0, WIDE, base, self.wall)
        self.box(0, base - 8, WIDE, base, _darker(self.wall, .6))
        for x in range(int(self.rng.uniform(20, 90)), WIDE, 170):
            door = self.tone(70, 170, 25)
            self.box(x, 0, x + 62, base, door, outline=_darker(door, .6), width=4)
            self.pen.ellipse((x + 50, base//2, x + 56, base//2 + 6), fill=(210, 200, 160))
            self.box(x + 90, 0, x + 130, base//2, self.tone(150, 240, 30), outline=(60, 60, 60))

    def street(self):
        for x in range(0, WIDE, 110):
            self.box(x, 0, x + 110, self.horizon, self.tone(90, 200, 18))
            for k in range(x + 12, x + 108, 32): self.box(k, 8, k + 20, self.horizon - 25, self.tone(30, 110, 10))
        kerb = self.horizon + int(self.rng.uniform(.2, .4)*(HIGH - self.horizon))
        self.box(0, self.horizon, WIDE, kerb, self.tone(60, 100, 4))
        for x in range(0, WIDE, 70): self.box(x, self.horizon + 18, x + 35, self.horizon + 21, (200, 200, 192))
        self.box(0, kerb, WIDE, kerb + 5, self.tone(150, 190, 3))
        self.rays(60, 1.4, _darker(self.floor, .88), kerb + 5)
        for x in self.rng.uniform(0, WIDE, 4): self.car(x, kerb - 4, self.tone(50, 200, 22))

    def car(self, x, y, colour):
        body = ((0, 0), (0, -28), (28, -32), (48, -55), (105, -55), (128, -30), (150, -25), (152, 0))
        glass = ((38, -33), (52, -51), (101, -51), (118, -33))
        for shape,fill in ((body, colour), (glass, _darker(colour, .35))):
            self.pen.polygon([(x + a, y + b) for a,b in shape], fill=fill)
        for k in (28, 120): self.pen.ellipse((x + k - 13, y - 13, x + k + 13, y + 13), fill=(24, 24, 24))

    def grass(self):
        self.box(0, 0, WIDE, self.horizon, self.tone(170, 225, 6))
        lawn = tuple(int(self.rng.uniform(lo, hi)) for lo,hi in ((70, 105), (105, 140), (50, 75)))
        self.box(0, self.horizon, WIDE, HIGH, lawn)
        for x in self.rng.uniform(-20, WIDE, 26):
            r,y,shade = self.rng.uniform(25, 65), self.rng.uniform(0, self.horizon), self.rng.uniform(.5, .95)
            self.pen.ellipse((x - r, y - r, x + r, self.horizon + 12), fill=_darker(lawn, shade))
            if self.rng.random() < .35: self.box(x - 5, y, x + 5, self.horizon + 40, (72, 56, 42))
        for x in range(-40, WIDE, 420):
            path = [(x, self.horizon), (x + 30, self.horizon), (x + 270, HIGH), (x + 30, HIGH)]
            self.pen.polygon(path, fill=self.tone(150, 180, 6))

    def shop(self):
        self.tiles(80, 1.6, _darker(self.floor, .92))
        base = self.horizon + int(self.rng.uniform(50, 90))
        for x in range(0, WIDE, 150):
            self.box(x, 0, x + 146, base, self.tone(60, 120, 10))
            for y in range(6, base - 14, 30):
                for k in range(x + 4, x + 138, 11):
                    top = y + int(self.rng.uniform(0, 9))
                    self.box(k, top, k + 9, y + 24, self.tone(60, 220, 60))
                self.box(x, y + 24, x + 146, y + 28, (215, 215, 210))
        lamp = _darker(self.floor, 1.15)
        for x in self.rng.uniform(0, WIDE, 8): self.pen.ellipse((x - 40, HIGH - 80, x + 40, HIGH - 55), fill=lamp)

    def plaza(self):
        self.tiles(45, 2.2, _darker(self.floor, .82))
        for k in range(6):
            y = self.horizon - 36 + 6*k
            self.box(0, y, WIDE, y + 6, _darker(self.floor, 1.15 - .1*k))
        for x in range(int(self.rng.uniform(0, 80)), WIDE, 210):
            self.box(x, 0, x + 38, self.horizon + 50, _darker(self.wall, .85))
            self.box(x + 24, 0, x + 38, self.horizon + 50, _darker(self.wall, .62))

    def station(self):
        train,base = self.tone(70, 180, 25), self.horizon + 40
        self.box(0, 0, WIDE, base, train)
        self.box(0, base - 14, WIDE, base, (30, 30, 34))
        for x in range(0, WIDE, 64): self.box(x + 6, 10, x + 52, base//2, self.tone(30, 90, 6))
        for x in range(30, WIDE, 256):
            self.box(x, 4, x + 44, base - 14, _darker(train, .75), outline=(40, 40, 40), width=3)
        self.box(0, base + 10, WIDE, base + 22, (214, 178, 48))
        self.rays(50, 1.7, _darker(self.floor, .87), base + 22)


def _scene(kind, rng):
    "A wide painted view of one place, horizon in the upper part, ground below"
    place = _Place(rng)
    getattr(place, kind)()
    pixels = np.asarray(place.img.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    # dirt and uneven light: noise of a few sizes over the whole view
    for step,strength in ((2, 5), (9, 5), (60, 13)):
        cloud = Image.fromarray(rng.normal(size=(HIGH//step + 2, WIDE//step + 2)).astype(np.float32))
        pixels = pixels + strength*np.asarray(cloud.resize((WIDE, HIGH), Image.BICUBIC))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
