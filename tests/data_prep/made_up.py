"Made-up sources, and what the tests of several scripts look at"
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def draw(root, *names, size=(12, 24)):
    "Pictures of noise, another one for each place in `names`"
    for i,n in enumerate(names):
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)).save(root/n)


def rows(table): return [tuple(r) for r in table[['path', 'identity', 'camera', 'split']].itertuples(index=False)]


def snapshot(root):
    "Time and content of every file below a folder"
    return {p.relative_to(root): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob('*') if p.is_file()}


def twice(a_set, capsys, root, **kwargs):
    "Run a set two times: the second does nothing; what the first said"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a_set.main(str(root), **kwargs)
        first = capsys.readouterr().out
        assert 'nothing to do' not in first
        assert 'Written' in first
        before = snapshot(Path(root))
        a_set.main(str(root), workers=2, **kwargs)
    assert 'nothing to do' in capsys.readouterr().out
    assert snapshot(Path(root)) == before
    return first
