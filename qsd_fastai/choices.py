"A choice among a few: taken, or refused with what there is; and what several rooms choose from"
from difflib import get_close_matches
from numbers import Real

__all__ = ['FILTERS', 'one_of', 'within']

FILTERS = 'bilinear', 'bicubic' # Of Pillow, that bring a picture to its size


def within(
    name:str, # Of the argument
    value,    # That was given
    least,    # That it may be
    most,     # Likewise
): # The same value
    "`ValueError` for what is no number from `least` to `most`"
    if isinstance(value, Real) and least <= value <= most: return value
    raise ValueError(f'{name} is {value!r}. Give a number from {least:g} to {most:g}.')


def one_of(
    name:str,  # Of the argument or option, for the message
    value,     # Given
    *options,  # That there are
):
    "`value`, or a `ValueError` that names the options and the one that was likely meant"
    if value in options: return value
    *most,last = map(str, options)
    near = get_close_matches(str(value), [*most, last], n=1)
    hint = f'Did you mean {near[0]}? ' if near else ''
    raise ValueError(f'{name} is {value!r}. {hint}Use {", ".join(most)} or {last}.')
