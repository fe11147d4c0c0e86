"A choice among a few: taken, or refused with what there is; and what several rooms choose from"
from difflib import get_close_matches

__all__ = ['FILTERS', 'one_of']

FILTERS = 'bilinear', 'bicubic' # Of Pillow, that bring a picture to its size


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
