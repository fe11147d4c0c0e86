"What stands in for a W&B run where that is not wanted, or Weights & Biases is not installed"
__all__ = ['NoRun']


class NoRun:
    "Takes what a W&B run takes; only its summary and configuration are kept, in memory"
    offline,disabled = False,True
    url = None

    def __init__(self,
        id:str=None,      # As a run of W&B would have it
        dir='.',          # Of the run; nothing is written there
        config:dict=None, # Of the run
    ):
        self.id,self.dir,self.summary = id or 'untracked',str(dir),{}
        self.config = Config(config or {})

    def log(self,
        row:dict,   # Key -> what is to be logged
        **kwargs,   # As W&B has them
    ): "Passed over"

    def define_metric(self,
        name:str,   # Of keys
        **kwargs,   # As W&B has them
    ): "Passed over"

    def finish(self,
        **kwargs,   # As W&B has them
    ): "Passed over"


class Config(dict):
    "A dict whose `update` takes what that of W&B does"
    def update(self, found, allow_val_change=False): super().update(found)
