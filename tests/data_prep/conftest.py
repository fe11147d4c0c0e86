"The scripts, importable as they are where one of them is run"
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]/'data_prep'), str(HERE)]
