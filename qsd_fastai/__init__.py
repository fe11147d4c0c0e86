"Face recognition and person re-identification with quality self-distillation, as a fastai application"
from importlib.metadata import version

__version__ = version('qsd_fastai')
