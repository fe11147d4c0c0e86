"Numbers as they were logged, a row a step: what a run's curves are drawn from, beside W&B or without it"
import numpy as np
import pandas as pd
import torch

__all__ = ['History']


class History:
    "Rows of numbers, kept as columns: a column that a row lacks is NaN there"
    def __init__(self): self.columns,self.n = {},0

    def add(self,
        row:dict, # Name -> number
    ):
        "One more row"
        for k in row: # In their order: a file has the same columns each time
            if k not in self.columns: self.columns[k] = [np.nan]*self.n
        for k,values in self.columns.items(): values.append(float(row.get(k, np.nan)))
        self.n += 1

    def frame(self)->pd.DataFrame:
        "A row a step, a column a name"
        return pd.DataFrame(self.columns)

    def state_dict(self)->dict:
        "Tensors by name"
        return {k: torch.tensor(v, dtype=torch.float64) for k,v in self.columns.items()}

    def load_state_dict(self,
        state:dict, # Of `state_dict`
    ):
        "Go on from there"
        self.columns = {k: v.tolist() for k,v in state.items()}
        self.n = len(next(iter(self.columns.values()), ()))
