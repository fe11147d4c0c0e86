"What stays with a generated person from picture to picture: build, hair, skin, clothes, bag"
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ['Traits', 'look_alike', 'random_traits']

# few enough colours that several identities share each of them: no single trait tells who it is
CLOTH = ((28, 28, 32), (70, 72, 78), (138, 140, 144), (226, 226, 222), (32, 42, 82), (46, 92, 168), (140, 178, 212),
         (168, 34, 40), (98, 28, 46), (42, 104, 62), (92, 94, 54), (204, 184, 146), (112, 76, 50), (222, 182, 48),
         (214, 136, 162), (98, 64, 128))
TROUSERS = ((26, 26, 30), (38, 48, 82), (84, 110, 148), (96, 96, 100), (190, 172, 136), (96, 72, 52), (84, 88, 60),
            (214, 212, 206))
HAIR = ((24, 20, 20), (60, 40, 28), (110, 76, 44), (184, 146, 86), (140, 138, 136), (128, 56, 30))
SKIN = ((236, 196, 170), (220, 174, 142), (192, 140, 106), (142, 96, 68), (92, 60, 44))
# a word that stands several times is that much more common
STYLE = ('short', 'short', 'short', 'long', 'long', 'bun', 'bald', 'cap')
UPPER = ('t-shirt', 'shirt', 'jacket', 'coat', 'hoodie')
PATTERN = ('plain', 'plain', 'plain', 'horizontal', 'vertical', 'checks', 'print', 'two-tone')
LOWER = ('trousers', 'trousers', 'trousers', 'shorts', 'skirt', 'dress')
BAG = ('none', 'none', 'backpack', 'shoulder bag', 'handbag')


@dataclass(frozen=True)
class Traits:
    "The lasting traits of one identity; colours are RGB, 0 to 255"
    height: float # Of the body, 1 = average
    width: float  # Of the body, 1 = average
    skin: tuple[int, int, int]
    style: str    # Of the hair, one of `STYLE`
    hair: tuple[int, int, int]
    cap: tuple[int, int, int]
    upper: str    # Garment, one of `UPPER`
    upper_colour: tuple[int, int, int]
    pattern: str  # Of the upper garment, one of `PATTERN`
    second_colour: tuple[int, int, int] # Of the pattern, and of what shows under an open jacket
    lower: str    # Garment, one of `LOWER`
    lower_colour: tuple[int, int, int]
    bag: str      # One of `BAG`
    bag_colour: tuple[int, int, int]
    shoes: tuple[int, int, int]


def random_traits(
    rng:np.random.Generator, # Source of all randomness
)->Traits: # A new identity
    "Draw the traits of an identity from the common stock"
    def one(stock): return stock[rng.integers(len(stock))]
    def tint(stock): return tuple(int(c) for c in np.clip(np.array(one(stock)) + rng.normal(0, 5, 3), 8, 245))
    return Traits(
        height=float(rng.uniform(.9, 1.08)), width=float(rng.uniform(.86, 1.25)), skin=tint(SKIN),
        style=one(STYLE), hair=tint(HAIR), cap=tint(CLOTH),
        upper=one(UPPER), upper_colour=tint(CLOTH), pattern=one(PATTERN), second_colour=tint(CLOTH),
        lower=one(LOWER), lower_colour=tint(TROUSERS), bag=one(BAG), bag_colour=tint(CLOTH), shoes=tint(CLOTH))


def look_alike(
    traits:Traits,           # Identity to resemble
    rng:np.random.Generator, # Source of all randomness
    n_changes:int=3,         # Traits drawn anew
)->Traits: # Another identity
    """Another identity that differs from a given one in a few traits only.

    One of them is a colour of its clothes, so that it does differ."""
    fresh = random_traits(rng)
    clothes = ('upper_colour', 'lower_colour', 'shoes')
    first = clothes[rng.integers(len(clothes))]
    others = [f.name for f in fields(Traits) if f.name not in (first, 'cap')]
    names = [first, *rng.choice(others, n_changes - 1, replace=False)]
    return replace(traits, **{name: getattr(fresh, name) for name in names})
