"RGB or BGR: said by the user, the name of the file, the project, the card beside it, or assumed"
import re
from pathlib import Path

from ...choices import one_of

__all__ = ['colour_order']

CARDS = '*.md', '*.json', '*.yaml', '*.yml'
STATED = re.compile(r'(?:colou?r|channel)s?[ _-]?(?:space|order|format|mode)?["\'` ]*[:=]+["\'` ]*(rgb|bgr)\b',
                    re.IGNORECASE)
ABOUT = re.compile(r'input|channel|colou?r|image|picture|order', re.IGNORECASE)
WORD = re.compile(r'(?<![a-z])(rgb|bgr)(?![a-z])', re.IGNORECASE)


def colour_order(
    file,              # Of weights
    channels:str|None, # That the user names
    project,           # `Project` of the weights
)->tuple[str, str]: # Order, and why
    "'rgb' or 'bgr', and what said so"
    if channels is not None:
        one_of('channels', channels, 'rgb', 'bgr')
        return channels, 'as asked for'
    file,known = Path(file),project.channels in ('rgb', 'bgr')
    named = {o.lower() for o in WORD.findall(file.name)}
    if len(named) == 1 and named != {project.channels}: return named.pop(), 'as the name of the file says'
    both = []
    for card in _cards(file):
        said = _said(card, prose=not known)
        if len(said) == 1 and known and said != {project.channels}:
            raise ValueError(f'{file}: {project.name} trains on {project.channels.upper()}, and {card.name} beside it '
                             f"says {said.pop().upper()}. Say which it is: channels='rgb' or channels='bgr'.")
        if len(said) == 1 and not known: return said.pop(), f'as {card.name} beside it says'
        if said: both.append(card.name)
    if known: return project.channels, f'as {project.name} trains'
    if project.channels == 'ask':
        raise ValueError(f"{file}: weights of {project.name}. Say channels='rgb' or channels='bgr': nothing tells.")
    more = f' ({", ".join(both)} beside it has both)' if both else ''
    return 'rgb', f"assumed, for nothing tells{more}; channels='bgr' turns them"


def _cards(file):
    "Cards beside a file, its own first"
    found = [o for pattern in CARDS for o in sorted(file.parent.glob(pattern)) if o.is_file() and o != file]
    return sorted(found, key=lambda o: (o.stem != file.stem, o.name.lower() != 'readme.md'))[:20]


def _said(card, prose=True):
    "The orders that a card names, as `channels: BGR`, or else in a line on pictures"
    try: text = card.read_bytes()[:1_000_000].decode('utf-8', 'replace')
    except OSError: return set()
    if stated := {o.lower() for o in STATED.findall(text)}: return stated
    lines = (line for line in text.splitlines() if ABOUT.search(line)) if prose and card.suffix == '.md' else ()
    return {o.lower() for line in lines for o in WORD.findall(line)}
