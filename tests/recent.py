"What older versions of timm lack"
import pytest
import timm
from packaging.version import Version

# 1.0.29 gives no levels of these, or takes them at their own size alone
BODIES = {'efficientvit_m0', 'visformer_tiny', 'convit_tiny', 'coat_tiny', 'crossvit_tiny_240', 'densenet121'}


def skip_where_it_lacks(
    name, # Of a body of timm
):
    if name in BODIES and Version(timm.__version__) < Version('1.0.30'): pytest.skip(f'timm is {timm.__version__}')
