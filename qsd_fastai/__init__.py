"Face recognition and person re-identification with quality self-distillation, as a fastai application"
import warnings
from importlib.metadata import version

__version__ = version('qsd_fastai')
# of fastai's own layers, whenever it is imported: nobody who starts a recipe can do anything about it
warnings.filterwarnings('ignore', r'`torch\.jit\.script` is deprecated', FutureWarning)
