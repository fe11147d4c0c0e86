"""What a run leaves behind

folder     Its folder, never written over; `--resume`
wandb_run  Its W&B run, from start to end
tables     Figures and hardest cases, as W&B shows them
"""
