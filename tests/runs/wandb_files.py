"Offline runs of Weights & Biases as tests look at them, read by `qsd_fastai.runs.offline`"
import json
import time
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from qsd_fastai.runs.keys import kind_of
from qsd_fastai.runs.offline import read_offline


def named(o):
    "Dicts as objects with attributes"
    return json.loads(json.dumps(o), object_hook=lambda d: SimpleNamespace(**d))


class Run:
    "What is in the file of a run"
    def __init__(self, folder):
        self.folder = Path(folder)
        for _ in range(600):  # another process writes it, and on a busy machine it comes late
            try: found = read_offline(self.folder)
            except ValueError: found = None
            if found and found.id and found.exit is not None: break
            time.sleep(.1)
        self.header = SimpleNamespace(**{'project': '', 'run_group': '', 'job_type': '', **found.header})
        self.exit = [] if found.exit is None else [found.exit]
        self.steps,self.summary,self.config,self.history = found.steps,found.summary,found.config,found.history
        self.artifacts = {k: named({'metadata': '{}', 'aliases': [], **o}) for k,o in found.artifacts.items()}

    def check_keys(self):
        "One key, one type: what stands before the slash says what is there"
        types = {'image-file': 'picture', 'table-file': 'table', 'histogram': 'histogram'}
        assert self.history
        for row in self.history:
            for key,value in row.items():
                if key.startswith('_'): continue
                kind = types[value['_type']] if isinstance(value, dict) else 'number'
                assert kind_of(key) == kind, f'{key} holds a {kind}'
                assert kind != 'number' or isinstance(value, (int, float)), key

    def rows(self, key): return [row for row in self.history if key in row]

    def table(self, name):
        "What a logged table holds, and the files that it is made of"
        artifact, = (a for k,a in self.artifacts.items() if name.replace('/', '') in k)
        files = {o.path: Path(o.local_path) for o in artifact.manifest.contents}
        held, = (o for o in files if o.endswith('.table.json'))
        return json.loads(files[held].read_text()),files

    def picture_size(self, logged):
        with Image.open(self.folder/'files'/logged['path']) as img: return img.size


def runs(folder):
    "All offline runs in a folder, oldest first"
    found = Path(folder).glob('wandb/offline-run-*')
    return [Run(o) for o in sorted(found, key=lambda o: o.stat().st_mtime_ns)]
