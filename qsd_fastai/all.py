"Everything a recipe or a notebook needs: `from qsd_fastai.all import *`"
from fastai.callback.all import *
from fastai.vision.all import *

from .centers import *
from .data.blocks import *
from .data.degradations import *
from .data.labels import *
from .data.loaders import *
from .data.synthetic import *
from .data.table import *
from .data.transforms import *
from .distillation import *
from .evaluation.comparison import *
from .evaluation.metrics import *
from .evaluation.retrieval import *
from .learner import *
from .losses import *
from .models.backbones import *
from .models.checkpoints import *
from .models.heads import *
from .models.layers import *
from .models.recognizer import *
from .plots import *
from .quality import *
from .resume import *
from .schedules import *
from .tracking import *
