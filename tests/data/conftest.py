"The scripts and the made-up files, importable as they are"
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]/'data_prep'), str(HERE)]
