"""A saved learner to files that run without fastai: ONNX and torch.export, checked against it, with a model card.

    python recipes/export.py runs/face-.../fine-tuned_with_QSD.pkl --out deployed
    python -c "from qsd_fastai.embedder import Embedder; print(Embedder('deployed/model.onnx').embed('pictures')[1].shape)"

Both files take pixels as they were decoded (uint8, RGB) and normalise them inside; size, filter and the rest stand in their metadata.
Each is loaded again and compared with the learner on `--pictures`, or on those of the run's own table. Figures for the card come from
`results.csv` beside the learner. A learner is a pickle: open your own only.
"""
import warnings
from pathlib import Path

import pandas as pd
from fastai.learner import load_learner
from fastcore.script import call_parse

from qsd_fastai.data.table import read_table
from qsd_fastai.embedder import list_pictures
from qsd_fastai.export import export_embedder, model_card


@call_parse
def main(
    learner:str,        # A learner saved by `learn.export`, as recipes leave it in their folder
    out:str='deployed', # Folder for the files
    pictures:str='',    # Table (.csv, .parquet) or folder of pictures to check the files on; the labelled table beside the learner when not given
    formats:str='onnx,pt2', # Which files
    flip:bool=False,    # Add the embedding of the mirror image, as face protocols do? Twice the cost
    name:str='model',   # Of the files
):
    "Write the embedding model and its card"
    kinds,file = formats.split(','), Path(learner)
    if set(kinds) - {'onnx', 'pt2'}: raise SystemExit(f'--formats {formats} is unknown. Use onnx, pt2, or onnx,pt2.')
    if not file.is_file(): raise SystemExit(f'There is no learner {file}. A recipe leaves one in its folder, `learn.export(FILE)` saves one.')
    at = Path(pictures) if pictures else file.parent/'labelled'/'images.csv'
    try: data = list_pictures(at) if at.is_dir() else read_table(at)
    except (ValueError, OSError) as e: raise SystemExit(f'{e} Name pictures to check the files on: --pictures.') from e
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*insecure pickle')  # said above instead
        try: learn = load_learner(file)
        except Exception as e: raise SystemExit(f'{file} is no learner of `learn.export` that can be loaded here ({type(e).__name__}: {e}).') from e
    try:
        for kind in kinds: how = export_embedder(learn, Path(out)/f'{name}.{kind}', data, flip=flip)
    except (ValueError, RuntimeError, ImportError) as e: raise SystemExit(f'{type(e).__name__}: {e}') from e
    results,run = file.with_name('results.csv'),file.with_name('run.json')
    figures = pd.read_csv(results, index_col=0).select_dtypes('number') if results.is_file() else None
    config = pd.read_json(run, typ='series').get('args') if run.is_file() else None
    record = getattr(data, 'attrs', {}).get('record')
    body = (config or {}).get('arch') or getattr(learn.model.body, 'pretrained_cfg', {}).get('architecture') or type(learn.model.body).__name__
    (Path(out)/f'{name}.md').write_text(model_card(f'{name}.{kinds[0]}', how, body, record, config, figures), encoding='utf-8')
    print(f'Written: {out}, with the card {name}.md')
