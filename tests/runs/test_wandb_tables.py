"What a W&B run shows beside numbers"
from PIL import Image

from qsd_fastai.runs.wandb_tables import table_picture


def test_large_pictures_are_kept_small(tmp_path):
    for size in ((160, 160), (900, 1200)):
        Image.new('RGB', size).save(tmp_path/'a.jpg')
        kept = table_picture(tmp_path/'a.jpg', 'right')
        assert (kept._width, kept._height) == ((160, 160) if size[0] == 160 else (192, 256))
        assert kept._caption == 'right'
        assert kept._path.endswith('.jpg')
