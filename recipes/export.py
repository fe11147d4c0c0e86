"""A saved learner to files that run without fastai: ONNX and torch.export, checked against it, with a model card.

    python recipes/export.py runs/face-.../fine-tuned_with_QSD.pkl --out deployed
    python -c "from qsd_fastai.embedder import Embedder; print(Embedder('deployed/model.onnx').embed('pictures'))"

Both files take pixels as they were decoded (uint8, RGB) and normalise them inside; size, filter and the rest stand in
their metadata. Each is loaded again and compared with the learner on `--pictures`, or on those of the run's own
table. Figures for the card come from `results.csv` beside the learner. A learner is a pickle, open your own only; it
holds the names of all who were trained on and the folders of the machine. What is written here holds neither.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
@in_one_line
def main(
    learner:str,        # A learner saved by `learn.export`, as recipes leave it in their folder
    out:str='deployed', # Folder for the files
    pictures:str='',    # Table or folder to check the files on; the labelled table beside the learner when not given
    formats:str='onnx,pt2', # Which files
    flip:bool=False,    # Add the embedding of the mirror image, as face protocols do? Twice the cost
    name:str='model',   # Of the files
):
    "Write the embedding model and its card"
    file,folder = Path(learner),Path(out)
    kinds = [one_of('--formats', kind, 'onnx', 'pt2') for kind in formats.split(',')]
    at = Path(pictures) if pictures else file.parent/'labelled'/'images.csv'
    learn = open_learner(file)
    if not at.exists(): raise FileNotFoundError(f'There is no {at}. Name pictures to check the files on: --pictures.')
    data = list_pictures(at) if at.is_dir() else read_table(at)
    results,run = file.with_name('results.csv'),file.with_name('run.json')
    figures = read_results(results) if results.is_file() else None
    config = read_run(run)['args'] if run.is_file() else None
    for kind in kinds: how = export_embedder(learn, folder/f'{name}.{kind}', data, flip=flip)

    body = (config or {}).get('arch') or body_name(learn.model.body)
    card = model_card(f'{name}.{kinds[0]}', how, body, getattr(data, 'attrs', {}).get('record'), config, figures)
    save_text(card, folder/f'{name}.md')
    print(f'Written: {out}, with the card {name}.md, to be shared without {file.name}: that one holds the names of all '
          f'{len(learn.dls.vocab)} identities and folders of this machine')
