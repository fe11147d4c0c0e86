"""Very many pictures through an exported model, to Parquet files that a vector database reads.

    python recipes/export.py runs/face-.../fine-tuned_with_QSD.pkl --out deployed
    python recipes/embed.py deployed/model.onnx ms1m/faces/images.csv --out embedded
    torchrun --nproc_per_node 4 recipes/embed.py deployed/model.onnx ms1m/faces/images.csv --out embedded

Each file holds the paths and embeddings of so many pictures. Processes take turns; a run that was stopped is gone on
with by the same command, and what is in memory at a time is one file of each process.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
@in_one_line
def main(
    model:str,          # An exported model, .onnx or .pt2
    pictures:str,       # A folder, or a table, whose pictures may lie in record files
    out:str='embedded', # Folder of the Parquet files
    rows:int=100_000,   # Pictures a file
    half:bool=False,    # Numbers of 16 bits: half the room, cosines to three digits
    flip:bool=False,    # Add the embedding of the mirror image, as face protocols do? Twice the cost
    device:str='cpu',   # cpu or cuda
    bs:int=64,          # Pictures a batch
    workers:int=4,      # Threads that decode
):
    "Embed all pictures, and say where they are"
    data = list_pictures(pictures) if Path(pictures).is_dir() else read_table(pictures)
    made = embed_to(Embedder(model, device), data, out, rows, processes(), half, bs=bs, workers=workers, flip=flip)
    there,of = len(list(Path(out).glob('part-*.parquet'))),-(-len(data)//rows)
    print(f'{len(data):,} pictures: files made by this process: {len(made)}; {there} of {of} are in {out}')
    return made
