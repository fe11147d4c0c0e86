"Reads back what Weights & Biases wrote to disk: the records of an offline run"
import json
import struct
import time
from pathlib import Path

from PIL import Image
from wandb.proto import wandb_internal_pb2

from qsd_fastai.runs.keys import kind_of


def records(file):
    "The records of a `.wandb` file: a log of blocks of 32 KiB, as LevelDB writes them"
    data = Path(file).read_bytes()
    place,found,part = 7,[],b''
    assert data[:4] == b':W&B'
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _,size,kind = struct.unpack('<IHB', data[place:place + 7])
        part += data[place + 7:place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b''
    return found


class Run:
    "What is in the file of a run"
    def __init__(self, folder):
        self.folder = Path(folder)
        for _ in range(600):  # another process writes it, and on a busy machine it comes late
            self.records = [r for file in self.folder.glob('*.wandb') for r in records(file)]
            if {'run', 'exit'} <= {r.WhichOneof('record_type') for r in self.records}: break
            time.sleep(.1)
        of = lambda kind: [getattr(r, kind) for r in self.records if r.WhichOneof('record_type') == kind]
        self.header = of('run')[0]
        self.exit = [e.exit_code for e in of('exit')]
        self.steps = {m.glob_name: m.step_metric for m in of('metric')}
        self.artifacts = {a.name: a for a in of('artifact')}
        self.summary = {}
        for update in of('summary'):
            for item in update.update:
                self.summary[item.key or '/'.join(item.nested_key)] = json.loads(item.value_json)
        self.config,self.history = {},[]
        for update in (*(r.config for r in of('run')), *of('config')):
            for item in update.update:
                self.config[item.key or '/'.join(item.nested_key)] = json.loads(item.value_json)
        for h in of('history'):
            row = {}
            for item in h.item:
                *parents,key = list(item.nested_key) or [item.key]
                place = row
                for p in parents: place = place.setdefault(p, {})
                place[key] = json.loads(item.value_json)
            self.history.append(row)

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
